package integration

import (
	"regexp"
	"strconv"
	"testing"
	"time"
)

// sample reads one series of /metrics, and false when it is not there.
func sample(g *gateway, series string) (float64, bool) {
	_, text := g.read("/metrics")
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	v, err := strconv.ParseFloat(m[1], 64)
	return v, err == nil
}

// TestLeaseMetrics follows a database lease of a real Vault from outside: renewed
// while all is well, failing and then at risk when Vault is sealed, well again after.
func TestLeaseMetrics(t *testing.T) {
	v, p := startVault(t), startPostgres(t)
	v.database(p, "15s", "1h")
	o := tattle(t, nil)
	g := start(t, options{document: `_format_version: "3.0"
vaults:
` + v.entity("dyn", "engine: generic") + `
services:
- name: s
  url: "http://` + o.addr + `"
  x_keyway_upstream_auth: {type: basic, username: "{vault://dyn/database/creds/app/username}", password: "{vault://dyn/database/creds/app/password}"}
  routes: [{name: r, paths: [/]}]
`})
	const name = `{name="{vault://dyn/database/creds/app/username}",source="dyn"}`
	is := func(series string, ok func(float64) bool) {
		t.Helper()
		poll(t, series, 30*time.Second, func() bool {
			time.Sleep(50 * time.Millisecond)
			v, there := sample(g, series)
			return there && ok(v)
		})
	}
	above := func(n float64) func(float64) bool { return func(v float64) bool { return v > n } }
	equal := func(n float64) func(float64) bool { return func(v float64) bool { return v == n } }

	is("keyway_lease_ttl_seconds"+name, equal(15))
	is("keyway_secret_expires_in_seconds"+name, func(v float64) bool { return v > 0 && v <= 15 })
	is("keyway_leases", equal(2))
	is(`keyway_source_renewals_total{result="renewed",source="dyn"}`, above(0))
	is("keyway_leases_failing", equal(0))

	v.seal()
	is(`keyway_source_away{source="dyn"}`, equal(1))
	is("keyway_leases_failing", equal(2))
	is("keyway_leases_at_risk", equal(2))
	is(`keyway_source_away_seconds{source="dyn"}`, above(0))
	is(`keyway_events_total{kind="source",result="stale"}`, above(0))
	if n := closed(g); n != 0 {
		t.Errorf("%g credentials are closed while the lease lasts", n)
	}

	v.open()
	is(`keyway_source_away{source="dyn"}`, equal(0))
	is("keyway_leases_at_risk", equal(0))
	is(`keyway_events_total{kind="source",result="recovered"}`, above(0))
	if _, there := sample(g, `keyway_source_away_seconds{source="dyn"}`); there {
		t.Error("a source that is back is still away")
	}
}

// closed is how many credentials are closed.
func closed(g *gateway) float64 {
	missing, _ := sample(g, `keyway_credentials{state="missing"}`)
	expired, _ := sample(g, `keyway_credentials{state="expired"}`)
	return missing + expired
}
