package integration

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestACMEOnDemand has certificates made for names that handshakes ask for, and for
// none that no rule allows; a restart serves them at once.
func TestACMEOnDemand(t *testing.T) {
	httpPort, tlsPort := freePort(t), freePort(t)
	p := startPebble(t, httpPort, tlsPort)
	var mu sync.Mutex
	asked := map[string]int{}
	ask := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.Query().Get("domain")]++
		mu.Unlock()
		if r.URL.Query().Get("domain") != "asked.example.net" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	_ = ask.Listener.Close()
	var err error
	if ask.Listener, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(freePort(t))); err != nil {
		t.Fatal(err)
	}
	ask.Start()
	defer ask.Close()
	document := acmeDocument(t, p, `, on_demand: {allow: ["*.shops.example.com"], routes: true, ask: "`+ask.URL+`/ask"}`, "ecdsa-p256", "a.example.com")
	document = strings.Replace(document, "hosts: [a.example.com]", `hosts: [a.example.com, routed.example.com, "*.wild.example.com"]`, 1)
	g := start(t, options{document: document, proxy: httpPort, tls: tlsPort})
	roots := p.pool()
	awaitLeaf(t, g, "a.example.com", roots)
	for _, name := range []string{"one.shops.example.com", "routed.example.com", "asked.example.net"} {
		if _, err := shownLeaf(g.tls, name, roots); err == nil || !strings.Contains(err.Error(), "unrecognized") {
			t.Errorf("%s, first: %v", name, err)
		}
		awaitLeaf(t, g, name, roots)
	}
	denied := []string{"two.one.shops.example.com", "x.wild.example.com", "other.example.net", "localhost", "shops.example.com"}
	for range 20 {
		for _, name := range denied {
			if _, err := shownLeaf(g.tls, name, roots); err == nil {
				t.Errorf("%s has a certificate", name)
			}
		}
	}
	time.Sleep(time.Second)
	if p.orders() != 4 {
		t.Errorf("%d orders, want 4", p.orders())
	}
	mu.Lock()
	for name, n := range asked {
		if n != 1 || name == "one.shops.example.com" || name == "localhost" {
			t.Errorf("%s was asked about %d times", name, n)
		}
	}
	mu.Unlock()
	g.stop(syscall.SIGTERM)
	g = start(t, options{document: document, proxy: httpPort, tls: tlsPort, dir: g.dir})
	awaitLeaf(t, g, "asked.example.net", roots)
	awaitLeaf(t, g, "one.shops.example.com", roots)
	if p.issued() != 4 {
		t.Errorf("after a restart %d certificates were issued", p.issued())
	}
	// Without the rule its names go.
	g.write(strings.Replace(document, "*.shops.example.com", "*.stalls.example.com", 1))
	poll(t, "the name is gone", 20*time.Second, func() bool {
		_, err := shownLeaf(g.tls, "one.shops.example.com", roots)
		return err != nil
	})
}
