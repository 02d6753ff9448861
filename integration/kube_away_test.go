package integration

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// kubeCases is how long the cases of an API server that fails go on: seconds, or with
// KUBE_CASES=full as long as they are to be shown.
func kubeCases(short, full time.Duration) time.Duration {
	if os.Getenv("KUBE_CASES") == "full" {
		return full
	}
	return short
}

// troubled is a node that serves a cluster through a proxy that fails, under traffic.
type troubled struct {
	*gateway
	k       *kubeServer
	f       *faulty
	roots   *authority
	backing [2]string // addresses of origins
	changes int
}

// change changes something of each kind that is followed: the endpoints of a Service, the
// host of an Ingress, the certificate of another. It answers what is served then.
func (n *troubled) change() (served func() bool) {
	n.k.t.Helper()
	n.changes++
	host, text := fmt.Sprintf("n%d.test", n.changes), [2]string{"even", "odd"}[n.changes%2]
	n.k.backend("moving", n.backing[n.changes%2])
	n.k.apply(strings.Replace(ingressOf("named", host, "moving", ""), "tls: [{hosts: ["+host+"], secretName: pair}]", "tls: []", 1))
	pair := n.roots.server(n.k.t, "b.test")
	cert, key := encode(n.k.t, pair)
	n.k.put("shop", "renewed", map[string]string{"tls.crt": cert, "tls.key": key})
	want, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		n.k.t.Fatal(err)
	}
	return func() bool {
		code, body := n.asked(nil, host, "/")
		leaf, err := shownLeaf(n.tls, "b.test", n.roots.pool())
		return code == http.StatusOK && strings.HasPrefix(body, text) && err == nil && leaf.Equal(want)
	}
}

// stale is the greatest age that metrics tell of objects that cannot be followed.
func (n *troubled) stale() (most float64) {
	_, text := n.read("/metrics")
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "keyway_kube_stale_seconds{"); ok {
			_, value, _ := strings.Cut(strings.TrimSpace(rest), "} ")
			v, _ := strconv.ParseFloat(value, 64)
			most = max(most, v)
		}
	}
	return most
}

// tries are the calls to the proxy since a time that the provider of objects made: not those
// of the lease, and none of Secrets, which have a source of their own.
func (n *troubled) tries(from time.Time) []faultCall {
	return slices.DeleteFunc(n.f.since(from, "/api"), func(c faultCall) bool {
		return strings.Contains(c.path, "/leases") || strings.Contains(c.path, "/secrets") || strings.Contains(c.path, "cert-manager.io") || c.method != http.MethodGet
	})
}

// TestKubeAway (C-01, C-02, F-08, F-09): an API server that is away, refuses or closes every
// watch costs no request and no handshake, is tried once a second at most, and what changed
// meanwhile is served when it is back, all of it.
func TestKubeAway(t *testing.T) {
	k, dns, roots := startKube(t), startDNS(t), newAuthority(t, "edge")
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.define()
	k.namespace("shop")
	k.controller()
	n := &troubled{k: k, roots: roots, backing: [2]string{saying(t, "even"), saying(t, "odd")}}
	n.f = faultProxy(t, k.addr, k.front(), k.a.pool())
	k.kubeconfig("keyway", "keyway", "https://"+n.f.addr)
	cert, key := encode(t, roots.server(t, "a.test"))
	k.put("shop", "pair", map[string]string{"tls.crt": cert, "tls.key": key})
	k.backend("web", saying(t, "web"))
	k.apply(ingressClass + ingressOf("i", "a.test", "web", "") + strings.Replace(ingressOf("r", "b.test", "web", ""), "secretName: pair", "secretName: renewed", 1))
	first := n.change()
	n.gateway = kubeGateway(t, k, dns, nil, options{})
	poll(t, "all is served", 30*time.Second, first)
	l := (&clients{g: n.gateway, roots: roots.pool(), names: []string{"a.test", "b.test"}}).begin(2)

	back := func(what string, next func() bool) {
		t.Helper()
		began := time.Now()
		n.f.set(t, faultNone)
		poll(t, what+": what changed meanwhile is served", 20*time.Second, next)
		t.Logf("%s: what changed meanwhile is served after %s", what, time.Since(began))
	}
	// Nobody listens, then every call fails, then the server asks for time.
	n.f.set(t, faultRefuse)
	next := n.change()
	time.Sleep(kubeCases(2*time.Second, 59*time.Minute)) // that long it is away
	n.f.set(t, faultDown)
	began := time.Now()
	time.Sleep(kubeCases(4*time.Second, time.Minute))
	// Whoever of all that wait has the turn tries, and it may be a source of Secrets.
	poll(t, "it is tried", 30*time.Second, func() bool { return len(n.tries(began)) > 0 })
	// One may come late, and the next in time: it is the number that counts.
	took := time.Since(began)
	if calls := n.tries(began); len(calls) > int(took/time.Second)+2 || busiest(calls, 300*time.Millisecond) > 2 {
		t.Errorf("%d tries in %s, %d within 0.3 s", len(calls), took, busiest(calls, 300*time.Millisecond))
	}
	if age := n.stale(); age < 2 || n.get("/status/ready") != http.StatusOK {
		t.Errorf("stale for %v s, ready %d", age, n.get("/status/ready"))
	}
	back("away", next)
	n.f.set(t, faultRefuse)
	n.f.throttle(t, 3*time.Second)
	next = n.change()
	time.Sleep(kubeCases(2*time.Second, time.Minute)) // that long it throttles
	back("429", next)
	poll(t, "nothing is stale any more", 30*time.Second, func() bool { return n.stale() == 0 })
	// Every watch is closed again and again, with changes between.
	for until := time.Now().Add(kubeCases(3*time.Second, 30*time.Minute)); time.Now().Before(until); {
		n.f.set(t, faultRefuse)
		n.change()
		n.f.set(t, faultNone)
		next = n.change()
		pause(nil, kubeCases(200*time.Millisecond, 5*time.Second))
	}
	poll(t, "the last of all changes is served", 20*time.Second, next)
	l.end()
	if l.lost.Load()+l.failed.Load() > 0 || l.requests.Load() < 100 {
		t.Errorf("%d of %d requests lost, %d of %d handshakes failed; first: %v", l.lost.Load(), l.requests.Load(), l.failed.Load(), l.handshakes.Load(), l.first.Load())
	}
	t.Logf("%d requests, %d handshakes, %d changes", l.requests.Load(), l.handshakes.Load(), n.changes)
}
