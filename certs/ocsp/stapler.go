package ocsp

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/keyway-edge/keyway/certs"
)

// Stapler asks the responders of the certificates that it is told of and gives
// each its staple. Safe for concurrent use; Run works.
type Stapler struct {
	client *http.Client
	state  certs.SharedState // nil for none
	// wake tells Run of new work, changed tells whoever publishes of a new ruling.
	wake, changed chan struct{}

	mu      sync.Mutex // guards all below
	entries map[string]*entry
	hosts   map[string]*host
}

// entry is one leaf. Its answer is shared by all bundles of that leaf.
type entry struct {
	bundles []*certs.Bundle
	url     string
	at      string // the responder's host in it
	host    *host
	last    answer // the newest good word; der nil for none
	next    time.Time
	failed  int
	why     string // of the last failure
	busy    bool
}

// host is one responder: it is what fails and is spared, not the certificate.
type host struct {
	failed int
	until  time.Time // not asked before
	busy   int
}

// Status is what is known of one certificate.
type Status struct {
	Fingerprint, Serial string
	Responder           string    // URL
	State               string    // "good", "revoked", "unknown" to the responder; "" when nothing is known yet
	Reason              string    // of the revocation
	RevokedAt           time.Time // zero unless revoked
	ThisUpdate          time.Time // of the answer in use
	NextUpdate          time.Time // its end
	NextLook            time.Time // when the responder is asked again
	Failures            int       // since the last answer
	Error               string    // of the last of them
}

const (
	atOnce   = 4 // requests in all
	minRetry = time.Minute
	maxRetry = time.Hour
	maxWait  = 24 * time.Hour // a revocation is seen within a day whatever the responder's rhythm
	deadline = 10 * time.Second
)

// New makes a Stapler that asks through transport, nil for one of its own, and keeps
// answers in state, nil for nowhere.
func New(transport http.RoundTripper, state certs.SharedState) *Stapler {
	if transport == nil {
		transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConns: 2 * atOnce, MaxConnsPerHost: atOnce, IdleConnTimeout: 30 * time.Second,
			TLSHandshakeTimeout: deadline, ResponseHeaderTimeout: deadline, MaxResponseHeaderBytes: 16 << 10, ForceAttemptHTTP2: true,
		}
	}
	return &Stapler{
		client: &http.Client{Transport: transport, Timeout: deadline, CheckRedirect: few}, state: state,
		wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		entries: map[string]*entry{}, hosts: map[string]*host{},
	}
}

var errRedirects = errors.New("the responder redirects more than three times")

func few(_ *http.Request, via []*http.Request) error {
	if len(via) > 3 {
		return errRedirects
	}
	return nil
}

// Changed hints that a ruling is new or was lifted.
func (s *Stapler) Changed() <-chan struct{} { return s.changed }

// Want says which bundles serve, or may soon: all of them, each time. They get
// their staples at once where one is known. Others are forgotten.
func (s *Stapler) Want(bundles []*certs.Bundle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := make(map[string]*entry, len(s.entries))
	for _, b := range bundles {
		if b.Responder() == "" {
			continue
		}
		e := wanted[b.Fingerprint]
		if e == nil {
			if e = s.entries[b.Fingerprint]; e == nil {
				e = &entry{url: b.Responder(), at: hostOf(b.Responder())}
			}
			e.bundles = e.bundles[:0:0]
			wanted[b.Fingerprint] = e
		}
		e.bundles = append(e.bundles, b)
	}
	hosts := make(map[string]*host, len(s.hosts))
	for _, e := range wanted {
		if hosts[e.at] == nil {
			hosts[e.at] = s.hosts[e.at]
		}
		if hosts[e.at] == nil {
			hosts[e.at] = &host{}
		}
		e.host = hosts[e.at]
		e.staple()
	}
	s.entries, s.hosts = wanted, hosts
	hint(s.wake)
}

// staple gives the bundles what there is to show. A revoked certificate shows
// nothing: whoever still serves it has no better one, and knows.
func (e *entry) staple() {
	der := e.last.der
	if e.last.status != ocsp.Good {
		der = nil
	}
	for _, b := range e.bundles {
		b.SetStaple(der)
	}
}

func hint(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Staple is the response that is shown with a leaf of this fingerprint, nil for none.
func (s *Stapler) Staple(fingerprint string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[fingerprint]; e != nil && e.last.status == ocsp.Good {
		return e.last.der
	}
	return nil
}

// Ruling is a certs.Rulings: it condemns what issuers have revoked.
func (s *Stapler) Ruling(fingerprint string) (certs.Ruling, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[fingerprint]
	if e == nil || e.last.status != ocsp.Revoked {
		return certs.Ruling{}, false
	}
	return certs.Ruling{Check: certs.CheckRevoked, Reason: "its issuer says so (OCSP), since " + e.last.revoked.UTC().Format(time.RFC3339) + ": " + e.last.reason}, true
}

// Status tells of one certificate, and false for one that is not wanted or names
// no responder.
func (s *Stapler) Status(fingerprint string) (Status, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[fingerprint]
	if e == nil {
		return Status{}, false
	}
	return e.status(), true
}

// All tells of every certificate that names a responder, by fingerprint in order.
func (s *Stapler) All() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Status, 0, len(s.entries))
	for _, e := range s.entries {
		all = append(all, e.status())
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.Fingerprint, b.Fingerprint) })
	return all
}

func (e *entry) status() Status {
	b := e.bundles[0]
	st := Status{
		Fingerprint: b.Fingerprint, Serial: b.Serial, Responder: e.url, NextLook: latest(e.next, e.host.until), Failures: e.failed, Error: e.why,
	}
	if e.last.der != nil {
		st.State = []string{ocsp.Good: "good", ocsp.Revoked: "revoked", ocsp.Unknown: "unknown"}[e.last.status]
		st.Reason, st.RevokedAt, st.ThisUpdate, st.NextUpdate = e.last.reason, e.last.revoked, e.last.from, e.last.until
	}
	return st
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Run asks responders until ctx ends. The requests under way end with it.
func (s *Stapler) Run(ctx context.Context) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	for {
		due, wait := s.due(time.Now())
		for _, d := range due {
			asking.Go(func() {
				s.look(ctx, d)
				hint(s.wake)
			})
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// job is one question.
type job struct {
	entry  *entry
	bundle *certs.Bundle
	first  bool // nothing is known yet
}

// look asks a responder, unless this node or another did before and that is fresh.
func (s *Stapler) look(ctx context.Context, j job) {
	if j.first {
		if a, ok := s.recall(ctx, j.bundle); ok {
			now := time.Now()
			fresh := a.from.Add(a.until.Sub(a.from)/2).After(now) && now.Sub(a.from) < maxWait
			if s.recalled(j.entry, a, fresh, now); fresh {
				return
			}
		}
	}
	a, err := s.ask(ctx, j.entry, j.bundle)
	if err == nil {
		s.keep(ctx, j.bundle, a)
	}
	s.take(j.entry, a, err, time.Now())
}

// recalled shows what was kept. The responder is not asked when that is fresh.
func (s *Stapler) recalled(e *entry, a answer, fresh bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.last = a
	e.staple()
	if a.status == ocsp.Revoked {
		hint(s.changed)
	}
	if fresh {
		e.busy = false
		e.host.busy--
		e.next = now.Add(interval(a, now))
	}
}

// due answers whom to ask now, marked as busy, and how long nothing else happens.
// It also ends the staples whose time has come.
func (s *Stapler) due(now time.Time) ([]job, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := 0
	for _, h := range s.hosts {
		busy += h.busy
	}
	var due []job
	soonest := now.Add(maxWait)
	for _, e := range s.entries {
		if e.last.der != nil {
			if !e.last.until.After(now) {
				s.end(e)
			} else if e.last.until.Before(soonest) {
				soonest = e.last.until
			}
		}
		at := latest(e.next, e.host.until)
		switch {
		case e.busy || e.host.failed > 0 && e.host.busy > 0 || busy >= atOnce:
			// Whoever is asked now wakes the loop when the answer is there.
		case at.After(now):
			if at.Before(soonest) {
				soonest = at
			}
		default:
			e.busy, busy = true, busy+1
			e.host.busy++
			due = append(due, job{e, e.bundles[0], e.last.der == nil})
		}
	}
	return due, soonest.Sub(now)
}

// end forgets an answer whose time is over. That something was revoked holds until
// a newer answer says otherwise.
func (s *Stapler) end(e *entry) {
	if e.last.status == ocsp.Revoked {
		e.last.until = e.last.until.Add(maxWait)
		return
	}
	e.last = answer{}
	e.staple()
}

var errUnknown = errors.New("the responder does not know the certificate any more")

// take keeps what a responder said, or that it failed.
func (s *Stapler) take(e *entry, a answer, err error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.busy = false
	e.host.busy--
	if err == nil && a.status == ocsp.Unknown && e.last.der != nil && e.last.status != ocsp.Unknown {
		err = errUnknown // the last word that says something holds to its end
	}
	if err != nil {
		e.failed++
		e.why = err.Error()
		if !errors.Is(err, errAway) {
			e.next = now.Add(backoff(e.failed))
			return
		}
		if !now.Before(e.host.until) { // those asked at the same time are one failure
			e.host.failed++
			e.host.until = now.Add(backoff(e.host.failed))
		}
		return
	}
	e.host.failed, e.host.until = 0, time.Time{}
	e.failed, e.why = 0, ""
	e.next = now.Add(interval(a, now))
	if e.last.der != nil && a.from.Before(e.last.from) {
		return // a cache in between lags behind
	}
	was := e.last.status == ocsp.Revoked && e.last.der != nil
	e.last = a
	e.staple()
	if was != (a.status == ocsp.Revoked) {
		hint(s.changed)
	}
}

// interval is how long an answer is good enough: half of its time, give or take a
// tenth, so that those of one moment part.
func interval(a answer, now time.Time) time.Duration {
	half := a.from.Add(a.until.Sub(a.from) / 2).Sub(now)
	if left := a.until.Sub(now) / 2; half < left/2 {
		half = left // what is past its half already is not asked for without end
	}
	half = min(max(half, minRetry), maxWait)
	return half*9/10 + rand.N(half/5+1)
}

// backoff is how long to wait after so many failures: 1 minute doubling to an
// hour, less a random part of up to a quarter.
func backoff(failures int) time.Duration {
	d := min(minRetry<<min(failures-1, 10), maxRetry)
	return d - rand.N(d/4)
}
