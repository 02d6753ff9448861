package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
)

// overHTTP3 switches HTTP/3 on.
func overHTTP3() map[string]string { return map[string]string{"KEYWAY_HTTP3": "all"} }

// speaker3 is a client over HTTP/3 that names a server in its handshake.
func speaker3(t testing.TB, name string) *http.Client {
	tr := &http3.Transport{QUICConfig: patient(), TLSClientConfig: &tls.Config{ServerName: name, InsecureSkipVerify: true}}
	t.Cleanup(func() { _ = tr.Close() })
	return &http.Client{Transport: tr, Timeout: 60 * time.Second}
}

// TestHTTP3 sends what requests are made of over HTTP/3: bodies in both directions,
// trailers, hints before the response, many at once.
func TestHTTP3(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hash":
			h := sha256.New()
			n, err := io.Copy(h, r.Body)
			_, _ = fmt.Fprintf(w, "%d %x %v %q", n, h.Sum(nil), err, r.Trailer.Get("X-After"))
		case "/zeros":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.Copy(w, zeros(16*mebi))
			w.Header().Set("X-Sum", "all")
		case "/hints":
			w.Header().Set("Link", "</a>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			_, _ = io.WriteString(w, "hinted")
		default:
			_, _ = fmt.Fprintf(w, "%s %s %s %s %s %d %s", r.Method, r.Host, r.URL, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"), r.ContentLength, r.Header.Get("Via"))
		}
	})
	g := behind(t, o, "", "", overHTTP3())
	c := speaker3(t, "edge.test")
	url := "https://" + g.tls
	resp, text := call(t, c, http.MethodGet, url+"/a?b=c", nil)
	if want := fmt.Sprintf("GET %s /a?b=c https 127.0.0.1 0 3 keyway", o); resp.ProtoMajor != 3 || resp.StatusCode != 200 || !strings.HasPrefix(text, want) {
		t.Errorf("HTTP/%d, %d, %q, want %q", resp.ProtoMajor, resp.StatusCode, text, want)
	}
	if _, text := call(t, c, http.MethodPost, url+"/a", http.NoBody); !strings.Contains(text, " 0 3 keyway") {
		t.Errorf("a POST without a body became %q", text)
	}
	if resp, text := call(t, c, http.MethodHead, url+"/a", nil); text != "" || resp.ContentLength <= 0 {
		t.Errorf("HEAD: %d %q", resp.ContentLength, text)
	}
	want := fmt.Sprintf("%d %x", 16*mebi, sha256.Sum256(make([]byte, 16*mebi)))
	if _, text := call(t, c, http.MethodPost, url+"/hash", bytes.NewReader(make([]byte, 16*mebi))); !strings.HasPrefix(text, want) {
		t.Errorf("an upload of known length: %q, want %q", text, want)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/hash", zeros(16*mebi))
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-After": {"tail"}}
	if resp, err := c.Do(req); err != nil {
		t.Error(err)
	} else if text, err := io.ReadAll(resp.Body); err != nil || !strings.HasPrefix(string(text), want) || !strings.HasSuffix(string(text), `<nil> "tail"`) {
		t.Errorf("an upload with trailers: %q %v", text, err)
	}
	resp, text = call(t, c, http.MethodGet, url+"/zeros", nil)
	if len(text) != 16*mebi || resp.Trailer.Get("X-Sum") != "all" {
		t.Errorf("a download: %d bytes, trailer %v", len(text), resp.Trailer)
	}
	if _, text := call(t, c, http.MethodGet, url+"/hints", nil); text != "hinted" {
		t.Errorf("after a hint: %q", text)
	}
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if resp, _ := call(t, c, http.MethodGet, url+"/many", nil); resp.StatusCode != 200 {
				t.Errorf("one of many: %d", resp.StatusCode)
			}
		})
	}
	wg.Wait()
}

// TestPortMaps has clients see another port than the node.
func TestPortMaps(t *testing.T) {
	var forwarded atomic.Value
	o := origin(t, func(_ http.ResponseWriter, r *http.Request) { forwarded.Store(r.Header.Get("X-Forwarded-Port")) })
	port := strconv.Itoa(freePort(t))
	behind(t, o, "", "", map[string]string{"KEYWAY_HTTP3": "all", "KEYWAY_PROXY_TLS_LISTEN": "127.0.0.1:" + port, "KEYWAY_PORT_MAPS": "80:8000, 443:" + port})
	both(t, func(t *testing.T, c *http.Client) {
		resp, _ := call(t, c, http.MethodGet, "https://127.0.0.1:"+port+"/", nil)
		if alt := resp.Header.Get("Alt-Svc"); alt != `h3=":443"; ma=3600` || forwarded.Load() != "443" {
			t.Errorf("Alt-Svc %q, X-Forwarded-Port %q; expected port 443", alt, forwarded.Load())
		}
	})
	if resp, _ := call(t, speaker3(t, "edge.test"), http.MethodGet, "https://127.0.0.1:"+port+"/", nil); resp.StatusCode != http.StatusOK || forwarded.Load() != "443" {
		t.Errorf("HTTP/3: %d, X-Forwarded-Port %q", resp.StatusCode, forwarded.Load())
	}
}

// TestHTTP3AltSvc sees the offer over HTTP/2, follows it, and sees it withdrawn.
func TestHTTP3AltSvc(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Alt-Svc", `h3=":1"`) })
	g := behind(t, o, "", "", overHTTP3())
	_, port, _ := strings.Cut(g.tls, ":")
	both(t, func(t *testing.T, c *http.Client) {
		resp, _ := call(t, c, http.MethodGet, "https://"+g.tls+"/", nil)
		if got := resp.Header.Values("Alt-Svc"); len(got) != 1 || got[0] != `h3=":`+port+`"; ma=3600` {
			t.Errorf("Alt-Svc: %q", got)
		}
		alt, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Alt-Svc"), `h3=":`), `"`)
		resp, _ = call(t, speaker3(t, "edge.test"), http.MethodGet, "https://127.0.0.1:"+alt+"/", nil)
		if resp.ProtoMajor != 3 || resp.StatusCode != 200 || resp.Header.Get("Alt-Svc") != `h3=":1"` {
			t.Errorf("what was offered: HTTP/%d %d %q", resp.ProtoMajor, resp.StatusCode, resp.Header.Get("Alt-Svc"))
		}
	})
	clear := behind(t, o, "", "", map[string]string{"KEYWAY_HTTP3": "clear"})
	if resp, _ := call(t, speaker(t, true), http.MethodGet, "https://"+clear.tls+"/", nil); resp.Header.Get("Alt-Svc") != "clear" {
		t.Errorf("after it was switched off: %q", resp.Header.Get("Alt-Svc"))
	}
	silent := speaker3(t, "edge.test")
	silent.Timeout = time.Second
	if resp, err := silent.Get("https://" + clear.tls + "/"); err == nil {
		_ = resp.Body.Close()
		t.Error("HTTP/3 is still served")
	}
}

// TestHTTP3Refuses sends requests that must not be passed on.
func TestHTTP3Refuses(t *testing.T) {
	var asked atomic.Int64
	o := origin(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	g := behind(t, o, "", "", overHTTP3())
	fields := func(more ...string) []string {
		return append([]string{":method", "GET", ":scheme", "https", ":authority", "edge.test", ":path", "/"}, more...)
	}
	long := strings.Repeat("v", 9000)
	for name, c := range map[string]struct {
		fields []string
		body   string
		status string // of the answer; "" for a stream that is reset
	}{
		"a large list":        {fields: fields("a", long[:8000], "b", long[:8000], "c", long[:8000], "d", long[:8000], "e", long[:8000]), status: "431"},
		"a large line":        {fields: fields("a", long), status: "431"},
		"a connection field":  {fields: fields("connection", "close")},
		"an upper-case name":  {fields: fields("Aa", "b")},
		"a line feed":         {fields: fields("a", "b\nc")},
		"two paths":           {fields: fields(":path", "/b")},
		"a late pseudo":       {fields: fields("a", "b", ":path", "/b")},
		"another Host":        {fields: fields("host", "other.test")},
		"no path":             {fields: []string{":method", "GET", ":scheme", "https", ":authority", "edge.test"}},
		"no authority":        {fields: []string{":method", "GET", ":scheme", "https", ":path", "/"}},
		"an extended CONNECT": {fields: []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "edge.test", ":path", "/"}},
		"CONNECT":             {fields: []string{":method", "CONNECT", ":authority", "edge.test"}, status: "405"},
		"a space in the path": {fields: []string{":method", "GET", ":scheme", "https", ":authority", "edge.test", ":path", "/a b"}, status: "400"},
		"two lengths":         {fields: fields("content-length", "1", "content-length", "1"), body: "x", status: "400"},
		"a length too short":  {fields: fields("content-length", "0"), body: "x", status: "400"},
		"a length too long":   {fields: fields("content-length", "5"), body: "x", status: "400"},
	} {
		conn := dial3(t, g)
		s, err := conn.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.SetDeadline(time.Now().Add(10 * time.Second))
		msg := frame3(1, section3(c.fields...))
		if c.body != "" {
			msg = append(msg, frame3(0, []byte(c.body))...)
		}
		_, _ = s.Write(msg)
		_ = s.Close()
		status, err := answer3(s)
		var reset *quic.StreamError
		switch {
		case c.status == "" && (!errors.As(err, &reset) || reset.ErrorCode != 0x10e):
			t.Errorf("%s: %q %v, want H3_MESSAGE_ERROR", name, status, err)
		case c.status != "" && status != c.status:
			t.Errorf("%s: %q %v, want %s", name, status, err, c.status)
		}
		_ = conn.CloseWithError(0x100, "")
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d of them reached the origin", n)
	}
}

// TestHTTP3Hostile breaks what holds connections together, and each time sees
// the connection end with the code that RFC 9114 has for it.
func TestHTTP3Hostile(t *testing.T) {
	g := behind(t, origin(t, func(http.ResponseWriter, *http.Request) {}), "", "", overHTTP3())
	settings := append([]byte{0}, frame3(4, nil)...)
	for name, c := range map[string]struct {
		uni, second, stream []byte
		code                quic.ApplicationErrorCode
	}{
		"no SETTINGS":               {uni: append([]byte{0}, frame3(7, []byte{0})...), code: 0x10a},
		"SETTINGS twice":            {uni: append(settings, frame3(4, nil)...), code: 0x105},
		"a setting of HTTP/2":       {uni: append([]byte{0}, frame3(4, []byte{2, 0})...), code: 0x109},
		"two control streams":       {uni: settings, second: settings, code: 0x103},
		"a push stream":             {uni: []byte{1, 0}, code: 0x103},
		"DATA on control":           {uni: append(settings[:len(settings):len(settings)], frame3(0, nil)...), code: 0x105},
		"a dynamic table":           {uni: []byte{2, 0x3f, 0xe1, 0x1f}, code: 0x201},
		"DATA first":                {stream: frame3(0, []byte("x")), code: 0x105},
		"a frame of HTTP/2":         {stream: frame3(6, nil), code: 0x105},
		"use of a dynamic table":    {stream: frame3(1, []byte{2, 0, 0x80}), code: 0x200},
		"frames that nobody knows":  {stream: append([]byte{0x21}, quicvarint.Append(nil, 1<<30)...), code: 0x107},
		"empty DATA without an end": {stream: append(frame3(1, section3(":method", "POST", ":scheme", "https", ":authority", "edge.test", ":path", "/")), make([]byte, 70000)...), code: 0x107},
	} {
		conn := dial3(t, g)
		for _, p := range [][]byte{c.uni, c.second} {
			if p == nil {
				continue
			}
			s, err := conn.OpenUniStreamSync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = s.Write(p)
		}
		if c.stream != nil {
			s, err := conn.OpenStreamSync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = s.Write(c.stream)
		}
		select {
		case <-conn.Context().Done():
		case <-time.After(10 * time.Second):
		}
		var closed *quic.ApplicationError
		if err := context.Cause(conn.Context()); !errors.As(err, &closed) || closed.ErrorCode != c.code || !closed.Remote {
			t.Errorf("%s: %v, want code %#x", name, err, uint64(c.code))
		}
		_ = conn.CloseWithError(0x100, "")
	}
}

// TestHTTP3Drain stops a node that has 50 requests over HTTP/3, downloads half
// done among them: all finish, and new ones are refused.
func TestHTTP3Drain(t *testing.T) {
	o := slowOrigin(t)
	g := behind(t, o.addr, "read_timeout: 60000,", "", overHTTP3())
	type answer struct {
		n   int
		err error
	}
	answers := make(chan answer, 50)
	idle := dial3(t, g)
	c := speaker3(t, "edge.test")
	for i := range 50 {
		path := "/slow"
		if i%2 == 0 {
			path = "/download"
		}
		go func() {
			resp, err := c.Get("https://" + g.tls + path)
			if err != nil {
				answers <- answer{0, err}
				return
			}
			defer func() { _ = resp.Body.Close() }()
			n, err := io.Copy(io.Discard, resp.Body)
			answers <- answer{int(n), err}
		}()
	}
	poll(t, "the origin has them all", 20*time.Second, func() bool { return o.asked.Load() == 50 })
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-idle.Context().Done():
	case <-time.After(15 * time.Second):
		t.Error("an idle connection stays")
	}
	late := speaker3(t, "edge.test")
	late.Timeout = 3 * time.Second
	if resp, err := late.Get("https://" + g.tls + "/quick"); err == nil {
		_ = resp.Body.Close()
		t.Error("a new connection is served at the end of a drain")
	}
	close(o.goOn)
	for range 50 {
		if a := <-answers; a.err != nil || a.n != 4 && a.n != 2*mebi {
			t.Errorf("%d bytes, %v", a.n, a.err)
		}
	}
	select {
	case <-g.done:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing is left and the node stays")
	}
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d: %v", code, g.err)
	}
}

// TestHTTP3Early resumes a session: it is resumed, and no data is taken with the first
// flight, which could be replayed.
func TestHTTP3Early(t *testing.T) {
	g := behind(t, origin(t, func(http.ResponseWriter, *http.Request) {}), "", "", overHTTP3())
	cache := tls.NewLRUClientSessionCache(4)
	conf := &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true, NextProtos: []string{"h3"}, ClientSessionCache: cache}
	resumed := false
	poll(t, "a session is resumed", 20*time.Second, func() bool {
		conn, err := quic.DialAddrEarly(t.Context(), g.tls, conf, patient())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.CloseWithError(0x100, "") }()
		<-conn.HandshakeComplete()
		if conn.ConnectionState().Used0RTT {
			t.Error("data of the first flight was taken")
		}
		resumed = conn.ConnectionState().TLS.DidResume
		if s, err := conn.AcceptUniStream(t.Context()); err == nil { // by then the ticket is there
			_, _ = s.Read(make([]byte, 1))
		}
		return resumed
	})
}

// patient is a client's configuration for a machine that has other things to do.
func patient() *quic.Config { return &quic.Config{HandshakeIdleTimeout: 20 * time.Second} }

// dial3 opens a connection that says nothing of HTTP/3 yet.
func dial3(t testing.TB, g *gateway, name ...string) *quic.Conn {
	t.Helper()
	conf := &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true, NextProtos: []string{"h3"}}
	if len(name) > 0 {
		conf.ServerName = name[0]
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := quic.DialAddr(ctx, g.tls, conf, patient())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// frame3 makes a frame.
func frame3(kind uint64, p []byte) []byte {
	b := quicvarint.Append(nil, kind)
	return append(quicvarint.Append(b, uint64(len(p))), p...)
}

// section3 encodes a header section of names and values.
func section3(fields ...string) []byte {
	var b bytes.Buffer
	e := qpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(qpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// answer3 reads the status of an answer.
func answer3(s *quic.Stream) (string, error) {
	r := quicvarint.NewReader(s)
	kind, err := quicvarint.Read(r)
	if err != nil {
		return "", err
	}
	n, err := quicvarint.Read(r)
	if err != nil || kind != 1 {
		return "", fmt.Errorf("frame %d: %w", kind, err)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return "", err
	}
	f, err := qpack.NewDecoder().Decode(p)()
	return f.Value, err
}
