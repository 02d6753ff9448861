package edge

import (
	"io"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing"
)

func TestWithQuery(t *testing.T) {
	f := func(target, uri, query, want string) {
		t.Helper()
		if got := withQuery(target, uri, query); got != want {
			t.Errorf("withQuery(%q, %q, %q) = %q, want %q", target, uri, query, got, want)
		}
	}
	f("/api/a?b=c", "/a", "b=c", "/a?b=c")
	f("/a?b=c", "/a", "b=c", "/a?b=c")
	f("/a?", "/a", "", "/a?")
	f("/a?b=c", "/a", "b=d", "/a?b=d")
	f("/a?b=c", "/service/a", "b=c", "/service/a?b=c")
	f("/a?x?b", "/a", "x?b", "/a?x?b")
	f("/aXb", "/a", "b", "/a?b")
	f("", "/a", "b", "/a?b")
}

// site is a document with one service at the origin.
func site(o *originServer, routes string) string {
	return "services:\n- {name: s, url: \"" + o.URL + "\", routes: [" + routes + "]}\n"
}

const allHeaders = HeaderServer | HeaderVia | HeaderProxyLatency | HeaderResponseLatency | HeaderUpstreamLatency | HeaderUpstreamStatus | HeaderRequestID

func TestHandleProxies(t *testing.T) {
	o := newOrigin(t, nil)
	r := newRig(t, &Config{Version: "1.2", Headers: allHeaders, HeadersUpstream: HeaderRequestID}, site(o, "{name: r, paths: [/api]}"))
	x := ask(t, "GET", "Any.Test:8000", "/api/a%2Fb?x=1&y=%20&", "Accept: */*", "X-Twice: 1", "X-Twice: 2")
	if body := r.do(x); x.Response.Status != 200 || body != "from the origin" {
		t.Fatalf("answered %d %q", x.Response.Status, body)
	}
	got := o.got()
	if got.RequestURI != "/a%2Fb?x=1&y=%20&" {
		t.Errorf("the origin got %s", got.RequestURI)
	}
	for name, want := range map[string]string{
		"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "any.test", "X-Forwarded-Port": "8000",
		"X-Forwarded-Path": "/api/a%2Fb", "X-Forwarded-Prefix": "/api", "X-Real-Ip": "192.0.2.7", "Via": "1.1 keyway/1.2", "X-Twice": "1|2",
		"X-Kong-Request-Id": x.RequestID,
	} {
		if v := strings.Join(got.Header[name], "|"); v != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	f := &x.Response.Fields
	for name, want := range map[string]string{"Via": "1.1 keyway/1.2", "Server": "keyway/1.2", "X-Kong-Upstream-Status": "200", "X-Kong-Request-Id": x.RequestID} {
		if f.Get(name) != want {
			t.Errorf("response %s is %q, want %q", name, f.Get(name), want)
		}
	}
	for _, name := range []string{"X-Kong-Upstream-Latency", "X-Kong-Proxy-Latency"} {
		if !regexp.MustCompile(`^\d+$`).MatchString(f.Get(name)) {
			t.Errorf("response %s is %q", name, f.Get(name))
		}
	}
	if f.Has("X-Kong-Response-Latency") {
		t.Error("X-Kong-Response-Latency is for answers made here")
	}
	if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(x.RequestID) {
		t.Errorf("request id %q", x.RequestID)
	}
	if n := len(r.finished); n != 1 || r.finished[0].Source != "service" || r.finished[0].Snapshot != r.publisher.Current() {
		t.Errorf("observed %d exchanges", n)
	}
}

func TestHandleHeaderSwitches(t *testing.T) {
	o := newOrigin(t, nil)
	r := newRig(t, &Config{}, site(o, "{name: r, paths: [/api]}"))
	x := ask(t, "GET", "a.test", "/api", "X-Kong-Request-Id: mine")
	r.do(x)
	for f := range x.Response.Fields.All() {
		if strings.HasPrefix(f.Name, "X-Kong") || f.Name == "Via" || f.Name == "Server" {
			t.Errorf("with headers off the response has %s: %s", f.Name, f.Value)
		}
	}
	if got := o.got().Header.Get("X-Kong-Request-Id"); got != "mine" {
		t.Errorf("with headers_upstream off the client's own id must pass, the origin got %q", got)
	}
	x = ask(t, "GET", "a.test", "/nowhere")
	r.do(x)
	if x.Response.Fields.Has("Server") || x.Response.Fields.Has("X-Kong-Response-Latency") {
		t.Error("with headers off an own answer names no server")
	}
}

func TestParseHeaderSet(t *testing.T) {
	f := func(text string, want HeaderSet) {
		t.Helper()
		if got, err := ParseHeaderSet(text); err != nil || got != want {
			t.Errorf("%q: %b, %v; want %b", text, got, err, want)
		}
	}
	f("off", 0)
	f("", 0)
	f("server_tokens", HeaderServer|HeaderVia)
	f("latency_tokens", HeaderProxyLatency|HeaderResponseLatency|HeaderUpstreamLatency|HeaderAdminLatency)
	f(" via , X-KONG-Upstream-Status,x-kong-request-id", HeaderVia|HeaderUpstreamStatus|HeaderRequestID)
	f("server,x-kong-proxy-latency,x-kong-response-latency,x-kong-upstream-latency,x-kong-admin-latency", HeaderServer|HeaderProxyLatency|HeaderResponseLatency|HeaderUpstreamLatency|HeaderAdminLatency)
	if _, err := ParseHeaderSet("via, x-nonsense"); err == nil || !strings.Contains(err.Error(), `"x-nonsense"`) || !strings.Contains(err.Error(), "expected") {
		t.Errorf("the error must name the word and what was expected: %v", err)
	}
}

func TestHandleOwnAnswers(t *testing.T) {
	o := newOrigin(t, nil)
	routes := `{name: open, paths: [/open]}, {name: secure, paths: [/secure], protocols: [https]}, {name: moved, paths: [/moved], protocols: [https], https_redirect_status_code: 301},
		{name: grpc, paths: [/grpc], protocols: [grpc]}`
	doc := site(o, routes) + "routes: [{name: alone, paths: [/alone]}]\n"
	r := newRig(t, &Config{Version: "1", Headers: allHeaders}, doc)
	f := func(target string, status int, body, field, value string) {
		t.Helper()
		x := ask(t, "GET", "A.test:80", target)
		if got := r.do(x); x.Response.Status != status || !strings.Contains(got, body) {
			t.Errorf("%s answered %d %q, want %d %q", target, x.Response.Status, got, status, body)
		}
		if field != "" && x.Response.Fields.Get(field) != value {
			t.Errorf("%s: %s is %q, want %q", target, field, x.Response.Fields.Get(field), value)
		}
		if x.Response.Fields.Get("Date") == "" || x.Response.Fields.Get("X-Kong-Response-Latency") == "" || x.Response.Fields.Has("Via") {
			t.Errorf("%s: the fields of an own answer are wrong", target)
		}
		if o.got() != nil {
			t.Errorf("%s reached the origin", target)
		}
	}
	f("/nowhere", 404, "no Route matched with those values", "Server", "keyway/1")
	f("/secure", 426, "Please use HTTPS protocol", "Upgrade", "TLS/1.2, HTTP/1.1")
	f("/moved/a?b=c", 301, "301 Moved Permanently", "Location", "https://a.test/moved/a?b=c")
	f("/grpc", 426, "Please use HTTP2 protocol", "Upgrade", "HTTP/2")
	f("/alone", 503, "no Service found with those values", "", "")
}

// TestHandleCallsOfNoRoute: what no route takes is not found, as known from elsewhere, and not
// implemented where the document says where it listens.
func TestHandleCallsOfNoRoute(t *testing.T) {
	for doc, want := range map[string]string{"services: []\n": "5", "x_keyway_listeners: [{name: web, protocol: http, port: 80}]\n": "12"} {
		r := newRig(t, &Config{}, doc)
		x := ask(t, "POST", "a.test", "/a.B/C", "Content-Type: application/grpc")
		x.Request.Version = exchange.HTTP2
		if r.do(x); x.Response.Status != 404 || x.Response.Fields.Get("grpc-status") != want || x.Response.Fields.Get("grpc-message") != "no Route matched with those values" {
			t.Errorf("%q: %d, grpc-status %q", doc, x.Response.Status, x.Response.Fields.Get("grpc-status"))
		}
	}
}

func TestHandleTrustedProtocolOpensTLSRoutes(t *testing.T) {
	o := newOrigin(t, nil)
	doc := site(o, "{name: r, paths: [/], protocols: [https]}")
	for _, c := range []struct {
		trusted string
		want    int
	}{{"192.0.2.0/24", 200}, {"198.51.100.0/24", 426}} {
		r := newRig(t, &Config{TrustedIPs: []netip.Prefix{netip.MustParsePrefix(c.trusted)}}, doc)
		x := ask(t, "GET", "a.test", "/", "X-Forwarded-Proto: https")
		if r.do(x); x.Response.Status != c.want {
			t.Errorf("trusting %s: answered %d, want %d", c.trusted, x.Response.Status, c.want)
		}
	}
}

// TestForwardedFields holds the table of what is told to the origin about the client.
func TestForwardedFields(t *testing.T) {
	o := newOrigin(t, nil)
	near := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/8")}
	xff := "X-Forwarded-For"
	for _, c := range []struct {
		name      string
		policy    routing.Policy
		trusted   []netip.Prefix
		header    string
		recursive bool
		lines     []string
		want      map[string]string // "" for absent
	}{
		{
			"a stranger's word counts nothing", routing.Strict, nil, "", false,
			[]string{xff + ": 10.1.1.1", "X-Forwarded-Proto: https", "X-Real-IP: 9.9.9.9", "Forwarded: for=9.9.9.9", "X-Forwarded-Client-Cert: x", "X_Forwarded_For: 9.9.9.9", "X-Forwarded-Host: evil"},
			map[string]string{xff: "192.0.2.7", "X-Forwarded-Proto": "http", "X-Real-Ip": "192.0.2.7", "Forwarded": "", "X-Forwarded-Client-Cert": "", "X_forwarded_for": "", "X-Forwarded-Host": "h.test"},
		},
		{
			"as recorded, a stranger's list is lengthened", routing.Compatible, nil, "", false,
			[]string{xff + ": 10.1.1.1", xff + ": 10.2.2.2", "X-Forwarded-Proto: https", "Forwarded: for=9.9.9.9", "X_Name: 1"},
			map[string]string{xff: "10.1.1.1, 192.0.2.7", "X-Forwarded-Proto": "http", "Forwarded": "for=9.9.9.9", "X_name": "1"},
		},
		{"as recorded, an empty list too", routing.Compatible, nil, "", false, []string{xff + ": "}, map[string]string{xff: ", 192.0.2.7"}},
		{
			"a trusted peer is believed", routing.Strict, near, "", false,
			[]string{xff + ": 1.2.3.4", "X-Forwarded-Proto: https", "X-Forwarded-Host: fh.test", "X-Forwarded-Port: 444", "X-Forwarded-Path: /p", "X-Forwarded-Prefix: /q", "X-Real-IP: 9.9.9.9"},
			map[string]string{xff: "1.2.3.4, 192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "fh.test", "X-Forwarded-Port": "444", "X-Forwarded-Path": "/p", "X-Forwarded-Prefix": "/q", "X-Real-Ip": "9.9.9.9"},
		},
		{"a trusted peer's empty value is no value", routing.Strict, near, "", false, []string{"X-Forwarded-Proto: ", "X-Forwarded-Host: "}, map[string]string{"X-Forwarded-Proto": "", "X-Forwarded-Host": ""}},
		{
			"a line that a trusted proxy added is not pushed out by the client's", routing.Strict, near, "", false,
			[]string{xff + ": 6.6.6.6", xff + ": 1.2.3.4"},
			map[string]string{xff: "6.6.6.6, 1.2.3.4, 192.0.2.7"},
		},
		{
			"as recorded, only the first line is sent on", routing.Compatible, near, "", false,
			[]string{xff + ": 6.6.6.6", xff + ": 1.2.3.4"},
			map[string]string{xff: "6.6.6.6, 192.0.2.7"},
		},
		{"without a list the real client stands in it", routing.Strict, near, "", false, []string{"X-Real-IP: 9.9.9.9"}, map[string]string{xff: "9.9.9.9", "X-Real-Ip": "9.9.9.9"}},
		{"the last of the list", routing.Strict, near, xff, false, []string{xff + ": 1.2.3.4, 10.0.0.1"}, map[string]string{"X-Real-Ip": "10.0.0.1"}},
		{"recursively, the last that is not trusted", routing.Strict, near, xff, true, []string{xff + ": 5.5.5.5, 1.2.3.4, 10.0.0.1"}, map[string]string{"X-Real-Ip": "1.2.3.4"}},
		{"over several lines", routing.Strict, near, xff, true, []string{xff + ": 5.5.5.5", xff + ": 1.2.3.4", xff + ": 10.0.0.1"}, map[string]string{"X-Real-Ip": "1.2.3.4"}},
		{"what is no address ends the search", routing.Strict, near, xff, true, []string{xff + ": 5.5.5.5, bad, 10.0.0.1"}, map[string]string{"X-Real-Ip": "10.0.0.1"}},
		{"all of it trusted: the first", routing.Strict, near, xff, true, []string{xff + ": 10.0.0.9, 10.0.0.1"}, map[string]string{"X-Real-Ip": "10.0.0.9"}},
		{"an address with a port", routing.Strict, near, xff, true, []string{xff + ": [2001:db8::1]:443"}, map[string]string{"X-Real-Ip": "2001:db8::1"}},
		{"a list in another header", routing.Strict, near, "X-Client", false, []string{"X-Client: 5.5.5.5, 1.2.3.4"}, map[string]string{"X-Real-Ip": "1.2.3.4"}},
		{"a Via is lengthened", routing.Strict, nil, "", false, []string{"Via: 1.0 a", "Via: 1.1 b"}, map[string]string{"Via": "1.0 a, 1.1 keyway/0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, &Config{Policy: c.policy, TrustedIPs: c.trusted, RealIPHeader: c.header, RealIPRecursive: c.recursive}, site(o, "{name: r, paths: [/]}"))
			x := ask(t, "GET", "h.test", "/", c.lines...)
			if r.do(x); x.Response.Status != 200 {
				t.Fatalf("answered %d", x.Response.Status)
			}
			got := o.got().Header
			for name, want := range c.want {
				v := strings.Join(got[name], "|")
				if _, there := got[name]; v != want || there != (want != "") {
					t.Errorf("%s is %q, want %q", name, v, want)
				}
			}
		})
	}
}

func TestHandleViaNamesTheVersion(t *testing.T) {
	o := newOrigin(t, nil)
	r := newRig(t, &Config{}, site(o, "{name: r, paths: [/]}"))
	for version, want := range map[int]string{exchange.HTTP10: "1 keyway/0", exchange.HTTP11: "1.1 keyway/0", exchange.HTTP2: "2 keyway/0"} {
		x := ask(t, "GET", "a.test", "/")
		x.Request.Version = version
		r.do(x)
		if got := o.got().Header.Get("Via"); got != want {
			t.Errorf("version %x: Via %q, want %q", version, got, want)
		}
	}
}

func TestHandleStrictRefusesWhatReadersReadDifferently(t *testing.T) {
	o := newOrigin(t, nil)
	for _, target := range []string{"/a#b", "/a?b#c", "/\xc3\xa9", "/a?\xff", "/a\\b", "/%00", "/a/..;/b", "/a%2f../b"} {
		for _, p := range []routing.Policy{routing.Strict, routing.Compatible} {
			r := newRig(t, &Config{Policy: p}, site(o, "{name: r, paths: [/]}"))
			x := ask(t, "GET", "a.test", target)
			r.do(x)
			reached := o.got() != nil
			refused := x.Response.Status == 400 && !reached
			if p == routing.Strict && (!refused || !x.Response.Close) {
				t.Errorf("strict: %q answered %d, close %v; want 400 and the end of the connection", target, x.Response.Status, x.Response.Close)
			}
			if p == routing.Compatible && target == "/a#b" && x.Response.Status != 200 {
				t.Errorf("compatible: %q answered %d, recorded as served", target, x.Response.Status)
			}
		}
	}
}

func TestHandleRefusedByTheEngine(t *testing.T) {
	r := newRig(t, &Config{}, "routes: [{name: r, paths: [/]}]")
	for _, status := range []int{400, 408, 413, 414, 431, 501, 505} {
		x := ask(t, "GET", "", "/")
		x.Refused = status
		body := r.do(x)
		if x.Response.Status != status || body == "" {
			t.Errorf("answered %d %q, want %d", x.Response.Status, body, status)
		}
	}
}

func TestHandleBeforeTheFirstSnapshot(t *testing.T) {
	r := newRig(t, &Config{}, "")
	x := ask(t, "GET", "a.test", "/")
	if body := r.do(x); x.Response.Status != 503 || !strings.Contains(body, "no configuration is loaded yet") {
		t.Errorf("answered %d %q", x.Response.Status, body)
	}
	if len(r.finished) != 1 || r.finished[0].Snapshot != nil {
		t.Error("it is observed all the same")
	}
}

func TestHandleSurvivesPanics(t *testing.T) {
	o := newOrigin(t, nil)
	for _, phase := range []string{"access", "header", "log"} {
		r := newRig(t, &Config{Headers: HeaderRequestID}, site(o, "{name: r, paths: [/], plugins: [{name: bomb, config: {phase: "+phase+"}}]}"))
		x := ask(t, "GET", "a.test", "/")
		body := r.do(x)
		want := 500
		if phase == "log" {
			want = 200
		}
		if x.Response.Status != want || x.Response.Fields.Get("X-Kong-Request-Id") != x.RequestID {
			t.Errorf("%s: answered %d %q", phase, x.Response.Status, body)
		}
		if strings.Contains(body, "goes off") {
			t.Errorf("%s: the client is told of the inside: %q", phase, body)
		}
		if len(r.finished) != 1 {
			t.Errorf("%s: observed %d times", phase, len(r.finished))
		}
		poll(t, phase+": an upstream connection is held for nobody", func() bool { return o.open() == r.builder.Pools.Stats().Idle })
		o.CloseClientConnections()
	}
}

// TestHandleGoneBodies holds whose fault a broken request body is.
func TestHandleGoneBodies(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, q *http.Request) { _, _ = io.Copy(io.Discard, q.Body) })
	r := newRig(t, &Config{}, site(o, "{name: r, paths: [/]}"))
	for status, want := range map[int]int{400: 400, 413: 413, 0: 499} {
		x := ask(t, "POST", "a.test", "/")
		x.Request.Body, x.Request.Length = brokenBody{&exchange.BodyError{Status: status, Err: io.ErrUnexpectedEOF}}, -1
		if r.do(x); x.Response.Status != want || !x.Response.Close {
			t.Errorf("a body error of status %d: answered %d, close %v", status, x.Response.Status, x.Response.Close)
		}
	}
	o.Close()
	x := ask(t, "GET", "a.test", "/")
	if r.do(x); x.Response.Status != 502 || r.finished[len(r.finished)-1].Source != "keyway" {
		t.Errorf("a dead origin: answered %d", x.Response.Status)
	}
}

type brokenBody struct{ err error }

func (b brokenBody) Read([]byte) (int, error) { return 0, b.err }

func TestHandleDebugHeader(t *testing.T) {
	o := newOrigin(t, nil)
	for _, allowed := range []bool{true, false} {
		r := newRig(t, &Config{AllowDebugHeader: allowed}, site(o, "{name: r, paths: [/]}"))
		x := ask(t, "GET", "a.test", "/", "Kong-Debug: 1")
		r.do(x)
		if got := x.Response.Fields.Get("Kong-Route-Name") == "r" && x.Response.Fields.Get("Kong-Service-Name") == "s"; got != allowed {
			t.Errorf("allow_debug_header %v: told %v", allowed, got)
		}
	}
}

func TestHandlePinsItsSnapshot(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{})
	o := newOrigin(t, func(http.ResponseWriter, *http.Request) { close(entered); <-release })
	r := newRig(t, &Config{}, site(o, "{name: r, paths: [/]}"))
	first := r.publisher.Current()
	x := ask(t, "GET", "a.test", "/")
	done := make(chan struct{})
	go func() { defer close(done); r.do(x) }()
	<-entered
	r.use("routes: [{name: other, paths: [/other]}]", nil)
	close(release)
	<-done
	if x.Response.Status != 200 || r.finished[0].Snapshot != first {
		t.Errorf("answered %d, of the snapshot it began with: %v", x.Response.Status, r.finished[0].Snapshot == first)
	}
}
