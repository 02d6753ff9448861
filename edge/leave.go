package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// leaveWithin is how long the requests in flight on a connection may take whose
// certificate was revoked.
const leaveWithin = 10 * time.Second

// revokedSet is the fingerprints that connections must not have been shown.
type revokedSet struct {
	set atomic.Pointer[map[string]bool]
}

func (r *revokedSet) add(fingerprints []string) {
	next := map[string]bool{}
	if old := r.set.Load(); old != nil {
		maps.Copy(next, *old)
	}
	for _, f := range fingerprints {
		next[f] = true
	}
	r.set.Store(&next)
}

// has says whether a connection was shown one of them. A resumed one was shown
// nothing: its session may be of any version that its name had by then.
func (r *revokedSet) has(f *tlsFacts) bool {
	set := r.set.Load()
	switch {
	case set == nil:
		return false
	case f.bundle != nil && !f.resumed:
		return (*set)[f.bundle.Fingerprint]
	case f.slot == nil:
		return false
	}
	for _, b := range f.slot.Active {
		if (*set)[b.Fingerprint] {
			return true
		}
	}
	for _, v := range f.slot.History(time.Time{}) {
		if v.Number > 0 && (*set)[v.Fingerprint] {
			return true
		}
	}
	return false
}

// Leave ends the connections that were shown a certificate with one of these
// fingerprints, and those of resumed sessions of its names: HTTP/1.1 after the
// response in flight, HTTP/2 with GOAWAY, and all that are left after 10 seconds, or
// when ctx ends, at once. It returns at once and may be called by one goroutine, between Listen and the
// end of Run.
func (s *Server) Leave(ctx context.Context, fingerprints []string) {
	s.revoked.add(fingerprints)
	match := func(c *exchange.Conn) bool {
		ci, ok := c.Policy.(*connInfo)
		return ok && ci.tls != nil && s.revoked.has(ci.tls)
	}
	s.mu.Lock() // against the end of Run, which waits for what is counted in
	defer s.mu.Unlock()
	if len(s.conns) == 0 && (len(s.side) == 0 || s.draining) {
		return
	}
	ctx, end := context.WithTimeout(ctx, leaveWithin)
	s.wg.Go(func() {
		defer end()
		s.usher(ctx, match, s.leavers)
	})
}

// farewells is how long an HTTP/2 engine may take for one round of goodbyes. It waits for
// the connections to end; others come from their handshakes meanwhile.
const farewells = 1500 * time.Millisecond

// usher has connections end after their requests in flight, those too that an engine
// is only about to get, and cuts the ones that have not when ctx ends. left are those that are
// still there.
func (s *Server) usher(ctx context.Context, match func(*exchange.Conn) bool, left func() []*trackedConn) {
	var http2 sync.WaitGroup
	defer http2.Wait()
	over, end := context.WithCancel(ctx)
	defer end()
	http2.Go(func() {
		for over.Err() == nil {
			round, done := context.WithTimeout(over, farewells)
			s.HTTP2.Leave(round, match)
			done()
			pause(over, 100*time.Millisecond)
		}
	})
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		s.HTTP1.Leave(ctx, match)
		if s.HTTP3 != nil {
			s.HTTP3.Leave(ctx, match)
		}
		list := left()
		if len(list) == 0 {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			for _, c := range list {
				_ = c.Close()
			}
			return
		}
	}
}

// tried counts how a handshake went for the version that it showed. Only what a
// client says of the certificate speaks against it, and each client once, since saying
// so costs it nothing; a resumed handshake shows none.
func (f *tlsFacts) tried(peer netip.Addr, state *tls.ConnectionState, err error) {
	if f.slot == nil || f.slot.Trial == nil || f.bundle == nil {
		return
	}
	switch {
	case state != nil && !state.DidResume:
		f.slot.Trial.Good()
	case err != nil && blamesCertificate(err):
		f.slot.Trial.BadFrom(peer)
	}
}

// blamesCertificate says that a client ended a handshake with an alert about the
// certificate (RFC 8446, section 6.2). crypto/tls keeps the alert's type to itself.
func blamesCertificate(err error) bool {
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" || remote.Err == nil {
		return false
	}
	switch remote.Err.Error() {
	case "tls: bad certificate", "tls: unsupported certificate", "tls: revoked certificate", "tls: expired certificate",
		"tls: unknown certificate", "tls: unknown certificate authority":
		return true
	}
	return false
}
