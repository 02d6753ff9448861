package main

import (
	"fmt"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// lack is a credential that a process has no value of.
type lack struct {
	Secret      string `json:"secret,omitempty"`      // its reference, or
	Certificate string `json:"certificate,omitempty"` // its id
	Reason      string `json:"reason"`
}

func (l lack) String() string {
	if l.Secret != "" {
		return "secret " + l.Secret
	}
	return "certificate " + l.Certificate
}

// lacks lists what this process would close routes or fail handshakes for.
func (n *node) lacks() []lack {
	var list []lack
	for _, c := range n.broker.List() {
		if c.Value.IsZero() {
			list = append(list, lack{Secret: c.Ref.String(), Reason: brief(c.Reason)})
		}
	}
	for _, f := range certificateFacts(n.publisher.Current(), time.Now()) {
		if len(f.Bundles) == 0 {
			list = append(list, lack{Certificate: f.ID, Reason: brief(f.Refused + f.Reason)})
		}
	}
	return list
}

func brief(reason string) string {
	if len(reason) > 200 {
		return reason[:200] + "..."
	}
	return reason
}

// better says which of the credentials that another process lacks this one has: an
// upgrade must not close what is open.
func (n *node) better(theirs []lack) error {
	if len(theirs) == 0 {
		return nil
	}
	here := map[string]bool{} // certificates
	for _, f := range certificateFacts(n.publisher.Current(), time.Now()) {
		here[f.ID] = len(f.Bundles) > 0
	}
	var first *lack
	count := 0
	for i, l := range theirs {
		has := here[l.Certificate]
		if l.Secret != "" {
			r, err := secrets.ParseRef(l.Secret)
			c := n.broker.Current().Get(r)
			has = err == nil && c != nil && !c.Value.IsZero()
		}
		if has {
			if count++; first == nil {
				first = &theirs[i]
			}
		}
	}
	if first == nil {
		return nil
	}
	return fmt.Errorf("the new process has not got %d of the credentials that this one has, the first is %s: %s", count, first, first.Reason)
}
