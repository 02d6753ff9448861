package secrets

import "context"

// Spare keeps this broker from giving leases back whose values are among these
// fingerprints: another process has taken its place and uses them.
func (b *Broker) Spare(ctx context.Context, fingerprints map[string]bool) error {
	_, err := query(ctx, b, func(l *loop, answer chan<- struct{}) {
		for _, e := range l.entries {
			for _, w := range e.wanted {
				if e.lease.ID != "" && fingerprints[w.use.value.Fingerprint()] {
					l.spared[e.lease.ID] = true
				}
			}
		}
		answer <- struct{}{}
	})
	return err
}

// Fingerprints are those of every value that is held, for Spare in another process.
func (b *Broker) Fingerprints(ctx context.Context) ([]string, error) {
	return query(ctx, b, func(l *loop, answer chan<- []string) {
		var list []string
		for _, e := range l.entries {
			for _, w := range e.wanted {
				if !w.use.value.IsZero() {
					list = append(list, w.use.value.Fingerprint())
				}
			}
		}
		answer <- list
	})
}
