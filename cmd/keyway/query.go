package main

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyway-edge/keyway/secrets"
)

// filter chooses events.
type filter struct {
	since, until      time.Time
	name, kind, event string
	origin            string
	version           int
}

func (f *filter) fits(e *secrets.Event) bool {
	text := func(want, have string) bool {
		if want == "" || strings.EqualFold(want, have) || strings.Contains(have, want) {
			return true
		}
		ok, err := path.Match(want, have)
		return err == nil && ok
	}
	return (f.since.IsZero() || !e.Time.Before(f.since)) && (f.until.IsZero() || e.Time.Before(f.until)) &&
		text(f.name, e.Subject) && (f.kind == "" || f.kind == e.Kind) && (f.event == "" || slices.Contains(strings.Split(f.event, ","), e.Result)) &&
		text(f.origin, e.Origin) && (f.version == 0 || f.version == e.NewVersion || f.version == e.OldVersion)
}

// moment reads a time: RFC 3339, a date, or how long ago.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; expected 2026-01-31T15:04:05Z, 2026-01-31, or how long ago, as 90m", text)
}

func (c *cli) auditQuery() *cobra.Command {
	var f filter
	var since, until string
	cmd := &cobra.Command{
		Use: "query [FILE...]", Short: "Show the events that fit", Args: cobra.ArbitraryArgs,
		Long: "Show the events of a ledger that fit every flag given. With none of its files, those of the data folder. Which\n" +
			"version of a credential served a request is in its access log line, by request id; this tells where a version\n" +
			"came from and what became of it.",
		RunE: func(_ *cobra.Command, args []string) error {
			now := time.Now()
			var err error
			if f.since, err = moment(since, now); err == nil {
				f.until, err = moment(until, now)
			}
			if err != nil {
				return &exitError{exitSettings, err}
			}
			files, err := c.ledgerFiles(args)
			if err != nil {
				return err
			}
			events := []secrets.Event{}
			err = eachEvent(files, func(e secrets.Event) {
				if f.fits(&e) {
					events = append(events, e)
				}
			})
			if err != nil {
				return err
			}
			return c.printEvents(events)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&since, "since", "", "no events before this: a time, a date, or how long ago (90m)")
	flags.StringVar(&until, "until", "", "no events from this on")
	flags.StringVar(&f.name, "name", "", "of a certificate or a reference, a part of it, or a pattern")
	flags.StringVar(&f.kind, "kind", "", "certificate, secret, source, document, admin, security or ledger")
	flags.StringVar(&f.event, "event", "", "a comma list of results: activated, refused, stale, rolled_back, ...")
	flags.StringVar(&f.origin, "origin", "", "the source's id of a read, as Vault's audit log has it")
	flags.IntVar(&f.version, "version", 0, "an event that this version came or went with")
	c.settingFlags(cmd, "data_dir")
	return cmd
}

func (c *cli) printEvents(events []secrets.Event) error {
	return c.print(events, "TIME KIND SUBJECT RESULT VERSION SOURCE ACTOR REASON", func(add func(...string)) {
		for _, e := range events {
			reason := e.Reason
			if e.Check != "" {
				reason = e.Check + ": " + reason
			}
			if e.Origin != "" {
				reason = strings.TrimSpace(reason + " origin " + e.Origin)
			}
			add(e.Time.Format(time.RFC3339), e.Kind, e.Subject, e.Result, fmt.Sprintf("%d>%d", e.OldVersion, e.NewVersion), orDash(e.Source), orDash(e.Actor), orDash(reason))
		}
	})
}
