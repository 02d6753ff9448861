package certs

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"sync/atomic"
	"time"
)

// Tickets keeps the secrets that session tickets are sealed with, turned daily and
// known for 48 hours. Each policy's keys are derived from them, so that policies
// that come and go need no list here, and two with the same rules share their
// sessions.
type Tickets struct {
	ring *ring
}

// NewTickets makes Tickets of this process alone; Run turns them.
func NewTickets() *Tickets { return NewSharedTickets(nil) }

// NewSharedTickets makes Tickets that replicas share through state: a session made
// at one is resumed at another. Until Sync or Run has seen the state, and while it
// is away for longer than a day, they are of this process alone. A nil state is none.
func NewSharedTickets(state SharedState) *Tickets { return &Tickets{newRing(state, "tls/tickets")} }

// Run turns the secrets, and shares them, until ctx ends.
func (t *Tickets) Run(ctx context.Context) error {
	t.ring.run(ctx)
	return nil
}

// Sync reads the replicas' secrets once, which Run does too: before listeners open,
// so that the first sessions are everybody's.
func (t *Tickets) Sync(ctx context.Context) error { return t.ring.sync(ctx) }

// RotateNow replaces the secrets and forgets the old ones: no session made before
// can be resumed, here from now on and at other replicas within half a minute. It is
// for a compromise.
func (t *Tickets) RotateNow() { t.ring.rotateNow() }

// Distrust forgets the secrets from before a time, which is that of a compromise: those
// too that the shared state has, because it was away when it was to be told.
func (t *Tickets) Distrust(before time.Time) { t.ring.distrust(before) }

// Status tells how the secrets do.
func (t *Tickets) Status() RingStatus { return t.ring.status() }

// sealer seals the sessions of one domain: of all policies with the same rules.
type sealer struct {
	tickets *Tickets
	domain  string
	derived atomic.Pointer[derived]
}

// derived is one generation's keys of a domain, in the form that seals tickets.
// Its configuration makes no handshakes.
type derived struct {
	from   *ringView
	config *tls.Config
}

// config answers the keys of this moment. After a turn the first few handshakes
// may derive them side by side, and find the same.
func (s *sealer) config() *tls.Config {
	from := s.tickets.ring.current.Load()
	if d := s.derived.Load(); d != nil && d.from == from {
		return d.config
	}
	keys := make([][32]byte, len(from.keys))
	for i := range from.keys {
		// One block of HKDF-Expand (RFC 5869) with the domain as its info.
		m := hmac.New(sha256.New, from.keys[i].Secret)
		m.Write([]byte("session tickets " + s.domain + "\x01"))
		m.Sum(keys[i][:0])
	}
	c := &tls.Config{}
	c.SetSessionTicketKeys(keys)
	s.derived.Store(&derived{from, c})
	return c
}

func (s *sealer) wrap(cs tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
	return s.config().EncryptTicket(cs, session)
}

// unwrap answers nil for what it cannot open, which means a full handshake.
func (s *sealer) unwrap(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
	return s.config().DecryptTicket(ticket, cs)
}
