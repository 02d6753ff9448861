package edge

import (
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// withRoutesOf is a document that shares all lists with another but its routes.
func withRoutesOf(doc, other *spec.Document) *spec.Document {
	return spec.Join(doc, func(kind string) bool { return kind == "routes" }, func(string) iter.Seq[*spec.Document] { return slices.Values([]*spec.Document{other}) })
}

const certified = `
certificates: [{id: 4f5a5c8e-0000-4000-8000-000000000001, cert: "{vault://env/c}", key: "{vault://env/k}", snis: [one.test]}]
`

// TestADocumentThatRefersToTheSameAsksForNothing has documents that differ in routes alone.
func TestADocumentThatRefersToTheSameAsksForNothing(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("one.test")
	doc := load(t, what("{vault://env/x}")+certified)
	other := load(t, strings.Replace(what("{vault://env/x}"), "/b", "/c", 1)+certified)
	third := load(t, strings.Replace(what("{vault://env/y}"), "/b", "/d", 1)+certified)
	set := func(n int, cert, key string) *secrets.Set {
		return secrets.NewSet(uint64(n), credential(t, "{vault://env/x}", "v", 1), credential(t, "{vault://env/y}", "v", 1), credential(t, "{vault://env/c}", cert, n), credential(t, "{vault://env/k}", key, n))
	}
	publishing(t, func(w *world) { w.doc, w.set = doc, set(1, "", "") }, func(w *world, p *Publisher) {
		first, plans := p.Current(), len(w.plans)
		id := doc.Certificates[0].ID
		hint := func(next *spec.Document) *Snapshot {
			w.doc = next
			w.docHint <- struct{}{}
			synctest.Wait()
			return p.Current()
		}
		s := hint(withRoutesOf(doc, other))
		if s.Document != w.doc || len(w.plans) != plans {
			t.Errorf("in force: %v; %d plans; expected the new document without a plan of its own", s.Document == w.doc, len(w.plans)-plans)
		}
		if !slices.ContainsFunc(s.Document.Routes, func(r *spec.Route) bool { return slices.Contains(r.Paths, "/c") }) || len(first.Problems) == 0 || len(s.Problems) != len(first.Problems) || !s.sameSlots {
			t.Error("the new routes are not in force, or what is wrong with the certificate is not told again")
		}
		w.set = set(2, cert, key)
		w.setHint <- struct{}{}
		synctest.Wait()
		came := p.Current().Slot(id)
		if came == nil || p.Current().sameSlots {
			t.Fatal("a certificate that came is not in force after a document that shares all else")
		}
		if s := hint(withRoutesOf(doc, doc)); s.Document != w.doc || s.Slot(id) != came || !s.sameSlots {
			t.Error("the certificate was looked at again, or does not stay")
		}
		w.set = set(3, cert, key) // comes with a document
		if s := hint(withRoutesOf(doc, other)); s.Set != w.set || s.sameSlots {
			t.Error("with another set of credentials certificates were not looked at")
		}
		// While the secrets of a document are on their way, one that refers to the same takes its place.
		w.stuck = true
		hint(third)
		resolves := w.resolves
		if s := hint(withRoutesOf(third, other)); s.Document == w.doc || w.resolves != resolves {
			t.Errorf("%d more waits for the same secrets", w.resolves-resolves)
		}
	})
}

// TestOneBuildServesADocumentAndCredentials has both come while the publisher is at work.
func TestOneBuildServesADocumentAndCredentials(t *testing.T) {
	doc := load(t, what("{vault://env/x}"))
	other := load(t, strings.Replace(what("{vault://env/x}"), "/b", "/c", 1))
	publishing(t, func(w *world) { w.doc, w.set = doc, secrets.NewSet(1, credential(t, "{vault://env/x}", "v", 1)) }, func(w *world, p *Publisher) {
		for n := range 40 { // of two that wait either may be taken up first
			before := len(w.published)
			w.built = func() {
				w.doc, w.set = withRoutesOf(doc, other), secrets.NewSet(uint64(n+2), credential(t, "{vault://env/x}", "v", n+2))
				w.docHint <- struct{}{}
				w.setHint <- struct{}{}
			}
			w.doc = withRoutesOf(doc, doc)
			w.docHint <- struct{}{}
			synctest.Wait()
			if s := p.Current(); s.Document != w.doc || s.Set != w.set || len(w.published) != before+2 {
				t.Fatalf("%d snapshots for a document and credentials that came together; expected one with both", len(w.published)-before-1)
			}
		}
	})
}
