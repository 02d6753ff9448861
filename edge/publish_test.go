package edge

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// world is a fake of everything that the publisher listens to and tells.
type world struct {
	t         testing.TB
	doc       *spec.Document
	problems  spec.Problems
	docHint   chan struct{}
	set       *secrets.Set
	setHint   chan struct{}
	resolves  int
	stuck     bool // Resolve waits for as long as it may
	plans     []secrets.Plan
	published []*Snapshot
	reports   []*Report
	built     func() // is called by Built once, nil for nothing
}

func (w *world) Current() (*spec.Document, spec.Problems) { return w.doc, w.problems }
func (w *world) Changed() <-chan struct{}                 { return w.docHint }
func (w *world) Built(s *Snapshot, r *Report) {
	w.published, w.reports = append(w.published, s), append(w.reports, r)
	if f := w.built; f != nil {
		w.built = nil
		f()
	}
}

// broker is the world's other half: both halves have a Current and a Changed.
type broker struct{ *world }

func (b broker) Resolve(ctx context.Context, p secrets.Plan) *secrets.Set {
	b.resolves++
	b.plans = append(b.plans, p)
	if b.stuck {
		if _, bounded := ctx.Deadline(); !bounded {
			b.t.Error("Resolve may wait for ever")
		}
		<-ctx.Done()
	}
	return b.set
}
func (b broker) Want(p secrets.Plan)      { b.plans = append(b.plans, p) }
func (b broker) Current() *secrets.Set    { return b.set }
func (b broker) Changed() <-chan struct{} { return b.setHint }

// publishing runs f beside a publisher in a bubble of fake time.
func publishing(t *testing.T, prepare func(*world), f func(*world, *Publisher)) {
	t.Helper()
	b := newBuilder(t, &Config{})
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, docHint: make(chan struct{}, 1), setHint: make(chan struct{}, 1)}
		prepare(w)
		plan := func(d *spec.Document) secrets.Plan {
			p := secrets.Plan{}
			for r := range d.Refs() {
				p.Refs = append(p.Refs, r)
			}
			return p
		}
		p := NewPublisher(b, w, broker{w}, w, plan, slog.New(slog.DiscardHandler))
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		synctest.Wait()
		f(w, p)
		end()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestPublisherWaitsForADocument(t *testing.T) {
	doc := load(t, what("{vault://env/x}"))
	publishing(t, func(*world) {}, func(w *world, p *Publisher) {
		w.setHint <- struct{}{}
		synctest.Wait()
		if p.Current() != nil || len(w.published) != 0 {
			t.Fatal("there is nothing to publish before the first document")
		}
		select {
		case <-p.Ready():
			t.Fatal("ready without a snapshot")
		default:
		}
		w.doc, w.set = doc, secrets.NewSet(1, credential(t, "{vault://env/x}", "v", 1))
		w.docHint <- struct{}{}
		synctest.Wait()
		<-p.Ready()
		if len(w.published) != 1 || p.Current() != w.published[0] || p.Current().Set != w.set {
			t.Fatalf("published %d snapshots", len(w.published))
		}
		if len(w.plans) != 1 || len(w.plans[0].Refs) != 1 || w.plans[0].Refs[0].String() != "{vault://env/x}" {
			t.Errorf("plans %+v", w.plans)
		}
	})
}

func TestPublisherIsLevelTriggered(t *testing.T) {
	doc, next := load(t, what("fine")), load(t, strings.Replace(what("fine"), "/b", "/c", 1))
	publishing(t, func(w *world) { w.doc = doc }, func(w *world, p *Publisher) {
		first := p.Current()
		for range 3 { // hints that bring nothing
			w.docHint <- struct{}{}
			synctest.Wait()
			w.setHint <- struct{}{}
			synctest.Wait()
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if p.Current() != first || len(w.published) != 1 || w.resolves != 1 {
			t.Errorf("nothing changed, and %d snapshots were published, %d resolves made", len(w.published), w.resolves)
		}
		w.problems = spec.Problems{{Message: "a later document is bad"}}
		w.docHint <- struct{}{}
		synctest.Wait()
		if p.Current() != first {
			t.Error("a bad document must change nothing")
		}
		w.doc, w.problems = next, nil
		w.docHint <- struct{}{}
		synctest.Wait()
		if s := p.Current(); s == first || s.Document != next || s.Generation != 2 {
			t.Errorf("the new document is not in force")
		}
	})
}

func TestPublisherTakesNewCredentialsAndTime(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("one.test")
	doc := load(t, "certificates: [{id: 4f5a5c8e-0000-4000-8000-000000000001, cert: \"{vault://env/c}\", key: \"{vault://env/k}\", snis: [one.test]}]")
	// The bubble's clock starts in the year 2000: what is issued now is not valid
	// there yet, and is taken with a warning since nothing else serves the name.
	publishing(t, func(w *world) {
		w.doc = doc
		w.set = secrets.NewSet(1, credential(t, "{vault://env/c}", "", 0), credential(t, "{vault://env/k}", "", 0))
	}, func(w *world, p *Publisher) {
		if s := p.Current(); s == nil || s.Slot(doc.Certificates[0].ID) != nil || len(s.Problems) != 1 {
			t.Fatal("a certificate without value must be listed and nothing more")
		}
		w.set = secrets.NewSet(2, credential(t, "{vault://env/c}", cert, 1), credential(t, "{vault://env/k}", key, 1))
		w.setHint <- struct{}{}
		synctest.Wait()
		if s := p.Current(); s.Generation != 2 || s.Slot(doc.Certificates[0].ID) == nil {
			t.Fatal("the credentials came and nothing was published")
		}
		if w.resolves != 1 {
			t.Error("new values of known references need no new plan")
		}
	})
}

func TestPublisherBoundsTheWaitForSecrets(t *testing.T) {
	doc := load(t, what("{vault://env/x}"))
	publishing(t, func(w *world) { w.doc, w.stuck = doc, true }, func(w *world, p *Publisher) {
		if p.Current() != nil {
			t.Fatal("the secrets may still come")
		}
		time.Sleep(resolveMost)
		synctest.Wait()
		s := p.Current()
		if s == nil {
			t.Fatal("a source that hangs must not keep a document from being served for ever")
		}
		if bound(t, s, "a").Closed == nil || bound(t, s, "b").Closed != nil {
			t.Error("what needs the secret is closed, and nothing else")
		}
	})
}

func TestPublisherServesOnWhileADocumentWaits(t *testing.T) {
	doc, next := load(t, what("{vault://env/x}")), load(t, strings.Replace(what("{vault://env/y}"), "/b", "/c", 1))
	publishing(t, func(w *world) {
		w.doc, w.set = doc, secrets.NewSet(1, credential(t, "{vault://env/x}", "one", 1))
	}, func(w *world, p *Publisher) {
		w.doc, w.stuck = next, true
		w.docHint <- struct{}{}
		synctest.Wait()
		if s := p.Current(); s.Document != doc {
			t.Fatal("the new document is in force without its secrets")
		}
		if refs := w.plans[len(w.plans)-1].Refs; len(refs) != 2 {
			t.Errorf("wanted %v, expected what both documents need", refs)
		}
		w.set = secrets.NewSet(2, credential(t, "{vault://env/x}", "two", 2))
		w.setHint <- struct{}{}
		synctest.Wait()
		if s := p.Current(); s.Document != doc || s.Set != w.set {
			t.Error("a credential changed while a document waits, and is not in force")
		}
		w.docHint <- struct{}{} // a hint that brings nothing must not begin anew
		synctest.Wait()
		if w.resolves != 2 {
			t.Errorf("%d resolves, want 2", w.resolves)
		}
		time.Sleep(resolveMost)
		synctest.Wait()
		if s := p.Current(); s.Document != next {
			t.Error("the new document is not in force")
		}
		if refs := w.plans[len(w.plans)-1].Refs; len(refs) != 1 || refs[0].String() != "{vault://env/y}" {
			t.Errorf("wanted %v, expected what the new document needs", refs)
		}
		w.doc, w.stuck = doc, true
		w.docHint <- struct{}{}
		synctest.Wait()
		w.doc = next // taken back before its secrets came
		w.docHint <- struct{}{}
		synctest.Wait()
		if refs := w.plans[len(w.plans)-1].Refs; len(refs) != 1 {
			t.Errorf("wanted %v, expected what the document in force needs", refs)
		}
		time.Sleep(2 * resolveMost)
		if p.Current().Document != next {
			t.Error("a document that was taken back is in force")
		}
	})
}
