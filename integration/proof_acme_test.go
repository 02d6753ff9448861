package integration

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// proveACME has the authority away when a certificate is due to be renewed: the old
// one serves, and the new one comes when the authority is back.
func proveACME(t *testing.T, n figures) []outcome {
	httpPort, tlsPort := freePort(t), freePort(t)
	// The life is long against the outage, and the renewal due at a tenth of it.
	life := n.outage + 2*time.Minute
	p := startPebbleWith(t, httpPort, tlsPort, map[string]any{"profiles": map[string]any{
		"default": map[string]any{"description": "short", "validityPeriod": int(life.Seconds())},
	}}, "PEBBLE_WFE_NONCEREJECT=5")
	f := faultProxy(t, strings.TrimSuffix(p.directory, "/dir"), &tls.Config{Certificates: []tls.Certificate{p.front}}, p.trust)
	o := tattle(t, func(*http.Request) (int, string) { return 200, "ok" })
	host, port, _ := strings.Cut(o.addr, ":")
	_, front, _ := strings.Cut(f.addr, ":")
	g := start(t, options{proxy: httpPort, tls: tlsPort, env: debug(nil), document: fmt.Sprintf(`
_format_version: "3.0"
x_keyway_issuers: [{name: pebble, type: acme, config: {directories: ["https://localhost:%s/dir"], ca_file: %q, email: ops@example.com, terms_agreed: true, renew_before: %d}}]
certificates: [{x_keyway_issuer: pebble, snis: [kept.example.com]}]
services: [{name: a, host: %s, port: %s, routes: [{name: r, paths: [/], hosts: [kept.example.com]}]}]
`, front, file(t, t.TempDir(), "pebble.pem", p.ca), int(life.Seconds()), host, port)})
	first := awaitLeaf(t, g, "kept.example.com", p.pool()).SerialNumber.String()
	gone := time.Now()
	f.set(t, faultDown)
	l := (&clients{g: g, roots: p.pool(), names: []string{"kept.example.com"}}).begin(2)
	at := time.Now()
	poll(t, "a renewal is tried", life/5+30*time.Second, func() bool { return len(f.since(gone, "")) > 0 })
	due := time.Since(at)
	time.Sleep(n.outage)
	calls := f.since(gone, "")
	if most := busiest(calls, 10*time.Second); most > 10 {
		t.Errorf("%d calls within 10 s to an authority that is away, at most 1 a second", most)
	}
	serving := l.shown("kept.example.com")
	f.set(t, faultNone)
	at = time.Now()
	poll(t, "a renewed certificate is served", time.Minute, func() bool { s := l.shown("kept.example.com"); return s != first && s != serving })
	recovery := time.Since(at)
	l.end()
	return []outcome{judge(t, "Pebble away at renewal", l, canaries{"PRIVATE KEY"}.scan(t, g), recovery, "a renewal was due %s after it went, away %s from then on: %d calls; %d certificates issued", due.Round(time.Second), n.outage, len(calls), p.issued())}
}
