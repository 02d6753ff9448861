package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// gateway is a server that keeps what the policy's checks look at, as they say.
func gateway(t *testing.T, refuse, limit, log bool) *peer {
	t.Helper()
	p := &peer{name: "keyway", log: filepath.Join(t.TempDir(), "access.log")}
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if log {
			_, _ = io.WriteString(f, `{"path":"`+q.URL.Path+`"}`+"\n")
		}
		if refuse && q.Header.Get("Apikey") != apiKey {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if limit {
			w.Header().Set("X-RateLimit-Remaining-Hour", "9")
		}
	}))
	t.Cleanup(s.Close)
	p.port = s.Listener.Addr().(*net.TCPAddr).Port
	return p
}

func TestThePolicyMustBeInForce(t *testing.T) {
	for _, c := range []struct {
		refuse, limit bool
		want          string
	}{{true, true, ""}, {false, true, "not 401"}, {true, false, "nothing of the limit"}} {
		bare := &peer{name: "nginx"} // is not asked
		err := inForce(t.Context(), benchCase{peers: []*peer{bare, gateway(t, c.refuse, c.limit, true)}})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("refusing %v, limiting %v: %v, want %q", c.refuse, c.limit, err, c.want)
		}
	}
}

func TestTheAccessLogHasALineForEachRequest(t *testing.T) {
	short, cancel := context.WithCancel(t.Context())
	cancel() // without patience
	p := &peer{log: filepath.Join(t.TempDir(), "access.log")}
	for text, want := range map[string]string{
		"": "0 lines of 2", "{\"path\":\"/1k\"}\n": "1 lines of 2", strings.Repeat("{\"path\":\"/1k\"}\n", 3): "3 lines of 2",
		"{\"path\":\"/1k\"}\n{\"path\":\"/\"}\n": "other lines", strings.Repeat("{\"path\":\"/1k\"}\n", 2): "",
	} {
		if err := os.WriteFile(p.log, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := logged(short, p, 2)
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) || want == "" && err != nil {
			t.Errorf("of %q it says %v, want %q", text, err, want)
		}
		if left, _ := os.ReadFile(p.log); want == "" && len(left) > 0 {
			t.Errorf("%q is left for the next run to be counted", left)
		}
	}
	if err := logged(short, &peer{}, 2); err != nil {
		t.Errorf("a peer without a log: %v", err)
	}
}
