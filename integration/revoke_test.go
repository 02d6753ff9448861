package integration

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rulingFacts is what `certs rollback` and `certs revoke` answer.
type rulingFacts struct {
	Old      int      `json:"old_version"`
	New      int      `json:"new_version"`
	Unserved []string `json:"unserved"`
	Warning  string   `json:"warning"`
}

func (g *gateway) rule(t testing.TB, args ...string) rulingFacts {
	t.Helper()
	out, err := g.run(append(append([]string{"certs"}, args...), "--json")...)
	var f rulingFacts
	if err != nil || json.Unmarshal([]byte(out), &f) != nil {
		t.Fatalf("certs %v: %v: %s", args, err, out)
	}
	return f
}

// next replaces the shop's pair and waits until it serves.
func (s *shop) next(t testing.TB) (serial, cert, key string) {
	t.Helper()
	time.Sleep(1100 * time.Millisecond) // a pair that is not newer than the last would be refused as older
	cert, key = pair(t, "shop.test", "shop.test")
	s.replace(t, cert, key)
	serial = serialOf(t, cert)
	poll(t, "the new pair serves", 20*time.Second, func() bool { return s.serial(t) == serial })
	return serial, cert, key
}

func TestRollbackUnderLoad(t *testing.T) {
	s := newShop(t, nil)
	first := s.serial(t)
	load := s.crowd(8)
	bad, cert, key := s.next(t)
	if f := s.rule(t, "rollback", "shop.test", "--reason", "clients complain"); f.Old != 2 || f.New != 1 || f.Warning != "" {
		t.Errorf("rolled back: %+v", f)
	}
	if got := s.serial(t); got != first {
		t.Errorf("after the command returned, %s serves; expected %s", got, first)
	}
	s.replace(t, cert, key) // touched, not changed
	time.Sleep(300 * time.Millisecond)
	if got := s.serial(t); got == bad {
		t.Error("what was rolled back is taken again")
	}
	s.next(t)
	load.end()
	t.Logf("%d requests, %d lost", load.sent.Load(), load.lost.Load())
	if load.lost.Load() > 0 {
		t.Errorf("%d of %d requests were lost, the first: %v", load.lost.Load(), load.sent.Load(), load.first.Load())
	}
	out, err := s.run("audit", "query", "--json")
	if err != nil || !strings.Contains(out, "rolled_back") || !strings.Contains(out, "clients complain") || !strings.Contains(out, "uid ") {
		t.Errorf("the ledger does not say who and why: %v %s", err, out)
	}
}

func TestRevokeEndsWhatUsedTheCertificate(t *testing.T) {
	s := newShop(t, nil)
	first := s.serial(t)
	load := s.crowd(8)
	bad, _, _ := s.next(t)
	sessions := tls.NewLRUClientSessionCache(1)
	connect := func() *tls.Conn {
		c, err := tls.Dial("tcp", s.tls, &tls.Config{ServerName: "shop.test", InsecureSkipVerify: true, ClientSessionCache: sessions})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(15 * time.Second))
		if _, err := io.WriteString(c, "GET /open HTTP/1.1\r\nHost: shop.test\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 4096)); n == 0 || err != nil {
			t.Fatalf("no answer: %v", err)
		}
		return c
	}
	one, resumed := connect(), connect()
	if !resumed.ConnectionState().DidResume {
		t.Fatal("the session was not resumed; the test shows nothing")
	}
	f := s.rule(t, "revoke", "shop.test", "--reason", "the key was seen")
	if f.Old != 2 || f.New != 1 {
		t.Errorf("revoked: %+v", f)
	}
	if got := s.serial(t); got != first {
		t.Errorf("after the command returned, %s serves; expected %s", got, first)
	}
	if connect().ConnectionState().DidResume {
		t.Error("a session from before the revocation was resumed")
	}
	began := time.Now()
	for _, c := range []net.Conn{one, resumed} {
		if rest, _ := io.ReadAll(c); len(rest) > 0 {
			t.Logf("also read %d bytes", len(rest))
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("idle connections of the revoked certificate ended after %v", took)
	}
	load.end()
	t.Logf("%d requests, %d lost", load.sent.Load(), load.lost.Load())
	if load.lost.Load() > 0 {
		t.Errorf("%d of %d requests were lost, the first: %v", load.lost.Load(), load.sent.Load(), load.first.Load())
	}

	// A restart knows nothing but the file of rulings and the revoked pair.
	if code := s.stop(syscall.SIGTERM); code != 0 {
		t.Fatalf("exit %d", code)
	}
	doc, err := os.ReadFile(s.doc)
	if err != nil {
		t.Fatal(err)
	}
	again := start(t, options{dir: s.dir, document: string(doc)})
	s.gateway = again
	if c, err := tls.Dial("tcp", again.tls, &tls.Config{ServerName: "shop.test", InsecureSkipVerify: true}); err == nil {
		if c.ConnectionState().PeerCertificates[0].SerialNumber.String() == bad {
			t.Error("the restart brought the revoked certificate back")
		}
		_ = c.Close()
	} else if !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("the handshake ended with %v", err)
	}
	if again.get("/status/ready") != http.StatusOK {
		t.Error("one certificate that is missing must not stop the node")
	}
	cert, key := pair(t, "shop.test", "shop.test")
	s.replace(t, cert, key)
	poll(t, "a new pair serves", 20*time.Second, func() bool {
		c, err := tls.Dial("tcp", again.tls, &tls.Config{ServerName: "shop.test", InsecureSkipVerify: true})
		if err != nil {
			return false
		}
		_ = c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String() == serialOf(t, cert)
	})
}
