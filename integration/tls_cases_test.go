package integration

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
)

// servedPair answers a node with one certificate in files, and its authority.
func servedPair(t *testing.T, names ...string) (*gateway, *authority, *fleet) {
	t.Helper()
	a := newAuthority(t, "tls cases")
	f := &fleet{dir: t.TempDir(), known: map[string][]version{}}
	f.issue = func(string) (string, string) { return encode(t, a.server(t, names...)) }
	f.rotate(t, 1)
	o := origin(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	g := start(t, options{env: debug(nil), document: fmt.Sprintf(`
_format_version: "3.0"
vaults: [{name: file, prefix: pairs, config: {root: %s}}]
certificates: [{cert: "{vault://pairs/n1/tls.crt}", key: "{vault://pairs/n1/tls.key}", snis: [%s]}]
services: [{name: a, url: "http://%s", routes: [{paths: [/]}]}]
`, f.dir, strings.Join(names, ", "), o)})
	return g, a, f
}

// TestTicketsAcrossRotations runs T-10: a client that holds tickets makes 1,000
// handshakes while the certificate is replaced: none fails, and most are resumed.
func TestTicketsAcrossRotations(t *testing.T) {
	g, a, f := servedPair(t, "a.test")
	c := &tls.Config{ServerName: "a.test", RootCAs: a.pool(), ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	resumed := 0
	for i := range 1000 {
		if i%40 == 0 {
			f.rotate(t, 1)
		}
		st, err := exchangeOver(g.tls, c)
		if err != nil {
			t.Fatalf("handshake %d: %v", i, err)
		}
		if st.DidResume {
			resumed++
		}
	}
	t.Logf("%d of 1000 were resumed over 25 rotations", resumed)
	if resumed < 500 {
		t.Errorf("%d of 1000 handshakes were resumed", resumed)
	}
}

// TestANameFallsBackToItsWildcard runs T-16: the certificate of one name is taken out of
// the document; its wildcard serves soon, and what was in flight goes on.
func TestANameFallsBackToItsWildcard(t *testing.T) {
	a := newAuthority(t, "wildcard")
	release := make(chan struct{})
	var waiting atomic.Bool
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			waiting.Store(true)
			<-release
		}
		_, _ = io.WriteString(w, "ok")
	})
	entry := func(names ...string) string {
		cert, key := encode(t, a.server(t, names...))
		return fmt.Sprintf("- {cert: %q, key: %q, snis: [%q]}\n", cert, key, names[0])
	}
	wild, own := entry("*.a.test"), entry("b.a.test")
	head := fmt.Sprintf("_format_version: \"3.0\"\nservices: [{name: a, url: \"http://%s\", routes: [{paths: [/]}]}]\ncertificates:\n", o)
	g := start(t, options{document: head + wild + own})
	shows := func() string {
		leaf, err := shownLeaf(g.tls, "b.a.test", a.pool())
		if err != nil {
			return err.Error()
		}
		return leaf.DNSNames[0]
	}
	if got := shows(); got != "b.a.test" {
		t.Fatalf("b.a.test is served %s", got)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{ServerName: "b.a.test", RootCAs: a.pool()}}}
	t.Cleanup(client.CloseIdleConnections)
	answer := make(chan error, 1)
	go func() {
		resp, err := client.Get("https://" + g.tls + "/slow")
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = errors.New(resp.Status)
			}
		}
		answer <- err
	}()
	poll(t, "a request is in flight", 20*time.Second, waiting.Load)
	g.write(head + wild)
	if out, err := g.run("reload"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	at := time.Now()
	poll(t, "the wildcard serves", 20*time.Second, func() bool { return shows() == "*.a.test" })
	if took := time.Since(at); took > 5*time.Second {
		t.Errorf("the wildcard serves after %v", took)
	}
	close(release)
	if err := <-answer; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
}

// pieces is a connection whose first writes arrive in pieces, each a segment of its own.
type pieces struct {
	net.Conn
	size int
	left int // bytes that are still cut
}

func (p *pieces) Write(b []byte) (int, error) {
	n := 0
	for len(b) > 0 {
		k := len(b)
		if p.left > 0 {
			k = min(k, p.size)
			p.left -= k
			time.Sleep(time.Millisecond)
		}
		m, err := p.Conn.Write(b[:k])
		n += m
		if err != nil {
			return n, err
		}
		b = b[k:]
	}
	return n, nil
}

// TestHellosInPieces runs T-21: hellos with post-quantum key shares, larger than a
// segment and larger than most buffers, arrive in pieces of every kind; one has an
// Encrypted Client Hello that this node has no key for.
func TestHellosInPieces(t *testing.T) {
	g, a, _ := servedPair(t, "a.test")
	long := []string{"http/1.1"}
	for i := range 300 {
		long = append(long, fmt.Sprintf("no-such-protocol-%030d", i))
	}
	for _, c := range []struct {
		name string
		size int
		alpn []string
	}{{"by segments", 1400, nil}, {"by 100 bytes", 100, nil}, {"by 7 bytes", 7, nil}, {"by one byte", 1, nil}, {"long, by segments", 1400, long}, {"long, by 500 bytes", 500, long}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			raw, err := net.Dial("tcp", g.tls)
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			_ = raw.SetDeadline(time.Now().Add(30 * time.Second))
			cut := &pieces{Conn: raw, size: c.size, left: 1600}
			if c.alpn != nil {
				cut.left = 14000
			}
			before := cut.left
			conn := tls.Client(cut, &tls.Config{ServerName: "a.test", RootCAs: a.pool(), NextProtos: c.alpn, CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519}})
			if err := conn.Handshake(); err != nil {
				t.Fatal(err)
			}
			st := conn.ConnectionState()
			if st.CurveID != tls.X25519MLKEM768 || before-cut.left < 1300 {
				t.Errorf("group %v after a hello of %d bytes", st.CurveID, before-cut.left)
			}
			_, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
			answer, rerr := io.ReadAll(conn)
			if err = errors.Join(err, rerr); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
				t.Errorf("%v, answer %.60q", err, answer)
			}
		})
	}
	t.Run("with an encrypted hello", func(t *testing.T) {
		t.Parallel()
		stranger, err := certs.NewECH("a.test", nil)
		if err != nil {
			t.Fatal(err)
		}
		list, err := stranger.ConfigList()
		if err != nil {
			t.Fatal(err)
		}
		_, err = exchangeOver(g.tls, &tls.Config{ServerName: "secret.test", RootCAs: a.pool(), EncryptedClientHelloConfigList: list})
		var rejected *tls.ECHRejectionError
		if !errors.As(err, &rejected) || len(rejected.RetryConfigList) > 0 {
			t.Errorf("the hello was not taken as the outer one that it shows: %v", err)
		}
	})
}

// raw13 writes records of TLS 1.3 as a client does after its handshake, with messages
// that no library sends.
type raw13 struct {
	conn   net.Conn
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// label is HKDF-Expand-Label of RFC 8446, section 7.1, for SHA-256.
func label(t testing.TB, secret []byte, name string, n int) []byte {
	t.Helper()
	name = "tls13 " + name
	info := append([]byte{0, byte(n), byte(len(name))}, name...)
	key, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (r *raw13) use(t testing.TB, secret []byte) {
	t.Helper()
	block, err := aes.NewCipher(label(t, secret, "key", 16))
	if err != nil {
		t.Fatal(err)
	}
	if r.aead, err = cipher.NewGCM(block); err != nil {
		t.Fatal(err)
	}
	r.secret, r.iv, r.seq = secret, label(t, secret, "iv", 12), 0
}

func (r *raw13) write(kind byte, message []byte) error {
	inner := append(message[:len(message):len(message)], kind)
	head := []byte{23, 3, 3, byte((len(inner) + 16) >> 8), byte(len(inner) + 16)}
	nonce := append([]byte(nil), r.iv...)
	for i := range 8 {
		nonce[11-i] ^= byte(r.seq >> (8 * i))
	}
	r.seq++
	_, err := r.conn.Write(r.aead.Seal(head, nonce, inner, head))
	return err
}

// keyUpdate is a KeyUpdate message (RFC 8446, section 4.6.3) that asks for none back.
func (r *raw13) keyUpdate(t testing.TB) error {
	err := r.write(22, []byte{24, 0, 0, 1, 0})
	r.use(t, label(t, r.secret, "traffic upd", 32))
	return err
}

// secretLog takes the client's application secret out of a key log.
type secretLog struct{ secret []byte }

func (l *secretLog) Write(p []byte) (int, error) {
	if rest, ok := strings.CutPrefix(string(p), "CLIENT_TRAFFIC_SECRET_0 "); ok {
		l.secret, _ = hex.DecodeString(strings.Fields(rest)[1])
	}
	return len(p), nil
}

// records shakes hands and answers the connection at its record layer.
func records(t *testing.T, g *gateway, c *tls.Config) *raw13 {
	t.Helper()
	conn, err := net.Dial("tcp", g.tls)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	log := &secretLog{}
	c = c.Clone()
	c.KeyLogWriter, c.MinVersion = log, tls.VersionTLS13
	client := tls.Client(conn, c)
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if s := client.ConnectionState().CipherSuite; s != tls.TLS_AES_128_GCM_SHA256 {
		t.Fatalf("cipher suite %s; this test speaks AES-128-GCM", tls.CipherSuiteName(s))
	}
	r := &raw13{conn: conn}
	r.use(t, log.secret)
	return r
}

// TestFloodsAfterTheHandshake runs T-22: a client that sends nothing but KeyUpdates, or
// handshake messages that are not a client's, is cut off within a second.
func TestFloodsAfterTheHandshake(t *testing.T) {
	g, a, _ := servedPair(t, "a.test")
	c := &tls.Config{ServerName: "a.test", RootCAs: a.pool()}
	// A few updates are fine: the request after them is answered.
	r := records(t, g, c)
	for range 3 {
		if err := r.keyUpdate(t); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.write(23, []byte("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(r.conn); err != nil || len(answer) < 200 {
		t.Errorf("after three updates: %d bytes, %v", len(answer), err)
	}
	busy := g.cpu()
	for name, send := range map[string]func(*raw13) error{
		"KeyUpdate":        func(r *raw13) error { return r.keyUpdate(t) },
		"NewSessionTicket": func(r *raw13) error { return r.write(22, []byte{4, 0, 0, 4, 0, 0, 0, 0}) },
		"a second hello":   func(r *raw13) error { return r.write(22, []byte{1, 0, 0, 2, 3, 3}) },
		"empty records":    func(r *raw13) error { return r.write(23, nil) },
		"a long message":   func(r *raw13) error { return r.write(22, append([]byte{24, 255, 255, 255}, make([]byte, 8000)...)) },
	} {
		fastest := time.Minute
		for range 3 {
			r := records(t, g, c)
			began := time.Now()
			var err error
			sent := 0
			for err == nil && time.Since(began) < 5*time.Second {
				err = send(r)
				sent++
			}
			if err == nil {
				t.Fatalf("%s: not cut off after %d messages", name, sent)
			}
			if fastest = min(fastest, time.Since(began)); fastest < time.Second {
				break // one that waits for a processor says nothing of the others
			}
		}
		if fastest > time.Second {
			t.Errorf("%s: cut off after %v at the soonest", name, fastest)
		}
	}
	if used := g.cpu() - busy; used > time.Second {
		t.Errorf("the floods took %v of CPU", used)
	}
	if _, err := exchangeOver(g.tls, c); err != nil {
		t.Errorf("a good client after the floods: %v", err)
	}
}
