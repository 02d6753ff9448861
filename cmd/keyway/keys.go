package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/edge/control"
)

// keyFacts is how the keys of one use stand once they are replaced.
type keyFacts struct {
	Use     string    `json:"use"`
	Since   time.Time `json:"since"`
	Warning string    `json:"warning,omitempty"`
}

// keyRing is what of certs.Tickets and certs.ECH replaces keys.
type keyRing interface {
	RotateNow()
	Sync(ctx context.Context) error
	Status() certs.RingStatus
}

// rotateKeys answers `keyway certs rotate-keys`.
func (n *node) rotateKeys(ctx context.Context, a control.Action) (any, error) {
	var ring keyRing
	switch {
	case a.Name == "tickets":
		ring = n.tickets
	case a.Name != "ech":
		return nil, fmt.Errorf("keys of %q: expected tickets or ech", a.Name)
	case n.ech == nil:
		return nil, errors.New("tls_ech_public_name is not set: there is no Encrypted Client Hello")
	default:
		ring = n.ech
	}
	ring.RotateNow()
	n.did(a, "rotate", a.Reason, 0)
	f := keyFacts{Use: a.Name, Since: ring.Status().Since}
	wait, cancel := context.WithTimeout(ctx, rulingsWait)
	defer cancel()
	if err := ring.Sync(wait); err != nil {
		f.Warning = "the shared state is not told yet, and it is tried again until this node stops: " + err.Error()
	}
	return f, nil
}

// rotateKeysCommand replaces keys that may be known to others.
func (c *cli) rotateKeysCommand() *cobra.Command {
	a := control.Action{Do: "certs.rotate-keys"}
	cmd := &cobra.Command{
		Use: "rotate-keys tickets|ech", Short: "Replace the keys of session tickets or of Encrypted Client Hello, and forget the old ones",
		Args: cobra.ExactArgs(1), ValidArgs: []string{"tickets", "ech"},
		Long: "Replace keys that may be known to others, and forget the old ones: at once on this node, within half a minute on\n" +
			"those that share its state. tickets: no session made before is resumed. ech: clients that know the old\n" +
			"configuration are sent the new one; put that of `keyway certs ech` into DNS.",
		RunE: func(cmd *cobra.Command, args []string) error {
			a.Name = args[0]
			var f keyFacts
			if err := c.act(cmd, a, &f); err != nil {
				return err
			}
			return c.print(f, "KEYS SINCE WARNING", func(add func(...string)) {
				add(f.Use, f.Since.Format(time.RFC3339), orDash(f.Warning))
			})
		},
	}
	cmd.Flags().StringVar(&a.Reason, "reason", "", "why, for the ledger")
	return cmd
}
