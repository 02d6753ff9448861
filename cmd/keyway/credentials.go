package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/secrets"
)

type edgeSnapshot = edge.Snapshot

// versionFacts is what commands show of one version of a credential.
type versionFacts struct {
	Version int       `json:"version"`
	State   string    `json:"state"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until,omitzero"`
	Origin  string    `json:"origin,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// factsOfSecret is what can be told of a credential.
func factsOfSecret(c *secrets.Credential) secretFacts {
	f := secretFacts{
		Reference: c.Ref.String(), State: string(c.State), Version: c.Version, Source: c.Source, Fetched: c.Fetched, NextLook: c.NextLook, NotAfter: c.NotAfter,
		Reason: c.Reason, Pinned: c.Pinned, Origin: c.Origin, TTL: c.TTL.Seconds(), Renewable: c.Renewable,
	}
	for _, h := range c.History {
		f.History = append(f.History, versionFacts{h.Version, h.State, h.Since, h.Until, h.Origin, h.Reason})
	}
	return f
}

// act asks the node to do something.
func (c *cli) act(cmd *cobra.Command, a control.Action, into any) error {
	n, err := c.node()
	if err != nil {
		return err
	}
	return n.Act(cmd.Context(), a, into)
}

// secretsActions are the commands that change or check what the broker does.
func (c *cli) secretsActions() []*cobra.Command {
	var version int
	show := func(f secretFacts) error {
		return c.print(f, "REFERENCE STATE VERSION PINNED REASON", func(add func(...string)) {
			add(f.Reference, f.State, fmt.Sprint(f.Version), fmt.Sprint(f.Pinned > 0), orDash(f.Reason))
		})
	}
	pin := &cobra.Command{
		Use: "pin REF --version N", Short: "Hold a secret at a version that the node still has, whatever its source answers", Args: cobra.ExactArgs(1),
		Long: "Hold a secret at a version, as it is counted by `keyway secrets list --history`. The node holds the last few\n" +
			"values; the pin stays over a restart and until `keyway secrets unpin`.",
		RunE: func(cmd *cobra.Command, args []string) error {
			var f secretFacts
			if err := c.act(cmd, control.Action{Do: "secrets.pin", Name: args[0], Version: version}, &f); err != nil {
				return err
			}
			return show(f)
		},
	}
	pin.Flags().IntVar(&version, "version", 0, "the version to hold")
	_ = pin.MarkFlagRequired("version") // fails only for a flag that is not there
	unpin := &cobra.Command{
		Use: "unpin REF", Short: "Let a secret follow its source again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var f secretFacts
			if err := c.act(cmd, control.Action{Do: "secrets.unpin", Name: args[0]}, &f); err != nil {
				return err
			}
			return show(f)
		},
	}
	check := &cobra.Command{
		Use: "check REF", Short: "Ask the source for a secret and judge it, without using it", Args: cobra.ExactArgs(1),
		Long: "Ask the source of a secret what it answers now and judge that as a new version is judged, without putting it\n" +
			"into use. A lease that this makes is given back. Exit status 1 when the value would be refused.",
		RunE: func(cmd *cobra.Command, args []string) error {
			var f checkFacts
			if err := c.act(cmd, control.Action{Do: "secrets.check", Name: args[0]}, &f); err != nil {
				return err
			}
			return c.showCheck(f)
		},
	}
	return []*cobra.Command{pin, unpin, check}
}

func (c *cli) showCheck(f checkFacts) error {
	err := c.print(f, "CHECK RESULT", func(add func(...string)) {
		verdict := "good"
		if !f.Good {
			verdict = "refused: " + f.Reason
		}
		add("value", verdict)
		add("differs from the one in use", fmt.Sprint(f.Changed))
		add("version in the source", orDash(f.Version))
		if f.TTL > 0 {
			add("lease", fmt.Sprintf("%v, renewable %v", f.TTL, f.Renews))
		}
		if !f.End.IsZero() {
			add("hard end", f.End.Format(time.RFC3339))
		}
		add("the source's id of the read", orDash(f.Origin))
		add("took", f.Took.Round(time.Millisecond).String())
	})
	if err == nil && !f.Good {
		return quiet(exitFailed)
	}
	return err
}

func (c *cli) credentialsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "credentials", Short: "Show what depends on credentials"}
	uses := &cobra.Command{
		Use: "uses REF|NAME", Short: "List what depends on a reference or a certificate, and what closes when it dies", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var all []useFacts
			if err := c.act(cmd, control.Action{Do: "credentials.uses", Name: args[0]}, &all); err != nil {
				return err
			}
			return c.print(all, "KIND NAME FIELD THROUGH WHEN-IT-DIES", func(add func(...string)) {
				for _, u := range all {
					add(u.Kind, u.Name, orDash(u.Field), orDash(u.Via), u.Then)
				}
			})
		},
	}
	c.settingFlags(uses, "data_dir")
	cmd.AddCommand(uses)
	return cmd
}

// numbered is a version number, "-" for a version that was refused before it had one.
func numbered(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// history prints the versions of credentials, a line each.
func (c *cli) history(all []secretFacts) error {
	return c.print(all, "REFERENCE VERSION STATE SINCE UNTIL ORIGIN REASON", func(add func(...string)) {
		for _, f := range all {
			for _, h := range f.History {
				until := "-"
				if !h.Until.IsZero() {
					until = h.Until.Format(time.RFC3339)
				}
				add(f.Reference, numbered(h.Version), h.State, h.Since.Format(time.RFC3339), until, orDash(h.Origin), orDash(h.Reason))
			}
		}
	})
}
