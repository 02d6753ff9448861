package telemetry

import (
	"context"
	"log/slog"
	"time"
)

const (
	watchEvery = time.Minute
	sayEvery   = time.Hour
)

// Run says in the log, once an hour at most, that certificates are late and near
// their end, until ctx ends.
func (t *Telemetry) Run(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var said time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if (said.IsZero() || now.Sub(said) >= sayEvery) && t.warn(ctx, now) {
				said = now
			}
		}
	}
}

// warn writes one line about the certificates that are late and near their end, and
// says whether there are any.
func (t *Telemetry) warn(ctx context.Context, now time.Time) bool {
	counts := map[string]int{}
	var first *slotFacts
	all := t.certificates(now)
	for i := range all {
		f := &all[i]
		if f.end1st == nil {
			continue
		}
		for _, h := range horizons() {
			if f.within(h.before, now) {
				counts[h.name]++
				if first == nil || f.end.Before(first.end) {
					first = f
				}
			}
		}
	}
	if first == nil {
		return false
	}
	level, severity := slog.LevelWarn, "warning"
	switch {
	case counts["1d"] > 0:
		level, severity = slog.LevelError, "critical"
	case counts["7d"] > 0:
		level, severity = slog.LevelError, "error"
	}
	reason := ""
	if first.slot.Refused != nil {
		reason = first.slot.Refused.Error()
	}
	t.opts.Log.Log(ctx, level, "certificates end soon and have no successor",
		slog.String("severity", severity), slog.Int("within_30d", counts["30d"]), slog.Int("within_7d", counts["7d"]), slog.Int("within_1d", counts["1d"]),
		slog.String("first", first.slot.Name), slog.String("source", first.slot.Source), slog.Time("not_after", first.end), slog.String("refused", reason))
	return true
}
