package integration

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kic is a node that serves what was written for KIC.
type kic struct {
	*gateway
	roots *authority
}

// kicManifests are the manifests of testdata/kic but for the class itself, as somebody
// has them who followed KIC's guides.
func kicManifests(t *testing.T) string {
	t.Helper()
	var all []string
	for _, name := range []string{"services", "plugins", "consumers", "ingresses"} {
		text, err := os.ReadFile(filepath.Join("testdata", "kic", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(text))
	}
	return strings.Join(all, "---\n")
}

// TestKICManifests: manifests that were written for KIC work with nothing but the class
// changed, and as they are where the node takes over KIC's class.
func TestKICManifests(t *testing.T) {
	k, dns, roots := startKube(t), startDNS(t), newAuthority(t, "edge")
	dns.a["origin.shop.test."] = "127.0.0.1"
	k.define()
	k.namespace("shop")
	k.controller()
	cert, key := encode(t, roots.server(t, "api.example.com", "orders.example.org", "account.example.com"))
	k.put("shop", "shop-tls", map[string]string{"tls.crt": cert, "tls.key": key})
	k.endpoints("orders", echoing(t, "orders-1"), echoing(t, "orders-2"), echoing(t, "orders-3"))
	k.endpoints("orders-beta", echoing(t, "beta"))
	k.endpoints("web", echoing(t, "web"))
	written := kicManifests(t)
	class, err := os.ReadFile("testdata/kic/class.yaml")
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer("ingressClassName: kong\n", "ingressClassName: keyway\n", "kubernetes.io/ingress.class: kong\n", "kubernetes.io/ingress.class: keyway\n").Replace(written)
	for _, c := range []struct {
		name, manifests string
		env             map[string]string
	}{
		{"the class changed", ingressClass + changed, nil},
		{"as they are", string(class) + "---\n" + written, map[string]string{"KEYWAY_KUBE_INGRESS_CLASS": "kong", "KEYWAY_KUBE_CONTROLLERS": "keyway.dev/ingress,ingress-controllers.konghq.com/kong"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k.t = t
			k.apply(c.manifests)
			s := &kic{kubeGateway(t, k, dns, c.env, options{}), roots}
			s.answers(roots, "api.example.com", "/orders/7", 200, "", "apikey", "bob-0123456789")
			t.Run("authentication", s.authenticates)
			t.Run("limits", s.limits)
			t.Run("balancing", s.balances)
			t.Run("routes", s.routes)
			t.Run("redirects", s.redirects)
			if _, status := s.read("/status"); strings.Contains(status, "shop/") {
				t.Errorf("something is refused: %s", status)
			}
			poll(t, "the Ingress has its address", 30*time.Second, func() bool {
				text, _ := json.Marshal(k.do(http.MethodGet, "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/orders", nil)["status"])
				return strings.Contains(string(text), "192.0.2.7")
			})
			s.stop(syscall.SIGTERM)
		})
	}
}

// echoing is an origin that says who it is, and what it got.
func echoing(t *testing.T, name string) string {
	return origin(t, func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{
			"name": name, "path": r.URL.Path, "host": r.Host, "consumer": r.Header.Get("X-Consumer-Username"), "custom": r.Header.Get("X-Consumer-Custom-ID"),
			"key": r.Header.Get("apikey"), "correlation": r.Header.Get("X-Correlation-ID"),
		})
	})
}

// kicAnswer is what came of a request: of the origin's words those that it got.
type kicAnswer struct {
	status int
	header http.Header
	body   string
	got    map[string]string
}

// ask sends a request, over TLS for a URL of https. fields are pairs.
func (s *kic) ask(t *testing.T, method, url string, fields ...string) kicAnswer {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: s.roots.pool(), ServerName: req.URL.Host, MinVersion: tls.VersionTLS12}}
	req.Host, req.URL.Host = req.URL.Host, s.proxy
	if req.URL.Scheme == "https" {
		req.URL.Host = s.tls
	}
	for i := 0; i+1 < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := kicAnswer{status: resp.StatusCode, header: resp.Header, body: string(body)}
	_ = json.Unmarshal(body, &a.got) // of an origin it is that
	return a
}

const kicOrders = "https://api.example.com/orders/7"

func (s *kic) authenticates(t *testing.T) {
	if a := s.ask(t, http.MethodGet, kicOrders); a.status != 401 || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Key") || !strings.Contains(a.body, "No API key found in request") {
		t.Errorf("without a key: %d %v %s", a.status, a.header, a.body)
	}
	if a := s.ask(t, http.MethodGet, kicOrders, "apikey", "nobody"); a.status != 401 {
		t.Errorf("with a wrong key: %d %s", a.status, a.body)
	}
	a := s.ask(t, http.MethodGet, kicOrders, "apikey", "alice-0123456789")
	want := map[string]string{"name": a.got["name"], "path": "/internal/7", "host": "api.example.com", "consumer": "alice", "custom": "customer-1", "key": "", "correlation": a.header.Get("X-Correlation-ID")}
	if a.status != 200 || !maps.Equal(a.got, want) {
		t.Errorf("with alice's key: %d %s; want %v", a.status, a.body, want)
	}
	if a.header.Get("X-Correlation-ID") == "" || a.header.Get("X-Served-By") != "orders" {
		t.Errorf("fields of the global plugin and of the Service's: %v", a.header)
	}
	if a := s.ask(t, http.MethodGet, "https://orders.example.org/orders/7", "apikey", "bob-0123456789"); a.status != 200 || a.got["host"] != "orders.example.org" {
		t.Errorf("at the alias: %d %s", a.status, a.body)
	}
}

func (s *kic) limits(t *testing.T) {
	var a kicAnswer
	served := 0
	for range 12 { // of one minute, or of two
		a = s.ask(t, http.MethodGet, kicOrders, "apikey", "alice-0123456789")
		if a.status != 200 {
			break
		}
		served++
		left, err := strconv.Atoi(a.header.Get("X-RateLimit-Remaining-Minute"))
		if err != nil || left < 0 || left > 4 || a.header.Get("X-RateLimit-Limit-Minute") != "5" || a.header.Get("RateLimit-Limit") != "5" || a.header.Get("RateLimit-Reset") == "" {
			t.Errorf("request %d: %v", served, a.header)
		}
	}
	retry, err := strconv.Atoi(a.header.Get("Retry-After"))
	if a.status != 429 || !strings.Contains(a.body, "API rate limit exceeded") || a.header.Get("X-RateLimit-Remaining-Minute") != "0" || a.header.Get("RateLimit-Remaining") != "0" || err != nil || retry < 1 || retry > 60 {
		t.Errorf("after %d requests: %d %v %s", served, a.status, a.header, a.body)
	}
	// A consumer of a group has its limit in place of the Ingress's.
	a = s.ask(t, http.MethodGet, kicOrders, "apikey", "bob-0123456789")
	if a.status != 200 || a.header.Get("X-RateLimit-Limit-Hour") != "1000" || a.header.Get("X-RateLimit-Limit-Minute") != "" {
		t.Errorf("bob, who is of partners: %d %v", a.status, a.header)
	}
}

func (s *kic) balances(t *testing.T) {
	seen := map[string]bool{}
	for user := range 24 {
		first := ""
		for range 3 {
			a := s.ask(t, http.MethodPost, kicOrders, "apikey", "bob-0123456789", "X-User", fmt.Sprint("user-", user))
			if a.status != 200 || first != "" && a.got["name"] != first {
				t.Fatalf("user %d: %d %s; expected %s again", user, a.status, a.body, first)
			}
			first = a.got["name"]
		}
		seen[first] = true
	}
	if len(seen) < 2 {
		t.Errorf("24 users are all at %v", slices.Collect(maps.Keys(seen)))
	}
}

func (s *kic) routes(t *testing.T) {
	const alice, bob = "alice-0123456789", "bob-0123456789"
	for _, c := range []struct {
		what, method, url string
		fields            []string
		status            int
		name, path, host  string
	}{
		{"another method", "DELETE", kicOrders, []string{"apikey", bob}, 404, "", "", ""},
		{"a path that only begins alike", "GET", "https://api.example.com/ordersx", []string{"apikey", bob}, 404, "", "", ""},
		{"the header's route, for a buyer", "GET", kicOrders, []string{"apikey", alice, "X-Release", "canary"}, 200, "beta", "/orders/7", "beta.internal"},
		{"and for another", "GET", kicOrders, []string{"apikey", bob, "X-Release", "beta"}, 403, "", "", ""},
		{"a rewrite", "GET", "http://www.example.com/catalogue/42", nil, 200, "web", "/v2/items/42", "www.example.com"},
		{"which the path is not for", "GET", "http://www.example.com/catalogue/42/x", nil, 404, "", "", ""},
		{"Exact", "GET", "http://www.example.com/exact", nil, 200, "web", "/exact", "www.example.com"},
		{"below Exact", "GET", "http://www.example.com/exact/x", nil, 404, "", "", ""},
		{"Prefix", "GET", "http://www.example.com/static", nil, 200, "web", "/static", "www.example.com"},
		{"below Prefix", "GET", "http://www.example.com/static/a/b", nil, 200, "web", "/static/a/b", "www.example.com"},
		{"beside Prefix", "GET", "http://www.example.com/statics", nil, 404, "", "", ""},
		{"over TLS", "GET", "https://account.example.com/me", nil, 200, "web", "/me", "account.example.com"},
		{"another host", "GET", "http://other.example.com/static", nil, 404, "", "", ""},
	} {
		a := s.ask(t, c.method, c.url, c.fields...)
		if a.status != c.status || a.got["name"] != c.name || a.got["path"] != c.path || a.got["host"] != c.host {
			t.Errorf("%s: %s %s: %d %s; want %d %s %s %s", c.what, c.method, c.url, a.status, a.body, c.status, c.name, c.path, c.host)
		}
		if c.status == 404 && !strings.Contains(a.body, "no Route matched with those values") {
			t.Errorf("%s: %s", c.what, a.body)
		}
	}
}

func (s *kic) redirects(t *testing.T) {
	for _, c := range []struct {
		url    string
		status int
	}{{"http://api.example.com/orders/7?page=2", 308}, {"http://account.example.com/me?page=2", 302}} {
		a := s.ask(t, http.MethodGet, c.url)
		_, port, _ := strings.Cut(s.tls, ":")
		want := strings.Replace(c.url, "http:", "https:", 1)
		if at := a.header.Get("Location"); a.status != c.status || at != want && at != strings.Replace(want, ".com/", ".com:"+port+"/", 1) {
			t.Errorf("%s: %d to %s; want %d to %s", c.url, a.status, at, c.status, want)
		}
	}
}
