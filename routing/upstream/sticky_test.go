package upstream

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// stuck is a gateway whose upstream has sticky sessions.
func stuck(t *testing.T, edit func(*spec.Document), addrs ...string) *gateway {
	return through(t, func(d *spec.Document) {
		u := d.Upstreams[0]
		u.ID, u.Algorithm, u.StickyCookie, u.StickyCookiePath = "up-id", "sticky-sessions", "sid", "/shop"
		for _, x := range d.Targets {
			x.Upstream = u.ID
		}
		if edit != nil {
			edit(d)
		}
	}, addrs...)
}

// visit sends a request with cookies and answers who said what, and the cookie that was set.
func (g *gateway) visit(t *testing.T, secure bool, cookies ...string) (said, cookie string) {
	t.Helper()
	x := ask(t.Context(), "GET", "")
	for _, c := range cookies {
		x.Request.Fields.Add("Cookie", c)
	}
	if err := g.set.Cluster(g.svc.ID).Do(x, &Outgoing{URI: "/", Fields: &exchange.Fields{}, HostDefault: true, Secure: secure}); err != nil {
		return err.Error(), ""
	}
	body := make([]byte, 64)
	n, _ := x.Response.Body.Read(body)
	for { // to its end, so that the connection is given back
		if _, err := x.Response.Body.Read(make([]byte, 64)); err != nil {
			break
		}
	}
	cookie, _ = x.Response.Fields.Lookup("Set-Cookie")
	return string(body[:n]), cookie
}

func saying(t *testing.T, text string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestStickySessions(t *testing.T) {
	a, b := saying(t, "a"), saying(t, "b")
	g := stuck(t, nil, a, b)
	first, set := g.visit(t, false)
	pair, rest, _ := strings.Cut(set, ";")
	if rest != " Path=/shop; SameSite=Lax; HttpOnly" || !strings.HasPrefix(pair, "sid=") {
		t.Fatalf("cookie %q", set)
	}
	if _, set := g.visit(t, true); !strings.HasSuffix(set, "; HttpOnly; Secure") {
		t.Errorf("over TLS: %q", set)
	}
	for i, cookies := range [][]string{{pair}, {"x=1; " + pair}, {"x=1", pair + "; y=2"}, {"sid=other; " + pair}, {"sid=", "sid", pair}, {pair}, {pair}} {
		if said, set := g.visit(t, false, cookies...); said != first || set != "" {
			t.Errorf("%d: %v leads to %q and sets %q, want %q", i, cookies, said, set, first)
		}
	}
	seen := map[string]bool{}
	for range 4 {
		said, set := g.visit(t, false, "sid=forged", "other="+strings.TrimPrefix(pair, "sid="))
		seen[said] = true
		if set == "" {
			t.Error("a cookie that names nobody is not renewed")
		}
	}
	if len(seen) != 2 {
		t.Errorf("new clients come to %v alone", seen)
	}
	// Another node names targets alike; another upstream does not.
	other := stuck(t, nil, b, a)
	if said, set := other.visit(t, false, pair); said != first || set != "" {
		t.Errorf("another node: %q, sets %q", said, set)
	}
	for name, edit := range map[string]func(*spec.Document){
		"id": func(d *spec.Document) {
			d.Upstreams[0].ID, d.Targets[0].Upstream, d.Targets[1].Upstream = "z", "z", "z"
		},
		"uid": func(d *spec.Document) { d.Upstreams[0].Tags = []string{"k8s-uid:1"} },
	} {
		if _, set := stuck(t, edit, a, b).visit(t, false, pair); set == "" {
			t.Errorf("an upstream of another %s takes the cookie", name)
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(pair, "sid="))
	if err != nil || len(raw) != 16 || strings.Contains(string(raw), "127.0") {
		t.Errorf("token %q: %v", raw, err)
	}
}

func TestStickySessionsMove(t *testing.T) {
	a, b := saying(t, "a"), saying(t, "b")
	g := stuck(t, func(d *spec.Document) { d.Services[0].Retries = 1 }, a, b)
	cl := g.set.clusters[g.svc.ID].balancer
	_, set := g.visit(t, false)
	pair, _, _ := strings.Cut(set, ";")
	at := cl.current().sessions[strings.TrimPrefix(pair, "sid=")]
	away := "a"
	if at.name == a {
		away = "b"
	}
	// Unhealthy, another is chosen and the cookie renewed; back again, it leads there again.
	cl.mark(at, false)
	said, set := g.visit(t, false, pair)
	if said != away || set == "" {
		t.Errorf("with its target down: %q, sets %q", said, set)
	}
	cl.mark(at, true)
	if said, set := g.visit(t, false, pair); said == away || set != "" {
		t.Errorf("with its target back: %q, sets %q", said, set)
	}
	// A target that gets nobody new keeps those that it has.
	d := *g.doc
	d.Targets = nil
	for _, x := range g.doc.Targets {
		y := *x
		if y.Target == at.name {
			y.Weight = 0
		}
		d.Targets = append(d.Targets, &y)
	}
	next, problems := Build(g.set, Inputs{Doc: &d, Pools: g.pools})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	g.set = next
	if said, set := g.visit(t, false, pair); said == away || set != "" {
		t.Errorf("a draining target loses a session: %q, sets %q", said, set)
	}
	for range 4 {
		if said, _ := g.visit(t, false); said != away {
			t.Errorf("a draining target gets somebody new")
		}
	}
	d.Targets = d.Targets[:0:0]
	for _, x := range g.doc.Targets {
		if x.Target != at.name {
			d.Targets = append(d.Targets, x)
		}
	}
	if g.set, problems = Build(g.set, Inputs{Doc: &d, Pools: g.pools}); len(problems) > 0 {
		t.Fatal(problems)
	}
	if said, set := g.visit(t, false, pair); said != away || set == "" {
		t.Errorf("with its target gone: %q, sets %q", said, set)
	}
}

// TestStickySessionsRetry has a session at a target that breaks every connection.
func TestStickySessionsRetry(t *testing.T) {
	broken := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(broken.Close)
	addr := broken.Listener.Addr().String()
	live := saying(t, "live")
	g := stuck(t, func(d *spec.Document) { d.Services[0].Retries = 1 }, addr, live)
	pair := "sid=" + g.set.clusters[g.svc.ID].balancer.sticky.token(addr)
	said, set := g.visit(t, false, pair)
	if said != "live" || set == "" {
		t.Fatalf("%q, sets %q", said, set)
	}
	renewed, _, _ := strings.Cut(set, ";")
	if said, set := g.visit(t, false, renewed); said != "live" || set != "" {
		t.Errorf("the renewed cookie: %q, sets %q", said, set)
	}
}

// TestStickySessionsOfNames has the first client of a target that is a name: the cookie
// leads to the address at once.
func TestStickySessionsOfNames(t *testing.T) {
	_, port, _ := strings.Cut(saying(t, "named"), ":")
	g := stuck(t, nil, "shop.test:"+port)
	_, set := g.visit(t, false)
	pair, _, _ := strings.Cut(set, ";")
	if said, set := g.visit(t, false, pair); said != "named" || set != "" || pair == "" {
		t.Errorf("%q, sets %q after %q", said, set, pair)
	}
}
