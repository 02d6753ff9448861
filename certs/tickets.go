package certs

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"sync"
	"sync/atomic"
	"time"
)

const ticketLife = 24 * time.Hour // a key encrypts for a day and decrypts for one more

// Tickets keeps the secrets that session tickets are sealed with, turned daily.
// Each policy's keys are derived from them, so that policies that come and go need
// no list here, and two with the same rules share their sessions.
type Tickets struct {
	mu      sync.Mutex // held by who turns
	current atomic.Pointer[masters]
}

// masters is one generation. Immutable.
type masters struct {
	keys [][32]byte // newest first, two at most
}

// NewTickets makes Tickets with a first secret; Run turns it.
func NewTickets() *Tickets {
	t := &Tickets{}
	t.turn(0)
	return t
}

// Run turns the secret once a day until ctx ends.
func (t *Tickets) Run(ctx context.Context) error {
	tick := time.NewTicker(ticketLife)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			t.turn(1)
		}
	}
}

// RotateNow replaces the secrets and forgets the old ones: no session made before
// can be resumed. It is for a compromise.
func (t *Tickets) RotateNow() { t.turn(0) }

// turn makes a new secret and keeps the newest of the old ones.
func (t *Tickets) turn(keep int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := make([][32]byte, 1, 2)
	_, _ = rand.Read(keys[0][:]) // never fails: crypto/rand ends the program instead
	if old := t.current.Load(); old != nil {
		keys = append(keys, old.keys[:min(keep, len(old.keys))]...)
	}
	t.current.Store(&masters{keys})
}

// sealer seals the sessions of one domain: of all policies with the same rules.
type sealer struct {
	tickets *Tickets
	domain  string
	derived atomic.Pointer[derived]
}

// derived is one generation's keys of a domain, in the form that seals tickets.
// Its configuration makes no handshakes.
type derived struct {
	from   *masters
	config *tls.Config
}

// config answers the keys of this moment. After a turn the first few handshakes
// may derive them side by side, and find the same.
func (s *sealer) config() *tls.Config {
	from := s.tickets.current.Load()
	if d := s.derived.Load(); d != nil && d.from == from {
		return d.config
	}
	keys := make([][32]byte, len(from.keys))
	for i := range from.keys {
		// One block of HKDF-Expand (RFC 5869) with the domain as its info.
		m := hmac.New(sha256.New, from.keys[i][:])
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
