package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const stickyDocument = `
_format_version: "3.0"
certificates: [{cert: %q, key: %q, snis: [edge.test]}]
services: [{name: s, host: up, routes: [{name: r, paths: [/]}]}]
upstreams:
- name: up
  algorithm: sticky-sessions
  sticky_sessions_cookie: sid
  targets: [%s]
`

// sayingName is a target that says its name, also to those who upgrade.
func sayingName(t *testing.T, name string) string {
	return origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			_, _ = io.WriteString(w, name)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+name+"\n")
		_ = rw.Flush()
		_, _ = io.Copy(io.Discard, rw)
	})
}

// TestStickySessions has clients of every version of HTTP come back to their target by a
// cookie, on two nodes that know nothing of each other.
func TestStickySessions(t *testing.T) {
	addrs := map[string]string{"a": sayingName(t, "a"), "b": sayingName(t, "b"), "c": sayingName(t, "c")}
	cert, key := pair(t, "edge.test", "edge.test")
	document := func(weights string) string {
		var list []string
		for i, name := range []string{"a", "b", "c"} {
			if weights[i] != '-' {
				list = append(list, fmt.Sprintf("{target: %q, weight: %c}", addrs[name], weights[i]))
			}
		}
		return fmt.Sprintf(stickyDocument, cert, key, strings.Join(list, ", "))
	}
	one := start(t, options{document: document("111"), env: overHTTP3()})
	two := start(t, options{document: document("111"), env: overHTTP3()})
	ask := func(t *testing.T, c *http.Client, url, cookie string) (said, set string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if cookie != "" {
			req.Header.Set("Cookie", "other=1; "+cookie)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d %v", resp.StatusCode, err)
		}
		return string(body), resp.Header.Get("Set-Cookie")
	}
	clear := &http.Client{Timeout: 60 * time.Second}
	versions := map[string]*http.Client{"HTTP/1.1": speaker(t, false), "HTTP/2": speaker(t, true), "HTTP/3": speaker3(t, "edge.test")}
	cookies := map[string]string{} // by target
	for name, c := range versions {
		said, set := ask(t, c, "https://"+one.tls+"/", "")
		pair, rest, _ := strings.Cut(set, ";")
		if rest != " Path=/; SameSite=Lax; HttpOnly; Secure" || strings.Contains(set, "127.0.0") {
			t.Fatalf("%s: cookie %q", name, set)
		}
		cookies[said] = pair
		for _, g := range []*gateway{one, two, one} {
			if again, set := ask(t, c, "https://"+g.tls+"/", pair); again != said || set != "" {
				t.Errorf("%s: %s says %q and sets %q, the session is at %q", name, g.tls, again, set, said)
			}
		}
	}
	for len(cookies) < 3 { // targets take turns, so that this ends soon
		said, set := ask(t, clear, "http://"+two.proxy+"/", "")
		cookies[said], _, _ = strings.Cut(set, ";")
		if strings.Contains(set, "Secure") {
			t.Fatalf("in clear: %q", set)
		}
	}
	for name, cookie := range cookies {
		if said, set := upgradedAt(t, one, cookie); said != name || set != "" {
			t.Errorf("a WebSocket with the cookie of %s: %q, sets %q", name, said, set)
		}
	}
	if said, set := upgradedAt(t, one, ""); said == "" || !strings.HasPrefix(set, cookies[said]+";") {
		t.Errorf("a WebSocket without a cookie: %q, sets %q", said, set)
	}
	// a gets nobody new and keeps its sessions; b is gone, and its sessions move for good.
	one.load(document("0-1"))
	if said, set := ask(t, clear, "http://"+one.proxy+"/", cookies["a"]); said != "a" || set != "" {
		t.Errorf("a draining target loses its session: %q, sets %q", said, set)
	}
	for range 3 {
		if said, _ := ask(t, clear, "http://"+one.proxy+"/", ""); said != "c" {
			t.Errorf("a new session is at %q", said)
		}
	}
	said, set := ask(t, clear, "http://"+one.proxy+"/", cookies["b"])
	if said != "c" || !strings.HasPrefix(set, cookies["c"]+";") {
		t.Errorf("a session whose target is gone: %q, sets %q", said, set)
	}
}

// upgradedAt opens a WebSocket and answers what the target says first, and the cookie set.
func upgradedAt(t *testing.T, g *gateway, cookie string) (said, set string) {
	t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 30 * time.Second}, "tcp", g.tls, &tls.Config{ServerName: "edge.test", InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if cookie != "" {
		cookie = "Cookie: " + cookie + "\r\n"
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: edge.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+cookie+"\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", resp, err)
	}
	said, err = r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(said), resp.Header.Get("Set-Cookie")
}
