package certs

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"sync"
	"time"
)

const ticketLife = 24 * time.Hour // a key encrypts for a day and decrypts for one more

// Tickets keeps the session ticket keys: one series for each policy, turned daily.
type Tickets struct {
	mu      sync.Mutex // guards domains
	domains map[string]*ticketDomain
}

type ticketDomain struct {
	config *tls.Config
	keys   [][32]byte // newest first, two at most
}

// NewTickets makes Tickets without keys; Run turns them.
func NewTickets() *Tickets { return &Tickets{domains: map[string]*ticketDomain{}} }

// adopt gives a configuration that no handshake has used yet the keys of its domain.
func (t *Tickets) adopt(domain string, c *tls.Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.domains[domain]
	if d == nil {
		d = &ticketDomain{keys: [][32]byte{newTicketKey()}}
		t.domains[domain] = d
	}
	d.config = c
	c.SetSessionTicketKeys(d.keys)
}

func newTicketKey() (k [32]byte) {
	_, _ = rand.Read(k[:]) // never fails: crypto/rand ends the program instead
	return k
}

// Run turns every key once a day until ctx ends.
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

// RotateNow replaces every key and forgets the old ones: no session made before
// can be resumed. It is for a compromise.
func (t *Tickets) RotateNow() { t.turn(0) }

// turn makes new keys and keeps the newest of the old ones. Setting keys on a
// configuration in use is safe: crypto/tls takes its own lock for them.
func (t *Tickets) turn(keep int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range t.domains {
		d.keys = append([][32]byte{newTicketKey()}, d.keys[:min(keep, len(d.keys))]...)
		d.config.SetSessionTicketKeys(d.keys)
	}
}
