package integration

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// orders counts the orders that Pebble was asked for.
func (p *pebble) orders() int { return strings.Count(p.out.String(), "Added order ") }

// TestACMEReplicas has a node order whose name leads to another one, which shares the
// state: the other answers the challenge, both serve, and there is one order.
func TestACMEReplicas(t *testing.T) {
	httpPort, tlsPort := freePort(t), freePort(t)
	p := startPebble(t, httpPort, tlsPort)
	document := acmeDocument(t, p, "", "ecdsa-p256", "a.example.com")
	first := filepath.Join(t.TempDir(), "data")
	env := map[string]string{"KEYWAY_SHARED_STATE": filepath.Join(t.TempDir(), "volume")}
	// Nobody can reach this one; it begins the order.
	hidden := start(t, options{document: document, dir: first, env: env})
	env["KEYWAY_SHARED_STATE_KEY"] = filepath.Join(first, "shared.key")
	poll(t, "an order", 20*time.Second, func() bool { return p.orders() == 1 })
	reached := start(t, options{document: document, proxy: httpPort, tls: tlsPort, env: env})
	roots := p.pool()
	a, b := awaitLeaf(t, hidden, "a.example.com", roots), awaitLeaf(t, reached, "a.example.com", roots)
	if !a.Equal(b) || p.issued() != 1 || p.orders() != 1 {
		t.Errorf("%d orders and %d certificates, the same at both: %v", p.orders(), p.issued(), a.Equal(b))
	}
}

// TestACMEKilledInOrder kills a node while its order is open: after the start it goes
// on with that order.
func TestACMEKilledInOrder(t *testing.T) {
	httpPort, tlsPort := freePort(t), freePort(t)
	p := startPebble(t, httpPort, tlsPort)
	document := acmeDocument(t, p, "", "ecdsa-p256", "a.example.com")
	dir := filepath.Join(t.TempDir(), "data")
	// A shared state makes it wait before the challenge is accepted.
	env := map[string]string{"KEYWAY_SHARED_STATE": filepath.Join(t.TempDir(), "volume")}
	g := start(t, options{document: document, dir: dir, proxy: httpPort, tls: tlsPort, env: env})
	poll(t, "an order", 20*time.Second, func() bool { return p.orders() == 1 })
	poll(t, "the node goes on with it, so it is kept", 20*time.Second, func() bool { return strings.Contains(p.out.String(), "/authZ/") })
	g.stop(syscall.SIGKILL)
	g = start(t, options{document: document, dir: dir, proxy: httpPort, tls: tlsPort, env: env})
	awaitLeaf(t, g, "a.example.com", p.pool())
	if p.orders() != 1 || p.issued() != 1 {
		t.Errorf("%d orders and %d certificates", p.orders(), p.issued())
	}
}

// TestACMEAwayAtRenewal renews while the authority is away in several ways: the old
// pair serves, few calls are made, the reason is told, and the renewal comes within a
// minute after the authority is back.
func TestACMEAwayAtRenewal(t *testing.T) {
	httpPort, tlsPort := freePort(t), freePort(t)
	p := startPebble(t, httpPort, tlsPort)
	f := faultProxy(t, strings.TrimSuffix(p.directory, "/dir"), &tls.Config{Certificates: []tls.Certificate{p.front}}, p.trust)
	_, port, _ := strings.Cut(f.addr, ":")
	document := func(directory string) string {
		return strings.ReplaceAll(acmeDocument(t, p, "", "ecdsa-p256", "a.example.com"), p.directory, directory)
	}
	g := start(t, options{document: document(p.directory), proxy: httpPort, tls: tlsPort})
	roots := p.pool()
	old := awaitLeaf(t, g, "a.example.com", roots)
	for _, mode := range []faultMode{faultDown, faultRefuse} {
		f.set(t, mode)
		// Another directory than the one that issued: to be renewed there at once.
		began := time.Now()
		g.write(document("https://localhost:" + port + "/dir" + map[faultMode]string{faultDown: "", faultRefuse: "?again"}[mode]))
		poll(t, "the failure is told", 20*time.Second, func() bool {
			out, _ := g.run("secrets", "list")
			return strings.Contains(out, "renewal failed")
		})
		for time.Since(began) < 8*time.Second {
			if got, err := shownLeaf(g.tls, "a.example.com", roots); err != nil || !got.Equal(old) {
				t.Fatalf("%s: the old pair is not served: %v", mode, err)
			}
			time.Sleep(200 * time.Millisecond)
		}
		if n := len(f.since(began, "")); mode == faultDown && (n == 0 || n > 8) {
			t.Errorf("%s: %d calls in 8 s", mode, n)
		}
		f.set(t, faultNone)
		back := time.Now()
		poll(t, "the renewal", time.Minute, func() bool {
			got, err := shownLeaf(g.tls, "a.example.com", roots)
			if err != nil {
				t.Fatalf("%s: %v", mode, err)
			}
			time.Sleep(100 * time.Millisecond)
			if got.Equal(old) {
				return false
			}
			old = got
			return true
		})
		t.Logf("%s: renewed %s after the authority was back", mode, time.Since(back).Round(time.Second))
	}
}

// TestACMESecondDirectory is issued for by the second authority while the first is
// away, with an account that was bound to one outside, whose key is a reference; and
// without the binding is told what to set.
func TestACMESecondDirectory(t *testing.T) {
	httpPort, tlsPort := freePort(t), freePort(t)
	const key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	p := startPebbleWith(t, httpPort, tlsPort, map[string]any{"externalAccountBindingRequired": true, "externalAccountMACKeys": map[string]string{"kid-1": key}})
	document := acmeDocument(t, p, "", "ecdsa-p256", "a.example.com")
	g := start(t, options{document: document, proxy: httpPort, tls: tlsPort, env: map[string]string{"ACME_HMAC": key, "KEYWAY_LOG_LEVEL": "debug"}})
	poll(t, "the missing binding is told", 20*time.Second, func() bool {
		out, _ := g.run("secrets", "list", "--json")
		return strings.Contains(out, "set eab_kid and eab_hmac_key")
	})
	dead := fmt.Sprintf("https://localhost:%d/dir", freePort(t))
	bound := fmt.Sprintf("directories: [%q, {url: %q, eab_kid: kid-1, eab_hmac_key: \"{vault://env/acme-hmac}\"}]", dead, p.directory)
	g.write(strings.Replace(document, fmt.Sprintf("directories: [%q]", p.directory), bound, 1))
	// Whoever repairs the config need not wait for the ladder.
	poll(t, "the second directory's certificate", 20*time.Second, func() bool {
		time.Sleep(200 * time.Millisecond)
		_, err := shownLeaf(g.tls, "a.example.com", p.pool())
		return err == nil
	})
	if !strings.Contains(p.out.String(), `Binding with CA using kid "kid-1"`) {
		t.Error("the account was not bound")
	}
	scanFor(t, g, key)
}

// TestACMEValidationFails fails one challenge, falls back on the other; and with
// nothing to fall back on says why and stays below the authority's limits.
func TestACMEValidationFails(t *testing.T) {
	httpPort, nobody := freePort(t), freePort(t)
	p := startPebble(t, httpPort, nobody)
	g := start(t, options{document: acmeDocument(t, p, "", "ecdsa-p256", "a.example.com"), proxy: httpPort})
	awaitLeaf(t, g, "a.example.com", p.pool())
	if p.orders() != 2 {
		t.Errorf("%d orders, want one for each challenge", p.orders())
	}
	g.write(acmeDocument(t, p, ", challenges: [tls-alpn-01]", "ecdsa-p256", "b.example.com"))
	poll(t, "the failure is told", 20*time.Second, func() bool {
		out, _ := g.run("secrets", "list", "--json")
		return strings.Contains(out, "attempts failed since") && strings.Contains(out, "b.example.com")
	})
	time.Sleep(3 * time.Second)
	if p.orders() != 3 {
		t.Errorf("%d orders: a refused name is tried again at once", p.orders())
	}
}
