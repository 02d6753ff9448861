package telemetry

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestOwnedMetrics(t *testing.T) {
	now := time.Now()
	tel := newTelemetry(t, func(o *Options) {
		o.Owned = func() []Owned {
			list := make([]Owned, 0, named+3)
			for i := range named + 2 {
				list = append(list, Owned{Name: fmt.Sprintf("n%d.test", i), ID: fmt.Sprint(i), Certificate: "shop/many", Issuer: "ClusterIssuer ca", State: "issued", Renewal: now.Add(time.Duration(i+1) * time.Hour)})
			}
			return append(list, Owned{Name: "bad.test", ID: "b", Certificate: "shop/bad", Issuer: "Issuer x", State: "failing", Bad: true, Attempts: 3, Renewal: now.Add(9000 * time.Hour)})
		}
	})
	text := scrape(t, tel)
	const bad = `{certificate="shop/bad",id="b",issuer="Issuer x",name="bad.test"}`
	about(t, text, "keyway_certmanager_renewal_in_seconds"+bad, 9000*time.Hour)
	wantLines(t, text,
		fmt.Sprintf(`keyway_certmanager_certificates{state="issued"} %d`, named+2), `keyway_certmanager_certificates{state="failing"} 1`, `keyway_certmanager_certificates{state="overdue"} 0`,
		`keyway_certmanager_bad`+bad+` 1`, `keyway_certmanager_failed_attempts`+bad+` 3`, `keyway_certmanager_bad{certificate="shop/many",id="0",issuer="ClusterIssuer ca",name="n0.test"} 0`,
	)
	if n := strings.Count(text, "\nkeyway_certmanager_bad{"); n != named {
		t.Errorf("%d certificates have series of their own, want %d", n, named)
	}
}
