package edge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/idna"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
	"github.com/keyway-edge/keyway/edge/http1"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/spec"
)

// FuzzHostForms holds the forms of a host's name against each other: what is routed by
// it, the certificate and policy of the handshake, and the policy that a request is held to.
func FuzzHostForms(f *testing.F) {
	for _, s := range []string{"a.test", "A.Test:443", "a.test.", "x.a.test", "b.example", "[::1]:80", "xn--bcher-kva.test", "bücher.test", "a.test..", "a..test", "127.0.0.1", "a_b.test:1", "K.test", "..xn--", "a.xn--", "b.a.test"} {
		f.Add(s)
	}
	var bindings []certs.Binding
	var routes []*spec.Route
	for i, name := range []string{"a.test", "*.a.test", "b.*", "xn--bcher-kva.test", "k.test", "127.0.0.1"} {
		policy, err := certs.NewPolicy(certs.PolicySpec{ID: name, Name: name, MinVersion: "1.2", ClientAuth: "off"})
		if err != nil {
			f.Fatal(err)
		}
		bindings = append(bindings, certs.Binding{Name: name, Policy: policy})
		routes = append(routes, &spec.Route{Meta: spec.Meta{ID: strconv.Itoa(i)}, Name: name, Protocols: []string{"http"}, Hosts: []string{name}})
	}
	index := certs.NewIndex(nil, bindings, nil)
	table, _ := routing.Compile(nil, &spec.Document{Routes: routes})
	f.Fuzz(func(t *testing.T, host string) {
		name := hostOnly(host)
		if wire.ValidHost(host) && hostOnly(name) != name {
			if again := hostOnly(name); strings.TrimRight(again, ".") != strings.TrimRight(name, ".") {
				t.Fatalf("%q is %q, and that is %q", host, name, again)
			}
		}
		if !wire.ValidHost(host) {
			return // no engine lets it through
		}
		held := index.Find(name)
		forms := []string{strings.ToUpper(name), strings.ToLower(name)}
		if !strings.HasSuffix(name, ".") && len(name) < 253 {
			forms = append(forms, name+".")
		}
		for _, form := range forms {
			if got := index.Find(form); got != held {
				t.Errorf("the handshake for %q is held to %q, the request for %q to %q", form, got.Pattern, host, held.Pattern)
			}
			if strings.Count(host, ":") == 0 && hostOnly(form+":443") != strings.TrimSuffix(strings.ToLower(form), ".") {
				t.Errorf("with a port %q is %q", form, hostOnly(form+":443"))
			}
		}
		var m routing.Match
		if q := (routing.Query{Host: host, Path: "/", Fields: &exchange.Fields{}}); table.Match(&q, &m) {
			p := m.Route.Spec.Name
			// Of two wildcards a route's id decides, and of a certificate's the end before the beginning.
			two := p == "b.*" && held.Pattern == "*.a.test" && len(name) > 2 && exchange.EqualFold(name[:2], "b.")
			// A route of several labels more is led to by a wildcard, a certificate's covers one.
			if p != held.Pattern && !two && !(strings.Contains(p, "*") && held.Policy == nil) && held.Pattern != "" {
				t.Errorf("%q is routed by %q and held to %q", host, p, held.Pattern)
			} else if !strings.Contains(p, "*") && held.Pattern != p {
				t.Errorf("%q is routed by %q and held to %q", host, p, held.Pattern)
			}
		}
		if strings.IndexFunc(name, func(r rune) bool { return r >= 0x80 }) >= 0 {
			t.Errorf("%q is let through: only A-labels are names", host)
		}
		if slices.Contains(strings.Split(name, "."), "xn--") {
			return // a label of nothing, an error by UTS 46, section 4, which the library takes for an empty one
		}
		if a, err := idna.Lookup.ToASCII(name); err == nil && a != "" && !strings.HasPrefix(name, "[") && strings.TrimSuffix(a, ".") != strings.TrimSuffix(name, ".") {
			t.Errorf("%q is %q, and as an internationalised name %q", host, name, a)
		}
	})
}

// strictRequest reads one request as a strict origin does, and answers what is wrong with it.
func strictRequest(r *bufio.Reader) (method, target, host string, fields []string, body []byte, err error) {
	line := func() (string, error) {
		s, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		s, ok := strings.CutSuffix(s, "\r\n")
		if !ok || strings.ContainsAny(s, "\r\n\x00") {
			return "", fmt.Errorf("a line that does not end in CRLF, or has more of these: %q", s)
		}
		return s, nil
	}
	first, err := line()
	if err != nil {
		return
	}
	parts := strings.Split(first, " ")
	if len(parts) != 3 || parts[2] != "HTTP/1.1" || !wire.IsToken(parts[0]) || parts[1] == "" {
		return "", "", "", nil, nil, fmt.Errorf("request line %q", first)
	}
	method, target = parts[0], parts[1]
	hosts, length, chunked := 0, int64(-1), false
	for {
		l, e := line()
		if e != nil || l == "" {
			err = e
			break
		}
		name, value, ok := strings.Cut(l, ":")
		value = strings.Trim(value, " \t")
		if !ok || !wire.IsToken(name) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return "", "", "", nil, nil, fmt.Errorf("field %q", l)
		}
		switch strings.ToLower(name) {
		case "host":
			host, hosts = value, hosts+1
		case "content-length":
			n, e := strconv.ParseUint(value, 10, 60)
			if e != nil || length >= 0 || strconv.FormatUint(n, 10) != value {
				return "", "", "", nil, nil, fmt.Errorf("content-length %q", value)
			}
			length = int64(n)
		case "transfer-encoding":
			if value != "chunked" || chunked {
				return "", "", "", nil, nil, fmt.Errorf("transfer-encoding %q", value)
			}
			chunked = true
		}
		fields = append(fields, strings.ToLower(name)+": "+value)
	}
	switch {
	case err != nil:
	case hosts != 1 || chunked && length >= 0:
		err = fmt.Errorf("%d hosts, length %d, chunked %v", hosts, length, chunked)
	case chunked:
		body, err = strictChunks(r, line)
	case length > 0:
		body = make([]byte, length)
		_, err = io.ReadFull(r, body)
	}
	return method, target, host, fields, body, err
}

func strictChunks(r io.Reader, line func() (string, error)) (body []byte, err error) {
	for {
		l, err := line()
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(l, 16, 32)
		if err != nil {
			return nil, fmt.Errorf("chunk size %q", l)
		}
		if n == 0 {
			break
		}
		piece := make([]byte, n)
		if _, err := io.ReadFull(r, piece); err != nil {
			return nil, err
		}
		body = append(body, piece...)
		if l, err := line(); err != nil || l != "" {
			return nil, fmt.Errorf("%q behind a chunk: %w", l, err)
		}
	}
	for {
		if l, err := line(); err != nil || l == "" {
			return body, err
		}
	}
}

// seen is one request as it was let through, or as the origin read it.
type seen struct{ method, target, host, body string }

// watched notes what the engine makes of a connection on its way to the handler.
type watched struct {
	exchange.Handler
	mu  sync.Mutex
	got []seen
}

func (w *watched) Handle(x *exchange.Exchange) {
	if x.Refused == 0 {
		w.mu.Lock()
		w.got = append(w.got, seen{x.Request.Method, x.Request.Target, x.Request.Host, ""})
		w.mu.Unlock()
	}
	w.Handler.Handle(x)
}

// strictOrigin answers what it can read, and keeps it, and what was wrong.
type strictOrigin struct {
	net.Listener
	mu    sync.Mutex
	got   []seen
	wrong []string
}

func newStrictOrigin(f *testing.F) *strictOrigin {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	o := &strictOrigin{Listener: l}
	f.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go o.serve(c)
		}
	}()
	return o
}

func (o *strictOrigin) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for {
		method, target, host, fields, body, err := strictRequest(r)
		o.mu.Lock()
		if err == nil {
			o.got = append(o.got, seen{method, target, host, string(body)})
			for _, name := range []string{"connection: close", "x-forwarded-for: 192.0.2.7"} {
				if name[0] == 'x' && !slices.ContainsFunc(fields, func(s string) bool { return strings.HasPrefix(s, name) }) {
					o.wrong = append(o.wrong, fmt.Sprintf("no %s in %q", name, fields))
				}
			}
		} else if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(err.Error(), "reset") {
			o.wrong = append(o.wrong, err.Error()) // a request that was given up is not wrong
		}
		o.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

func (o *strictOrigin) take() (got []seen, wrong []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	got, wrong = o.got, o.wrong
	o.got, o.wrong = nil, nil
	return got, wrong
}

// said is a connection whose client has said everything, and reads nothing.
type said struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (c *said) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *said) Write(p []byte) (int, error) { return c.out.Write(p) }
func (*said) Close() error                  { return nil }
func (*said) SetReadDeadline(time.Time) error {
	return nil
}
func (*said) SetWriteDeadline(time.Time) error { return nil }
func (*said) SetDeadline(time.Time) error      { return nil }
func (*said) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711} }

// FuzzForwarded sends what may come from a client through the engine and the handler to
// an origin that reads strictly: it must see the requests that were let through and no
// other one, each as net/http reads it, and nothing that is wrong.
func FuzzForwarded(f *testing.F) {
	var cases []struct{ Raw []string }
	text, err := os.ReadFile("../integration/edgeprobe/cases/h1.json")
	if err == nil {
		err = json.Unmarshal(text, &cases)
	}
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		f.Add([]byte(strings.NewReplacer("{{ID}}", "x1", "{{HOST}}", "edge.test", "{{HIDDEN}}", "x2").Replace(strings.Join(c.Raw, ""))))
	}
	o := newStrictOrigin(f)
	rig := newRig(f, &Config{}, "services: [{name: s, url: \"http://"+o.Addr().String()+"\", connect_timeout: 60000, read_timeout: 60000, write_timeout: 60000, retries: 0, routes: [{name: r, paths: [/], strip_path: false, preserve_host: true}]}]")
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 32<<10 {
			return
		}
		w := &watched{Handler: rig.handler}
		s := &http1.Server{Handler: w}
		began := time.Now()
		s.ServeConn(context.Background(), &said{in: bytes.NewReader(b)}, &exchange.Conn{
			Peer: netip.MustParseAddrPort("192.0.2.7:4711"), Local: netip.MustParseAddrPort("192.0.2.1:8000"), Protocol: "HTTP/1.1",
		})
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%d bytes took %v", len(b), took)
		}
		got, wrong := o.take()
		if len(wrong) > 0 {
			t.Fatalf("the origin: %q\nof %q", wrong, b)
		}
		if len(got) > len(w.got) {
			t.Fatalf("%d requests were let through, the origin saw %d: %q\nof %q", len(w.got), len(got), got, b)
		}
		std := bufio.NewReader(bytes.NewReader(b))
		at := 0
		for _, g := range got {
			// What was let through and has not reached the origin was answered by the edge itself.
			for at < len(w.got) && (w.got[at].method != g.method || w.got[at].host != g.host) {
				at++
				_, _ = next(std)
			}
			if at == len(w.got) {
				t.Fatalf("the origin saw %+v, let through were %+v\nof %q", g, w.got, b)
			}
			at++
			q, err := next(std)
			if err != nil {
				if strings.Contains(err.Error(), "URI") || strings.Contains(err.Error(), "parse") {
					return // it decodes the path, which is the router's business here
				}
				t.Fatalf("the origin saw %+v, net/http refuses: %v\nof %q", g, err, b)
			}
			if q.method != g.method || !strings.EqualFold(q.host, g.host) || q.body != g.body {
				t.Fatalf("the origin saw %+v, net/http reads %+v\nof %q", g, q, b)
			}
		}
	})
}

// FuzzGuardedPrefix looks for paths that an open route takes and that an origin reads
// beneath a guarded prefix when it decodes what it is sent, up to twice, and cleans it.
func FuzzGuardedPrefix(f *testing.F) {
	for _, s := range []string{
		"/", "/admin", "/%61dmin/x", "/%2561dmin/x", "/x/..%2fadmin", "/x/%2e%2e/admin/", "/x/%252e%252e/admin", "//admin", "/./admin", "/x;/../admin",
		"/;/admin", "/x/..;/admin", "/x%5c..%5cadmin", "/%2fadmin", "/admin%2f", "/%25%36%31dmin", "/x/%2e%2e%2fadmin", "/Admin", "/admin;x", "/%c0%afadmin",
	} {
		f.Add(s)
	}
	o := newStrictOrigin(f)
	rig := newRig(f, &Config{}, "services: [{name: s, url: \"http://"+o.Addr().String()+"\", routes: [{name: open, paths: [/], strip_path: false}]}]\n"+
		"routes: [{name: guarded, paths: [/admin]}]\nplugins: [{name: stop, route: guarded, config: {say: guarded}}]\n")
	under := func(p string) bool { return p == "/admin" || strings.HasPrefix(p, "/admin/") }
	f.Fuzz(func(t *testing.T, raw string) {
		if raw == "" || raw[0] != '/' || strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '?' }) {
			return // no engine lets it through, or it is a query
		}
		rig.t = t
		rig.do(ask(t, "GET", "edge.test", raw))
		got, wrong := o.take()
		if len(wrong) > 0 {
			t.Fatalf("the origin: %q", wrong)
		}
		for _, g := range got {
			sent, _, _ := strings.Cut(g.target, "?")
			for times := range 3 {
				if read := path.Clean("/" + sent); under(read) {
					t.Fatalf("%q was let through as %q; decoded %d times an origin reads %q", raw, g.target, times, read)
				}
				next, err := url.PathUnescape(sent)
				if err != nil {
					break
				}
				sent = next
			}
		}
	})
}

// next is the next request of a connection as net/http reads it.
func next(r *bufio.Reader) (seen, error) {
	for { // empty lines before a request are allowed
		b, err := r.Peek(2)
		if err != nil || string(b) != "\r\n" {
			break
		}
		_, _ = r.Discard(2)
	}
	q, err := http.ReadRequest(r)
	if err != nil {
		return seen{}, err
	}
	body, err := io.ReadAll(q.Body)
	return seen{q.Method, q.RequestURI, q.Host, string(body)}, err
}
