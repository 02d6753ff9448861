package telemetry

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Owned is a certificate in use that cert-manager issues.
type Owned struct {
	Name, ID    string // of the certificate
	Certificate string // namespace/name of cert-manager's
	Issuer      string
	State       string // of its issuance
	Bad         bool   // somebody has to look
	Attempts    int    // to issue it that failed
	Renewal     time.Time
}

// owned samples the certificates that cert-manager issues: all of them in sums, those
// that are bad or due next by name.
func (c *collector) owned(out chan<- prometheus.Metric, now time.Time) {
	if c.t.opts.Owned == nil {
		return
	}
	all := c.t.opts.Owned()
	if len(all) == 0 {
		return
	}
	states := map[string]int{"issued": 0, "issuing": 0, "not_ready": 0, "temporary": 0, "failing": 0, "overdue": 0, "expired": 0}
	for i := range all {
		states[all[i].State]++
	}
	for state, n := range states {
		emit(out, "keyway_certmanager_certificates", "Certificates in use that cert-manager issues, by state of the issuance", prometheus.GaugeValue, float64(n), labels{"state", state})
	}
	slices.SortStableFunc(all, func(a, b Owned) int {
		return cmp.Or(cmp.Compare(one(b.Bad), one(a.Bad)), a.Renewal.Compare(b.Renewal))
	})
	for _, x := range all[:min(len(all), named)] {
		l := labels{"name", x.Name, "id", x.ID, "certificate", x.Certificate, "issuer", x.Issuer}
		emit(out, "keyway_certmanager_bad", "1 while the issuance of a certificate in use fails, is overdue, or the certificate has ended", prometheus.GaugeValue, one(x.Bad), l)
		emit(out, "keyway_certmanager_failed_attempts", "Tries to issue it that failed since one did not", prometheus.GaugeValue, float64(x.Attempts), l)
		if !x.Renewal.IsZero() {
			emit(out, "keyway_certmanager_renewal_in_seconds", "Time until cert-manager means to renew it; negative when it should have", prometheus.GaugeValue, x.Renewal.Sub(now).Seconds(), l)
		}
	}
}
