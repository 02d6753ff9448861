// Package acme has certificates issued by ACME authorities (RFC 8555).
//
// A Source is an issuer: what is fetched from it is what was issued before, never an
// order. Fetch only says what is wanted; Run orders it, renews it in the window that
// the authority suggests (RFC 9773) or with a third of its life left, and hints when
// there is something new. What it knows is in the state that replicas share, under a
// lock for each set of names: one of them orders, all of them serve, and an order that
// a killed node had begun is gone on with.
//
// Names are proved with HTTP-01 or TLS-ALPN-01 (RFC 8737) on the ports of the traffic;
// Challenges answers those from memory. An authority that does not answer is left
// alone as a whole; a name that one refuses climbs a ladder of longer and longer waits.
package acme

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/secrets"
)

// Deps is what issuers need of the node.
type Deps struct {
	State      certs.SharedState
	Challenges *Challenges
	// Lookup answers a reference that stands in the issuer's own config.
	Lookup func(context.Context, secrets.Ref) (secrets.Value, error)
	Events func(secrets.Event) // nil for nobody
	Stats  *Stats              // nil for none
	Log    *slog.Logger
	Holder string        // this node among its replicas
	Settle time.Duration // how long replicas may take to see a challenge; 0 for a node alone
}

const (
	leaseTTL   = 10 * time.Minute
	forgetTime = time.Hour // names that nobody has fetched for so long are not renewed
	parallel   = 4         // attempts at a time
	attemptMax = 8 * time.Minute
	lockTime   = 10 * time.Minute
	lockedWait = 3 * time.Second
	stateTime  = 5 * time.Second
	stateWait  = 15 * time.Second
	sharedLook = 10 * time.Minute // how often what replicas did is looked at
	forceGap   = time.Minute
)

// Source is one issuer. Safe for concurrent use; Run works.
type Source struct {
	cfg         Config
	deps        Deps
	authorities []*authority
	wake        chan struct{}
	changed     chan struct{}

	mu    sync.Mutex // guards items and all in them but the constant fields, and away
	items map[string]*item
	away  time.Time // the shared state is left alone until then
}

// item is a set of names that is wanted.
type item struct {
	key     string
	names   []string
	keyType string

	asked   time.Time
	known   bool // rec is what the shared state has, or had
	rec     record
	version string
	next    time.Time // when to look at it
	busy    bool
	forced  time.Time // a renewal was asked for
	instead string    // serial of the pair that was known then, "" for none
}

// Opener is the secrets.Opener of this type.
func Opener(deps Deps) secrets.Opener {
	return func(config map[string]any) (secrets.Source, error) {
		c, err := Parse(config)
		if err != nil {
			return nil, err
		}
		return New(c, deps), nil
	}
}

// New makes an issuer.
func New(c Config, deps Deps) *Source {
	s := &Source{cfg: c, deps: deps, wake: make(chan struct{}, 1), changed: make(chan struct{}, 1), items: map[string]*item{}}
	for _, d := range c.Directories {
		s.authorities = append(s.authorities, &authority{cfg: d, source: s, limit: &limiter{most: 10, in: 10 * time.Second}})
	}
	return s
}

func (s *Source) random() float64 { return rand.Float64() }

// Changed hints that something was issued, or failed to be.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Fetch answers the pair that was issued for a certificate, or that it is being
// issued. The resource is the certificate's id; the options are names, a comma
// list, and key_type.
func (s *Source) Fetch(ctx context.Context, r secrets.Request) (secrets.Lease, error) {
	names, err := namesOf(r.Options["names"])
	if err != nil {
		return secrets.Lease{}, fmt.Errorf("certificate %s: %w: %w", r.Resource, secrets.ErrNotFound, err)
	}
	it := s.want(names, r.Options["key_type"], r.Force)
	rec, err := s.known(ctx, it)
	if err != nil {
		return secrets.Lease{}, fmt.Errorf("certificate for %s: %w: %w", strings.Join(names, ", "), secrets.ErrUnavailable, err)
	}
	now := time.Now()
	if rec.Cert == "" {
		return secrets.Lease{}, fmt.Errorf("certificate for %s: %w: %s", strings.Join(names, ", "), secrets.ErrNotFound, rec.waiting(now))
	}
	return rec.lease(now)
}

// namesOf reads the names that a certificate is wanted for.
func namesOf(text string) ([]string, error) {
	if text == "" {
		return nil, errors.New("no name is bound to it; give it an SNI")
	}
	names := strings.Split(strings.ToLower(text), ",")
	for i, n := range names {
		names[i] = strings.TrimSuffix(n, ".")
		switch {
		case strings.Contains(n, "*"):
			return nil, fmt.Errorf("%s is a wildcard, which needs the challenge dns-01, and that is not offered; name hosts, or use another issuer", n)
		case net.ParseIP(n) != nil || names[i] == "":
			return nil, fmt.Errorf("%q is no host name", n)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// want notes that a set of names is wanted.
func (s *Source) want(names []string, keyType string, force bool) *item {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, now := recordKey(s.cfg.Name, names, keyType), time.Now()
	it := s.items[key]
	if it == nil {
		it = &item{key: key, names: names, keyType: keyType, next: now}
		s.items[key] = it
		hint(s.wake)
	}
	it.asked = now
	if force && now.Sub(it.forced) >= forceGap {
		it.forced, it.instead, it.next = now, it.rec.Serial, now
		hint(s.wake)
	}
	return it
}

// known answers the record of an item, read once from the shared state; Run keeps
// it up to date.
func (s *Source) known(ctx context.Context, it *item) (record, error) {
	s.mu.Lock()
	rec, known := it.rec, it.known
	s.mu.Unlock()
	if known {
		return rec, nil
	}
	return s.load(ctx, it)
}

// load reads the record of an item from the shared state.
func (s *Source) load(ctx context.Context, it *item) (record, error) {
	ctx, cancel := context.WithTimeout(ctx, stateTime)
	defer cancel()
	rec, version, err := loadRecord(ctx, s.deps.State, it.key)
	if err != nil {
		return record{}, err
	}
	s.adopt(it, rec, version)
	return rec, nil
}

// adopt takes a record as what is known, and hints when that is new.
func (s *Source) adopt(it *item, rec record, version string) {
	s.mu.Lock()
	fresh := it.known && (it.rec.Serial != rec.Serial || it.rec.Failures != rec.Failures)
	it.rec, it.version, it.known = rec, version, true
	s.mu.Unlock()
	if fresh {
		hint(s.changed)
	}
}

// Run orders and renews what is wanted, until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	s.deps.Challenges.join()
	defer s.deps.Challenges.leave()
	s.deps.Stats.began(s)
	defer s.deps.Stats.ended(s)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		timer := time.NewTimer(s.start(ctx, &wg))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// start begins the work that is due, as much as may be done at a time, and answers
// when there is more.
func (s *Source) start(ctx context.Context, wg *sync.WaitGroup) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.away) {
		return s.away.Sub(now) // one that is away would be asked for each set of names
	}
	var due, busy []*item
	wait := forgetTime
	for key, it := range s.items {
		switch {
		case it.busy:
			busy = append(busy, it)
		case now.Sub(it.asked) > forgetTime:
			delete(s.items, key)
		case now.Before(it.next):
			wait = min(wait, it.next.Sub(now))
		default:
			due = append(due, it)
		}
	}
	slices.SortFunc(due, func(a, b *item) int {
		// What serves nobody yet comes first.
		return cmp.Or(cmp.Compare(min(len(a.rec.Cert), 1), min(len(b.rec.Cert), 1)), a.next.Compare(b.next), cmp.Compare(a.key, b.key))
	})
	for _, it := range due {
		if len(busy) >= parallel {
			break
		}
		// Two orders for a name would take the challenges from each other.
		if slices.ContainsFunc(busy, it.overlaps) {
			continue
		}
		it.busy = true
		busy = append(busy, it)
		wg.Go(func() { s.work(ctx, it) })
	}
	return wait
}

func (it *item) overlaps(other *item) bool {
	return slices.ContainsFunc(it.names, func(n string) bool { return slices.Contains(other.names, n) })
}

// work does what is due for one set of names and notes when to come back.
func (s *Source) work(ctx context.Context, it *item) {
	next := time.Now().Add(stateWait)
	defer func() {
		if p := recover(); p != nil {
			s.deps.Log.Error("ordering a certificate panicked", slog.Any("names", it.names)) // the panic's text could hold a key
		}
		s.mu.Lock()
		it.busy, it.next = false, next
		s.mu.Unlock()
		hint(s.wake)
	}()
	next = s.step(ctx, it)
}

// step looks at one set of names, orders if that is due, and answers when to look again.
func (s *Source) step(ctx context.Context, it *item) time.Time {
	rec, err := s.load(ctx, it)
	if err != nil {
		if ctx.Err() == nil {
			s.deps.Log.Warn("the shared state cannot be read: nothing is ordered", slog.Any("names", it.names), slog.Any("error", err))
		}
		return s.spareState()
	}
	due, at := s.due(it, &rec, time.Now())
	if !due {
		return s.askARI(ctx, it, &rec, at)
	}
	ctx, cancel := context.WithTimeout(ctx, attemptMax)
	defer cancel()
	lock, err := certs.Lock(ctx, s.deps.State, lockKey(s.cfg.Name, it.names), s.deps.Holder, lockTime)
	if err != nil {
		if !errors.Is(err, certs.ErrHeld) {
			if ctx.Err() == nil {
				s.deps.Log.Warn("the shared state cannot be written: nothing is ordered", slog.Any("names", it.names), slog.Any("error", err))
			}
			return s.spareState()
		}
		s.deps.Challenges.expect()
		return time.Now().Add(scale(lockedWait, 1+rand.Float64()))
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stateTime)
		defer cancel()
		if err := lock.Release(last); err != nil {
			s.deps.Log.Warn("the lock of an order stays until it ends by itself", slog.Any("names", it.names), slog.Any("error", err))
		}
	}()
	// Another replica may have been here before the lock.
	if rec, err = s.load(ctx, it); err != nil {
		return time.Now().Add(stateWait)
	}
	if due, at = s.due(it, &rec, time.Now()); !due {
		return at
	}
	return s.issue(ctx, it, rec)
}

// spareState leaves a shared state that is away alone, for all names, and answers until
// when.
func (s *Source) spareState() time.Time {
	until := time.Now().Add(scale(stateWait, 1+rand.Float64()/2))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = until
	return until
}

// due says whether a set of names needs an order now, and if not, when to look again.
func (s *Source) due(it *item, rec *record, now time.Time) (bool, time.Time) {
	if s.insists(it, rec) {
		return true, now // by hand: whatever was planned
	}
	if rec.Failures > 0 && !slices.Contains(rec.Setups, s.cfg.print()) {
		return true, now // what failed may have been repaired
	}
	at := s.planned(rec)
	if !now.Before(at) {
		return true, now
	}
	if look := now.Add(scale(sharedLook, 0.9+rand.Float64()/5)); look.Before(at) {
		at = look
	}
	return false, at
}

// insists says that a renewal was asked for, and neither tried since nor, at a replica,
// done before this node heard of it.
func (s *Source) insists(it *item, rec *record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return rec.Tried.Before(it.forced) && (it.instead == "" || it.instead == rec.Serial)
}

// configured says whether a directory is still one of the issuer's.
func (s *Source) configured(url string) bool {
	return slices.ContainsFunc(s.authorities, func(a *authority) bool { return a.cfg.URL == url })
}

// issue makes one attempt under the lock, keeps what came of it and answers when to
// look again.
func (s *Source) issue(ctx context.Context, it *item, rec record) time.Time {
	began := time.Now()
	forced := s.insists(it, &rec)
	if forced || !slices.Contains(rec.Setups, s.cfg.print()) {
		rec.Spared = nil // whatever was planned
	}
	rec.Names, rec.KeyType, rec.Tried = it.names, it.keyType, began
	j := &job{s: s, rec: &rec}
	j.save = func(ctx context.Context) error {
		version, err := saveRecord(ctx, s.deps.State, it.key, s.versionOf(it), rec)
		if err != nil {
			return fmt.Errorf("%w: %w", errState, err)
		}
		s.adopt(it, rec, version)
		return nil
	}
	o := j.attempt(ctx)
	if o.err != nil && (errors.Is(o.err, context.Canceled) || errors.Is(o.err, errState)) {
		return time.Now().Add(stateWait) // it was stopped; the order is gone on with
	}
	if o.err != nil {
		rec.failed(o, s.cfg.print(), time.Now(), rand.Float64())
		if forced {
			rec.RenewAt = began // whoever asked by hand, perhaps after a compromise, still wants it
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stateTime)
	defer cancel()
	if err := s.keep(last, it, j); err != nil {
		s.deps.Log.Error("what was issued could not be kept", slog.Any("names", it.names), slog.Any("error", err))
		return time.Now().Add(stateWait)
	}
	s.report(&rec, o.err, time.Since(began))
	if o.err != nil {
		return rec.Next
	}
	return time.Now()
}

// keep saves the end of an attempt, over a version that somebody else has written
// meanwhile if what is to be kept is a pair: it must not be lost.
func (s *Source) keep(ctx context.Context, it *item, j *job) error {
	for range 3 {
		err := j.save(ctx)
		if !errors.Is(err, certs.ErrConflict) {
			return err
		}
		theirs, version, err := loadRecord(ctx, s.deps.State, it.key)
		if err != nil {
			return err
		}
		if theirs.Issued.After(j.rec.Issued) {
			s.adopt(it, theirs, version)
			return nil
		}
		s.mu.Lock()
		it.version = version
		s.mu.Unlock()
	}
	return certs.ErrConflict
}

func (s *Source) versionOf(it *item) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return it.version
}

// report tells how an attempt ended.
func (s *Source) report(rec *record, err error, took time.Duration) {
	e := secrets.Event{Kind: "certificate", Subject: rec.Names[0], Source: "issuer." + s.cfg.Name, Result: "issued", Actor: "acme", Origin: rec.OrderURL, Took: took}
	if err != nil {
		e.Result, e.Reason, e.Origin = "not issued", rec.Why, ""
		s.deps.Log.Warn("a certificate was not issued", slog.Any("names", rec.Names), slog.String("reason", rec.Why), slog.Int("failures", rec.Failures), slog.Time("next", rec.Next))
	} else {
		s.deps.Log.Info("a certificate was issued", slog.Any("names", rec.Names), slog.String("serial", rec.Serial), slog.Time("not_after", rec.NotAfter), slog.Duration("took", took))
	}
	s.deps.Stats.count(s, err == nil)
	if s.deps.Events != nil {
		s.deps.Events(e)
	}
}

// askARI asks the authority, where that is due, when to renew, and answers when to
// look again. A suggestion that cannot be had changes nothing.
func (s *Source) askARI(ctx context.Context, it *item, rec *record, at time.Time) time.Time {
	now := time.Now()
	i := slices.IndexFunc(s.authorities, func(a *authority) bool { return a.cfg.URL == rec.Directory })
	if rec.Cert == "" || i < 0 || now.Before(rec.AskARI) {
		return at
	}
	ask, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	w, after, err := s.authorities[i].suggestion(ask, rec.CertID)
	if err != nil {
		s.deps.Log.Debug("no renewal information", slog.Any("names", it.names), slog.Any("error", err))
	}
	rec.AskARI = now.Add(scale(after, 1+rand.Float64()/10))
	if w != nil && (rec.Window == nil || !w.Start.Equal(rec.Window.Start) || !w.End.Equal(rec.Window.End)) {
		rec.Window = w
		rec.RenewAt = renewal(rec.NotBefore, rec.NotAfter, s.cfg.RenewBefore, w, s.random())
	}
	version, err := saveRecord(ctx, s.deps.State, it.key, s.versionOf(it), *rec)
	if err != nil {
		return now.Add(scale(stateWait, 1+rand.Float64())) // a replica was here first, or the state is away
	}
	s.adopt(it, *rec, version)
	if rec.RenewAt.Before(at) {
		return rec.RenewAt
	}
	return at
}
