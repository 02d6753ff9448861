package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// server is a small Vault: it answers what a test scripts and keeps what it was asked.
type server struct {
	*httptest.Server
	t *testing.T

	mu     sync.Mutex // guards the group below
	paths  map[string]func(q *http.Request, body map[string]any) (int, any)
	tokens map[string]bool // that are good
	calls  []string
	heads  []http.Header
	retry  string // Retry-After of every answer
}

func fake(t *testing.T) *server {
	s := &server{t: t, paths: map[string]func(*http.Request, map[string]any) (int, any){}, tokens: map[string]bool{"root": true}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.answer))
	t.Cleanup(s.Close)
	s.on("GET auth/token/lookup-self", 200, data{"ttl": 0, "renewable": false, "accessor": "acc"})
	return s
}

type data map[string]any

// on answers a call with data.
func (s *server) on(call string, status int, d any) {
	s.script(call, func(*http.Request, map[string]any) (int, any) {
		if m, ok := d.(data); ok {
			return status, map[string]any{"request_id": "req-1", "data": map[string]any(m)}
		}
		return status, d
	})
}

func (s *server) script(call string, f func(q *http.Request, body map[string]any) (int, any)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paths[call] = f
}

func (s *server) answer(w http.ResponseWriter, q *http.Request) {
	call := q.Method + " " + strings.TrimPrefix(q.URL.Path, "/v1/")
	var body map[string]any
	_ = json.NewDecoder(q.Body).Decode(&body)
	s.mu.Lock()
	s.calls = append(s.calls, call)
	s.heads = append(s.heads, q.Header.Clone())
	f, retry, good := s.paths[call], s.retry, s.tokens[q.Header.Get("X-Vault-Token")]
	s.mu.Unlock()
	status, v := http.StatusNotFound, any(map[string]any{"errors": []string{}})
	switch login := strings.HasSuffix(call, "/login"); {
	case !good && !login && call != "PUT sys/wrapping/unwrap":
		status, v = http.StatusForbidden, map[string]any{"errors": []string{"permission denied"}}
	case f != nil:
		status, v = f(q, body)
	}
	if retry != "" {
		w.Header().Set("Retry-After", retry)
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (s *server) count(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(s.calls), func(c string) bool { return c != call }))
}

// told keeps events.
type told struct {
	mu   sync.Mutex
	list []secrets.Event
}

func (x *told) add(e secrets.Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.list = append(x.list, e)
}

func (x *told) has(kind, result string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.ContainsFunc(x.list, func(e secrets.Event) bool { return e.Kind == kind && e.Result == result })
}

func (s *server) open(config map[string]any, deps Deps) *Source {
	s.t.Helper()
	config["address"] = s.URL
	if _, ok := config["auth_method"]; !ok {
		config["token"] = "root"
	}
	c, err := Parse(config)
	if err != nil {
		s.t.Fatal(err)
	}
	source := New(c, deps)
	s.t.Cleanup(func() { _ = source.Close() })
	return source
}

func fetch(t *testing.T, s *Source, r secrets.Request) secrets.Lease {
	t.Helper()
	l, err := s.Fetch(t.Context(), r)
	if err != nil {
		t.Fatalf("fetching %+v: %v", r, err)
	}
	return l
}

func TestKV(t *testing.T) {
	v := fake(t)
	v.on("GET secret/app/db", 200, data{"user": "u", "n": 7})
	if l := fetch(t, v.open(map[string]any{}, Deps{}), secrets.Request{Resource: "app/db"}); string(l.Value.Reveal()) != `{"n":7,"user":"u"}` || l.Origin != "req-1" || l.ID != "" {
		t.Errorf("kv v1: %s, %+v", l.Value.Reveal(), l)
	}
	version := func(n int, extra data) data {
		m := map[string]any{"version": n, "created_time": "2026-01-02T03:04:05.6Z", "deletion_time": "", "destroyed": false}
		for k, x := range extra {
			m[k] = x
		}
		return data{"data": map[string]any{"user": fmt.Sprintf("u%d", n)}, "metadata": m}
	}
	v.script("GET kv/data/app/db", func(q *http.Request, _ map[string]any) (int, any) {
		switch q.URL.Query().Get("version") {
		case "":
			return 200, map[string]any{"data": version(3, nil)}
		case "1":
			return 404, map[string]any{"data": version(1, data{"destroyed": true})}
		case "2":
			return 404, map[string]any{"data": version(2, data{"deletion_time": "2026-02-02T00:00:00Z"})}
		}
		return 404, map[string]any{"errors": []string{}}
	})
	s := v.open(map[string]any{"kv": "v2", "mount": "kv"}, Deps{})
	l := fetch(t, s, secrets.Request{Resource: "app/db"})
	if string(l.Value.Reveal()) != `{"user":"u3"}` || l.Version != "3" || !l.Modified.Equal(time.Date(2026, 1, 2, 3, 4, 5, 6e8, time.UTC)) {
		t.Errorf("kv v2: %s, %+v", l.Value.Reveal(), l)
	}
	for n, want := range map[int]error{1: secrets.ErrRemoved, 2: secrets.ErrRemoved, 9: secrets.ErrNotFound} {
		if _, err := s.Fetch(t.Context(), secrets.Request{Resource: "app/db", Version: n}); !errors.Is(err, want) || n == 9 && errors.Is(err, secrets.ErrRemoved) {
			t.Errorf("version %d: %v", n, err)
		}
	}
	for _, bad := range []string{"../sys/mounts", "a//b", "a/../b", ".", ""} {
		if _, err := s.Fetch(t.Context(), secrets.Request{Resource: bad}); err == nil {
			t.Errorf("path %q was read", bad)
		}
	}
	v.on("GET secret/coded", 200, data{"user": "dQ=="})
	coded := v.open(map[string]any{"base64_decode": true}, Deps{})
	if l := fetch(t, coded, secrets.Request{Resource: "coded"}); string(l.Value.Reveal()) != `{"user":"u"}` {
		t.Errorf("base64: %s", l.Value.Reveal())
	}
	v.on("GET secret/coded", 200, data{"user": "canary!"})
	if _, err := coded.Fetch(t.Context(), secrets.Request{Resource: "coded"}); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("what is not base64: %v", err)
	}
}

func TestAnswersAreSorted(t *testing.T) {
	v := fake(t)
	s := v.open(map[string]any{}, Deps{})
	f := func(status int, retry string, want error, after time.Duration) {
		t.Helper()
		v.mu.Lock()
		v.retry = retry
		v.mu.Unlock()
		v.on("GET secret/x", status, map[string]any{"errors": []string{"because\nof this"}})
		_, err := s.Fetch(t.Context(), secrets.Request{Resource: "x"})
		var throttled *secrets.Throttled
		if want != nil && !errors.Is(err, want) || err == nil || errors.As(err, &throttled) != (after >= 0) || throttled != nil && throttled.After != after {
			t.Errorf("%d with Retry-After %q: %v", status, retry, err)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("an error of two lines: %v", err)
		}
	}
	f(404, "", secrets.ErrNotFound, -1)
	f(403, "", secrets.ErrDenied, -1)
	f(400, "", nil, -1)
	f(500, "", secrets.ErrUnavailable, -1)
	f(503, "", secrets.ErrUnavailable, -1)
	f(429, "", secrets.ErrUnavailable, 0)
	f(429, "7", secrets.ErrUnavailable, 7*time.Second)
	f(503, "90", secrets.ErrUnavailable, 90*time.Second)
	v.retry = ""
	v.Close()
	if _, err := s.Fetch(t.Context(), secrets.Request{Resource: "x"}); !errors.Is(err, secrets.ErrUnavailable) {
		t.Errorf("a server that is gone: %v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f := func(text string, want time.Duration) {
		t.Helper()
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
	f("", 0)
	f("7", 7*time.Second)
	f("-1", 0)
	f("soon", 0)
	f("999999999", time.Hour)
	f("Thu, 01 Jan 2026 00:00:30 GMT", 30*time.Second)
	f("Wed, 31 Dec 2025 00:00:30 GMT", 0)
}

func TestLeases(t *testing.T) {
	v := fake(t)
	made := 0
	v.script("GET database/creds/web", func(*http.Request, map[string]any) (int, any) {
		made++
		return 200, map[string]any{"request_id": "r", "lease_id": fmt.Sprintf("database/creds/web/%d", made), "lease_duration": 60, "renewable": true, "data": map[string]any{"username": "u", "password": "p"}}
	})
	ttl := 60
	v.script("PUT sys/leases/renew", func(_ *http.Request, body map[string]any) (int, any) {
		return 200, map[string]any{"lease_id": body["lease_id"], "lease_duration": ttl, "renewable": true}
	})
	v.on("PUT sys/leases/revoke", 204, data{})
	s := v.open(map[string]any{"engine": "generic"}, Deps{})
	l := fetch(t, s, secrets.Request{Resource: "database/creds/web"})
	if l.ID != "database/creds/web/1" || l.TTL != time.Minute || !l.Renewable || time.Until(l.NotAfter) > time.Minute || time.Until(l.NotAfter) < 50*time.Second {
		t.Errorf("%+v", l)
	}
	ttl = 20
	renewed, err := s.Renew(t.Context(), l)
	if err != nil || renewed.ID != l.ID || renewed.TTL != 20*time.Second || !renewed.Value.IsZero() || !renewed.NotAfter.Before(l.NotAfter) {
		t.Errorf("%+v, %v", renewed, err)
	}
	ttl = 0
	if _, err = s.Renew(t.Context(), l); err == nil {
		t.Error("a lease that cannot be extended was")
	}
	if err = s.Revoke(t.Context(), l); err != nil || v.count("PUT sys/leases/revoke") != 1 {
		t.Errorf("revoking: %v", err)
	}
}

// A certificate is made by a write, and not made anew by whoever looks again.
func TestWhatIsMadeIsKeptWhileYoung(t *testing.T) {
	v := fake(t)
	var sent map[string]any
	end := time.Now().Add(time.Hour).Unix()
	v.script("PUT pki/issue/web", func(_ *http.Request, body map[string]any) (int, any) {
		sent = body
		return 200, map[string]any{"data": map[string]any{"certificate": "c", "private_key": "k", "expiration": end}}
	})
	s := v.open(map[string]any{"engine": "generic"}, Deps{})
	r := secrets.Request{Resource: "pki/issue/web", Options: map[string]string{"op": "write", "common_name": "a.test"}}
	l := fetch(t, s, r)
	if l.TTL < 59*time.Minute || l.NotAfter.Unix() != end || sent["common_name"] != "a.test" || sent["op"] != nil {
		t.Errorf("%+v of %v", l, sent)
	}
	fetch(t, s, r)
	if n := v.count("PUT pki/issue/web"); n != 1 {
		t.Errorf("%d certificates for two looks", n)
	}
	r.Force = true
	fetch(t, s, r)
	if n := v.count("PUT pki/issue/web"); n != 2 {
		t.Errorf("%d certificates after a forced look", n)
	}
	if _, err := s.Fetch(t.Context(), secrets.Request{Resource: "x", Options: map[string]string{"op": "delete"}}); err == nil || !strings.Contains(err.Error(), "expected read or write") {
		t.Errorf("an operation that is none: %v", err)
	}
}

func TestLogins(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	f := func(path string, config map[string]any, want map[string]any) {
		t.Helper()
		v := fake(t)
		v.tokens = map[string]bool{"fresh": true}
		var got map[string]any
		v.script("PUT "+path, func(_ *http.Request, body map[string]any) (int, any) {
			got = body
			return 200, map[string]any{"auth": map[string]any{"client_token": "fresh", "lease_duration": 3600, "renewable": true}}
		})
		v.on("GET secret/x", 200, data{"a": "b"})
		events := &told{}
		lookup := func(_ context.Context, r secrets.Ref) (secrets.Value, error) {
			return secrets.NewValue([]byte("value of " + r.Resource)), nil
		}
		fetch(t, v.open(config, Deps{Events: events.add, Lookup: lookup}), secrets.Request{Resource: "x"})
		if fmt.Sprint(got) != fmt.Sprint(want) || !events.has("source", "login") {
			t.Errorf("%s was sent %v, want %v", path, got, want)
		}
	}
	f("auth/approle/login", map[string]any{"auth_method": "approle", "approle_role_id": "role", "approle_secret_id": "{vault://env/sid}"}, map[string]any{"role_id": "role", "secret_id": "value of sid"})
	f("auth/mine/login", map[string]any{"auth_method": "approle", "approle_auth_path": "mine", "approle_role_id": "role", "approle_secret_id_file": write("sid", "from a file")}, map[string]any{"role_id": "role", "secret_id": "from a file"})
	f("auth/kubernetes/login", map[string]any{"auth_method": "kubernetes", "kube_role": "edge", "kube_api_token_file": write("sa", "a.b.c")}, map[string]any{"role": "edge", "jwt": "a.b.c"})
	f("auth/jwt/login", map[string]any{"auth_method": "jwt", "jwt_role": "edge", "jwt": "j.w.t"}, map[string]any{"role": "edge", "jwt": "j.w.t"})
}

// A wrapping token that somebody else has used is told as what it is.
func TestWrappedSecretID(t *testing.T) {
	v := fake(t)
	v.tokens = map[string]bool{"fresh": true}
	used := false
	v.script("PUT sys/wrapping/unwrap", func(*http.Request, map[string]any) (int, any) {
		if used {
			return 400, map[string]any{"errors": []string{"wrapping token is not valid or does not exist"}}
		}
		used = true
		return 200, map[string]any{"data": map[string]any{"secret_id": "inner"}}
	})
	v.script("PUT auth/approle/login", func(_ *http.Request, body map[string]any) (int, any) {
		if body["secret_id"] != "inner" {
			return 400, map[string]any{"errors": []string{"invalid secret id"}}
		}
		return 200, map[string]any{"auth": map[string]any{"client_token": "fresh", "lease_duration": 3600}}
	})
	v.on("GET secret/x", 200, data{"a": "b"})
	config := func() map[string]any {
		return map[string]any{"auth_method": "approle", "approle_role_id": "role", "approle_secret_id": "wrapping", "approle_response_wrapping": true}
	}
	events := &told{}
	s := v.open(config(), Deps{Events: events.add})
	fetch(t, s, secrets.Request{Resource: "x"})
	s.forget(s.now)
	fetch(t, s, secrets.Request{Resource: "x"}) // logs in again with what was unwrapped
	if events.has("security", wrappingUsed) {
		t.Error("an alarm without a cause")
	}
	s = v.open(config(), Deps{Events: events.add})
	if _, err := s.Fetch(t.Context(), secrets.Request{Resource: "x"}); !errors.Is(err, secrets.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	if !events.has("security", wrappingUsed) {
		t.Error("a wrapping token that was used twice is no event")
	}
}

// A dead token is used for one read, then there is a new login; a token that lacks
// a permission is not thrown away.
func TestDeadToken(t *testing.T) {
	v := fake(t)
	logins := 0
	v.tokens = map[string]bool{}
	v.script("PUT auth/approle/login", func(*http.Request, map[string]any) (int, any) {
		logins++
		token := fmt.Sprintf("token-%d", logins)
		v.mu.Lock()
		v.tokens = map[string]bool{token: true}
		v.mu.Unlock()
		return 200, map[string]any{"auth": map[string]any{"client_token": token, "lease_duration": 3600}}
	})
	v.on("GET secret/x", 200, data{"a": "b"})
	s := v.open(map[string]any{"auth_method": "approle", "approle_role_id": "r", "approle_secret_id": "s"}, Deps{})
	fetch(t, s, secrets.Request{Resource: "x"})
	v.mu.Lock()
	v.tokens = map[string]bool{} // revoked by somebody
	v.mu.Unlock()
	before := v.count("GET secret/x")
	fetch(t, s, secrets.Request{Resource: "x"})
	if n := v.count("GET secret/x") - before; n != 2 || logins != 2 {
		t.Errorf("%d reads and %d logins", n, logins)
	}
	v.on("GET secret/x", 403, map[string]any{"errors": []string{"permission denied"}})
	if _, err := s.Fetch(t.Context(), secrets.Request{Resource: "x"}); !errors.Is(err, secrets.ErrDenied) || logins != 2 {
		t.Errorf("%v after %d logins", err, logins)
	}
	v.script("PUT auth/approle/login", func(*http.Request, map[string]any) (int, any) {
		return 400, map[string]any{"errors": []string{"invalid secret id"}}
	})
	v.mu.Lock()
	v.tokens = map[string]bool{}
	v.mu.Unlock()
	if _, err := s.Fetch(t.Context(), secrets.Request{Resource: "x"}); !errors.Is(err, secrets.ErrUnavailable) || !strings.Contains(err.Error(), "invalid secret id") {
		t.Errorf("a login that is refused: %v", err)
	}
}

func TestNamespaceAndEnvironment(t *testing.T) {
	for name, value := range map[string]string{"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": "foreign", "VAULT_NAMESPACE": "foreign", "VAULT_HEADERS": `{"X-Foreign":"1"}`, "VAULT_MAX_RETRIES": "9"} {
		t.Setenv(name, value)
	}
	v := fake(t)
	v.on("GET secret/x", 200, data{"a": "b"})
	fetch(t, v.open(map[string]any{"namespace": "team"}, Deps{}), secrets.Request{Resource: "x"})
	fetch(t, v.open(map[string]any{}, Deps{}), secrets.Request{Resource: "x"})
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, h := range v.heads {
		want := map[bool]string{true: "team"}[i < len(v.heads)/2]
		if h.Get("X-Vault-Namespace") != want || h.Get("X-Vault-Token") != "root" || h.Get("X-Foreign") != "" || h.Get("X-Vault-Request") != "true" {
			t.Errorf("call %d (%s): %v", i, v.calls[i], h)
		}
	}
}

func TestParse(t *testing.T) {
	f := func(config map[string]any, want string) {
		t.Helper()
		_, err := Parse(config)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v: %v, want %q", config, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%v: the error tells a value", config)
		}
	}
	token := func(more ...any) map[string]any {
		c := map[string]any{"token": "canary"}
		for i := 0; i < len(more); i += 2 {
			c[more[i].(string)] = more[i+1]
		}
		return c
	}
	f(token(), "")
	f(token("host", "v.test", "port", 8200.0, "protocol", "https"), "")
	f(token("namespace", nil), "")
	f(map[string]any{}, "config.token: it is missing; expected a token")
	f(token("tokn", "x"), "config.tokn: unknown field")
	f(token("kv", "v3"), "config.kv: expected one of: v1, v2")
	f(token("port", 0.5), "config.port: expected a number")
	f(token("address", "vault"), "config.address: expected the URL")
	f(token("address", "http://u:canary@v.test"), "config.address: expected the URL")
	f(token("address", "http://v.test", "host", "x"), "config.address: expected nothing beside it")
	f(token("auth_method", "ldap"), "config.auth_method: expected one of")
	f(token("auth_method", "approle"), "config.approle_role_id: it is missing")
	f(token("auth_method", "cert", "cert_auth_cert", "c", "cert_auth_cert_key", "k"), "config.protocol: it is missing; expected https")
	f(token("auth_method", "kubernetes"), "config.kube_role: it is missing")
	f(token("ca_file", "relative.pem"), "config.ca_file: expected the absolute path")
	f(token("client_cert", "x"), "config.client_cert: client_cert and client_key go together")
	f(map[string]any{"token": "{vault://}"}, "config.token")
	f(token("timeout", -1), "config.timeout: expected a number of seconds")
}

// The next renewal of a login is at two thirds of its time.
func TestLoginIsRenewedInTime(t *testing.T) {
	c := NewClient(Config{Address: "http://127.0.0.1:1", Timeout: time.Second}, Deps{})
	if _, due := c.nextRenewal(0, nil); due {
		t.Error("nothing is due before the first login")
	}
	c.now = &session{made: time.Now().Add(-50 * time.Second), ttl: time.Minute}
	if wait, due := c.nextRenewal(0, nil); !due || wait != 0 {
		t.Errorf("late: %v %v", wait, due)
	}
	c.now = &session{made: time.Now(), ttl: time.Hour}
	if wait, due := c.nextRenewal(0, nil); due || wait != idle {
		t.Errorf("early: %v %v", wait, due)
	}
	down := fmt.Errorf("down: %w", secrets.ErrUnavailable)
	for failures, most := range map[int]time.Duration{1: 2 * time.Second, 4: 16 * time.Second, 50: time.Minute} {
		if wait, due := c.nextRenewal(failures, down); !due || wait > most || wait < most/2 {
			t.Errorf("after %d failures: %v %v", failures, wait, due)
		}
	}
	for _, after := range []time.Duration{0, 7 * time.Second, 10 * time.Minute} {
		asked := fmt.Errorf("logging in: %w", &secrets.Throttled{Err: down, After: after})
		if wait, due := c.nextRenewal(1, asked); !due || wait < max(after, time.Second) || wait > after*11/10+2*time.Second {
			t.Errorf("asked to wait %v: %v %v", after, wait, due)
		}
	}
}

func TestClientPrintsNoSecret(t *testing.T) {
	c, err := Parse(map[string]any{"token": "canary", "approle_secret_id": "canary"})
	if err != nil {
		t.Fatal(err)
	}
	s := New(c, Deps{})
	if text := fmt.Sprintf("%v %+v %#v", s, s.cfg, s); strings.Contains(text, "canary") {
		t.Error("a printed source tells its secrets")
	}
}
