package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyway-edge/keyway/edge/telemetry"
	"github.com/keyway-edge/keyway/secrets"
)

// overview is all that `keyway status` shows.
type overview struct {
	telemetry.Status
	Certs   []certFacts     `json:"certificates"`
	Secrets []secretFacts   `json:"secrets"`
	Events  []secrets.Event `json:"events"` // the last ones
}

func (c *cli) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Show the node, its sources and its credentials at a glance", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := c.node()
			if err != nil {
				return err
			}
			var o overview
			for fact, into := range map[string]any{"status": &o.Status, "certificates": &o.Certs, "secrets": &o.Secrets} {
				if err := n.Get(cmd.Context(), fact, into); err != nil {
					return err
				}
			}
			// A ledger that cannot be read is no reason to show nothing.
			if files, err := c.ledgerFiles(nil); err == nil {
				o.Events, _ = lastEvents(files, 8)
			}
			if c.asJSON {
				return c.print(o, "", nil)
			}
			return c.showStatus(&o, time.Now())
		},
	}
	c.settingFlags(cmd, "data_dir")
	return cmd
}

func (c *cli) showStatus(o *overview, now time.Time) error {
	ready := "ready"
	if !o.Ready {
		ready = "not ready: " + strings.Join(o.NotReady, "; ")
	}
	fmt.Fprintf(c.out, "keyway %s  node %s  up %s  %s\n", o.Version, o.NodeID, now.Sub(o.Started).Truncate(time.Second), ready)
	fmt.Fprintf(c.out, "snapshot %d, built %s ago: %d routes, %d services, %d certificates, %d credentials\n", o.Generation, now.Sub(o.Built).Truncate(time.Second), o.Counts.Routes, o.Counts.Services, o.Counts.Certificates, o.Counts.Credentials)
	states := map[string]int{}
	for _, s := range o.Secrets {
		states["secrets "+s.State]++
	}
	for _, s := range o.Certs {
		states["certificates "+s.State]++
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(states)) {
		parts = append(parts, fmt.Sprintf("%d %s", states[k], k))
	}
	fmt.Fprintf(c.out, "%s\n", orDash(strings.Join(parts, ", ")))
	if err := c.statusSources(o, now); err != nil {
		return err
	}
	if err := c.statusCredentials(o); err != nil {
		return err
	}
	for _, l := range o.Listeners {
		if l.Reason != "" {
			fmt.Fprintf(c.out, "listener: %s (%s on %s): %s: %s\n", l.Name, l.Protocol, l.Address, l.State, l.Reason)
		}
	}
	for _, p := range o.Problems {
		fmt.Fprintf(c.out, "problem: %s %s: %s: %s\n", p.Entity, named(p.Name, p.ID), orDash(p.Field), strings.Join(strings.Fields(p.Message), " "))
	}
	if len(o.Events) == 0 {
		return nil
	}
	fmt.Fprintln(c.out, "\nlast events")
	return c.printEvents(o.Events)
}

func (c *cli) statusSources(o *overview, now time.Time) error {
	if len(o.Sources) == 0 {
		return nil
	}
	fmt.Fprintln(c.out)
	return c.print(nil, "SOURCE STATE LAST-GOOD LOOKS FAILED REASON", func(add func(...string)) {
		for _, s := range o.Sources {
			state, reason := s.State, s.Reason
			if s.State == "away" {
				state = "away " + now.Sub(s.Since).Truncate(time.Second).String()
				reason += fmt.Sprintf(" (next try in %s, %d credentials wait)", max(s.NextProbe.Sub(now), 0).Truncate(time.Second), s.Waiting)
			}
			good := "never"
			if !s.LastGood.IsZero() {
				good = now.Sub(s.LastGood).Truncate(time.Second).String() + " ago"
			}
			add(s.Name, state, good, fmt.Sprint(s.Looks), fmt.Sprint(s.Failures), orDash(reason))
		}
	})
}

// statusCredentials shows what is not as it should be, and what ends soon.
func (c *cli) statusCredentials(o *overview) error {
	var rows [][]string
	for _, f := range o.Certs {
		for _, b := range f.Bundles {
			if f.State != "active" || f.Refused != "" || time.Until(b.NotAfter) < 30*24*time.Hour || f.Owner.wrong() {
				rows = append(rows, []string{"certificate", f.Name, fmt.Sprint(f.Version), f.State, left(b.NotAfter), orDash(cmp.Or(f.Refused, f.Owner.told()))})
			}
		}
		if len(f.Bundles) == 0 {
			rows = append(rows, []string{"certificate", f.Name, "-", f.State, "-", orDash(cmp.Or(f.Refused, f.Owner.told(), f.Reason))})
		}
	}
	for _, s := range o.Secrets {
		if s.State != "active" || s.Reason != "" || s.Pinned > 0 || !s.NotAfter.IsZero() {
			end := "-"
			if !s.NotAfter.IsZero() {
				end = left(s.NotAfter)
			}
			rows = append(rows, []string{"secret", s.Reference, fmt.Sprint(s.Version), s.State, end, orDash(s.Reason)})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(c.out)
	return c.print(nil, "KIND NAME VERSION STATE LEFT REASON", func(add func(...string)) {
		for _, r := range rows {
			add(r...)
		}
	})
}
