package vault

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// TestEveryWayOfBeingAwayIsOne is case S-02 at the source: refused, silent, a
// certificate of nobody, no TLS at all and a name that is gone are all "away", told in
// the source's own words and without the token; none takes longer than the timeout.
func TestEveryWayOfBeingAwayIsOne(t *testing.T) {
	listen := func(serve func(net.Conn)) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				serve(c)
				t.Cleanup(func() { _ = c.Close() })
			}
		}()
		t.Cleanup(func() { _ = l.Close(); <-done })
		return l.Addr().String()
	}
	gone := listen(func(net.Conn) {})
	foreign := httptest.NewTLSServer(nil)
	t.Cleanup(foreign.Close)
	// Of an address that nobody else takes ports of, as nobody holds it.
	closed, err := net.Listen("tcp", "127.0.0.34:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for what, address := range map[string]string{
		"refused":                  "http://" + closed.Addr().String(),
		"black hole":               "http://" + gone,
		"a black hole for TLS":     "https://" + gone,
		"a certificate of nobody":  foreign.URL,
		"TLS where there is none":  "https://" + listen(func(c net.Conn) { _, _ = c.Write([]byte("220 mail.test ESMTP\r\n")) }),
		"hangs up":                 "http://" + listen(func(c net.Conn) { _ = c.Close() }),
		"an answer of another one": "http://" + listen(func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-x\r\n\r\n")) }),
		"its name is gone":         "http://vault.invalid:8200",
	} {
		c, err := Parse(map[string]any{"address": address, "token": "canary-token", "timeout": 1})
		if err != nil {
			t.Fatal(err)
		}
		s := New(c, Deps{})
		began := time.Now()
		_, err = s.Fetch(t.Context(), secrets.Request{Resource: "x"})
		if !errors.Is(err, secrets.ErrUnavailable) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v; expected that it is away", what, err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s took %s, with a timeout of 1s", what, took)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestThrottledReadsAreOne is case S-04 at the source: a 429 is not tried again
// within the call, whether it says when to come back or not.
func TestThrottledReadsAreOne(t *testing.T) {
	v := fake(t)
	v.on("GET secret/x", 429, map[string]any{"errors": []string{"slow down"}})
	s := v.open(map[string]any{}, Deps{})
	for i, retry := range []string{"7", ""} {
		v.mu.Lock()
		v.retry = retry
		v.mu.Unlock()
		_, err := s.Fetch(t.Context(), secrets.Request{Resource: "x"})
		var throttled *secrets.Throttled
		if !errors.As(err, &throttled) {
			t.Fatalf("Retry-After %q: %v", retry, err)
		}
		if n := v.count("GET secret/x"); n != i+1 {
			t.Errorf("Retry-After %q: %d calls for %d reads", retry, n, i+1)
		}
	}
}

// TestNoRevokedLeaseIsAnswered: what was made and then given back, by a check or at a
// release, is not what the next read answers.
func TestNoRevokedLeaseIsAnswered(t *testing.T) {
	v := fake(t)
	made := 0
	v.script("GET database/creds/app", func(*http.Request, map[string]any) (int, any) {
		made++
		return 200, map[string]any{"request_id": "r", "lease_id": fmt.Sprint("lease-", made), "lease_duration": 3600, "renewable": false, "data": data{"password": "x"}}
	})
	v.on("PUT sys/leases/revoke", 204, nil)
	s := v.open(map[string]any{"engine": "generic"}, Deps{})
	one := secrets.Request{Resource: "database/creds/app"}
	first := fetch(t, s, one)
	if again := fetch(t, s, one); again.ID != first.ID {
		t.Errorf("a young lease was not answered again: %s after %s", again.ID, first.ID)
	}
	checked := fetch(t, s, secrets.Request{Resource: one.Resource, Force: true})
	if err := s.Revoke(t.Context(), checked); err != nil {
		t.Fatal(err)
	}
	if next := fetch(t, s, one); next.ID == checked.ID {
		t.Errorf("%s was revoked and is answered", next.ID)
	}
}
