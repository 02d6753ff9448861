package edge

import (
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// Documents is where desired state comes from. Current answers the latest
// document that was good as a whole, and the problems of a later one that was
// not; Changed hints that it may answer something new.
type Documents interface {
	Current() (*spec.Document, spec.Problems)
	Changed() <-chan struct{}
}

// Credentials is the broker as the publisher needs it.
type Credentials interface {
	// Resolve makes the references of a plan wanted and waits, while good values
	// come and for as long as ctx allows, until each has a value or a reason for
	// having none.
	Resolve(ctx context.Context, plan secrets.Plan) *secrets.Set
	// Want makes the references of a plan wanted.
	Want(plan secrets.Plan)
	Current() *secrets.Set
	Changed() <-chan struct{}
}

// Recorder keeps what a build changed: ledger, metrics and log.
type Recorder interface {
	Built(s *Snapshot, r *Report)
}

// Publisher owns the current snapshot. Its pointer has one writer: Run.
type Publisher struct {
	current atomic.Pointer[Snapshot]

	builder   *Builder
	documents Documents
	broker    Credentials
	recorder  Recorder
	log       *slog.Logger
	plan      func(*spec.Document) secrets.Plan

	rulings    Rulings                        // nil for none
	revocation Revocation                     // nil for none
	revoked    func(context.Context, Revoked) // nil for nobody
	told       map[string]bool                // fingerprints of revoked versions; of Run
	tripped    chan struct{}                  // what was decided about certificates differs
	orders     chan orderInHand               // of operators

	ready chan struct{} // closed once something was published

	mu   sync.Mutex    // guards next
	next chan struct{} // closed at the next publication
}

// NewPublisher makes a Publisher; Run works. plan names the vaults and references
// that a document needs.
func NewPublisher(b *Builder, d Documents, c Credentials, rec Recorder, plan func(*spec.Document) secrets.Plan, log *slog.Logger) *Publisher {
	return &Publisher{
		builder: b, documents: d, broker: c, recorder: rec, plan: plan, log: log, ready: make(chan struct{}),
		tripped: make(chan struct{}, 1), orders: make(chan orderInHand), next: make(chan struct{}),
	}
}

// Current is the snapshot in force, nil before the first.
func (p *Publisher) Current() *Snapshot { return p.current.Load() }

// Ready is closed once a snapshot is in force.
func (p *Publisher) Ready() <-chan struct{} { return p.ready }

// Await waits until a snapshot is in force that ok accepts, or ctx ends. ok is called
// with the one in force first, and with each after it.
func (p *Publisher) Await(ctx context.Context, ok func(*Snapshot) bool) bool {
	for {
		next := p.published()
		if s := p.current.Load(); s != nil && ok(s) {
			return true
		}
		select {
		case <-next:
		case <-ctx.Done():
			return false
		}
	}
}

// published is closed at the next publication.
func (p *Publisher) published() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next
}

const (
	resolveMost  = time.Minute // how long a new document waits for its secrets at the most
	manyEntities = 2000
	lookAgain    = time.Minute // how often time itself is allowed to change a snapshot
)

// Run is the one loop that builds and publishes. It reacts to seven things, one at a time:
//
//   - the documents changed: what they refer to is asked for beside what is needed now;
//   - the secrets of a new document are there: it is built;
//   - the credentials changed: the same document is built with the new set;
//   - what issuers or replicas say of certificates changed, or one failed its trial;
//   - an operator wants a certificate rolled back or revoked;
//   - a minute passed: certificates may have expired or become valid;
//   - ctx ended.
func (p *Publisher) Run(ctx context.Context) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	var in Inputs
	again := func() {
		if in.Document != nil {
			p.publish(ctx, in)
		}
	}
	var coming arrival
	defer func() { coming.end() }()
	coming = p.load(ctx, in, coming)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.documents.Changed():
			coming = p.load(ctx, in, coming)
		case in.Set = <-coming.set:
			in.Document = coming.document
			coming = arrival{}
			p.take(ctx, in, false)
		case <-p.broker.Changed():
			select {
			case <-p.documents.Changed(): // one build serves both
				coming = p.load(ctx, in, coming)
			default:
			}
			if set := p.broker.Current(); !coming.known && set != in.Set {
				in.Set = set
				again()
			}
		case <-p.statusChanged():
			again()
		case <-p.tripped:
			again()
		case o := <-p.orders:
			p.obey(ctx, in, o)
		case <-tick.C:
			again()
		}
		if coming.known {
			in.Set, in.Document = p.broker.Current(), coming.document
			coming = arrival{}
			p.take(ctx, in, true)
		}
	}
}

// arrival is a new document whose secrets are on their way; zero for none.
type arrival struct {
	document *spec.Document
	set      <-chan *secrets.Set
	cancel   context.CancelFunc
	known    bool // it refers to what the one in force does: nothing was asked for, nor is waited for
}

// end gives an arrival up and waits for its goroutine.
func (a arrival) end() {
	if a.document != nil {
		a.cancel()
		<-a.set
	}
}

// load asks for the secrets of a new document, instead of one that came before and
// was not ready. What is in force goes on meanwhile, and so do its credentials.
func (p *Publisher) load(ctx context.Context, in Inputs, coming arrival) arrival {
	next, _ := p.documents.Current()
	switch {
	case next == nil || next == coming.document:
		return coming
	case coming.document != nil && next.SharesRefs(coming.document):
		coming.document = next // whose secrets are on their way
		return coming
	case coming.document == nil && in.Document != nil && next != in.Document && next.SharesRefs(in.Document):
		return arrival{document: next, known: true}
	}
	if coming.end(); next == in.Document {
		p.broker.Want(p.plan(next))
		return arrival{}
	}
	plan := p.plan(next)
	if in.Document != nil {
		old := p.plan(in.Document)
		plan.Vaults, plan.Refs = slices.Concat(old.Vaults, plan.Vaults), slices.Concat(old.Refs, plan.Refs)
	}
	wait, cancel := context.WithTimeout(ctx, resolveMost)
	set := make(chan *secrets.Set, 1)
	go func() { // its owner is the arrival
		defer cancel()
		set <- p.broker.Resolve(wait, plan)
	}()
	return arrival{document: next, set: set, cancel: cancel}
}

// take publishes a new document. known is one that refers to what the one before did.
func (p *Publisher) take(ctx context.Context, in Inputs, known bool) {
	first := p.current.Load() == nil
	p.publish(ctx, in)
	if !first && !known {
		p.broker.Want(p.plan(in.Document)) // and not what the one before needed
	}
	if in.Document.Fresh() > manyEntities {
		// Reading much takes several times its size for a moment; the next time
		// may be days away, and other processes want the memory.
		debug.FreeOSMemory()
	}
}

// publish builds and, when anything came of it, puts the snapshot in force. It
// answers the one in force then.
func (p *Publisher) publish(ctx context.Context, in Inputs) *Snapshot {
	prev := p.current.Load()
	began := time.Now()
	in.Now, in.Tripped = began, p.Rebuild
	p.ruled(&in)
	next, report := p.builder.Build(prev, in)
	report.Took = time.Since(began)
	if prev != nil && prev.Document == in.Document && prev.Set == in.Set && report.Empty() {
		p.condemn(ctx, prev, prev)
		return prev // time passed and nothing came of it
	}
	p.current.Store(next) // the only Store in the program
	p.mu.Lock()
	close(p.next)
	p.next = make(chan struct{})
	p.mu.Unlock()
	if prev == nil {
		close(p.ready)
	}
	if !next.sameSlots {
		p.keepHolds(prev, next)
		p.condemn(ctx, prev, next)
	}
	p.recorder.Built(next, report)
	say := p.log.Debug // changes of credentials have lines of their own
	if report.NewDoc {
		say = p.log.Info
	}
	say("snapshot published", slog.Uint64("generation", next.Generation), slog.Duration("took", report.Took), slog.Int("problems", len(next.Problems)))
	return next
}
