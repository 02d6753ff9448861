package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

func withAuth(o *originServer, auth string) string {
	return fmt.Sprintf("services: [{name: s, url: %q, x_keyway_upstream_auth: %s, routes: [{name: r, paths: [/]}]}]\n", o.URL, auth)
}

func TestUpstreamCredentials(t *testing.T) {
	o := newOrigin(t, nil)
	r := newRig(t, &Config{}, "")
	const ref = "{vault://fake/key}"
	f := func(auth, target string, check func(q *http.Request) bool, lines ...string) {
		t.Helper()
		r.use(withAuth(o, auth), secrets.NewSet(1, credential(t, ref, "canary value", 7)))
		x := ask(t, "GET", "a.test", target, lines...)
		if body := r.do(x); x.Response.Status != 200 {
			t.Fatalf("%s: %d %s", auth, x.Response.Status, body)
		}
		if q := o.got(); !check(q) {
			t.Errorf("%s: the origin got %s %v", auth, q.URL, q.Header)
		}
		end := r.finished[len(r.finished)-1]
		if len(end.Sent) != 1 || end.Sent[0].Version != 7 {
			t.Errorf("%s: the log is told of %v", auth, end.Sent)
		}
		for f := range x.Request.Fields.All() {
			if strings.Contains(f.Value, "canary") {
				t.Errorf("%s: plugins can see %s", auth, f.Name)
			}
		}
	}
	one := func(name, want string) func(*http.Request) bool {
		return func(q *http.Request) bool { return slices.Equal(q.Header.Values(name), []string{want}) }
	}
	f(`{type: header, name: X-Api-Key, value: "`+ref+`"}`, "/", one("X-Api-Key", "canary value"))
	f(`{type: header, name: X-Api-Key, value: "`+ref+`"}`, "/", one("X-Api-Key", "canary value"), "x-api-key: mine", "X-Api-Key: again")
	f(`{type: bearer, value: "`+ref+`"}`, "/", one("Authorization", "Bearer canary value"), "Authorization: Basic x")
	f(`{type: basic, username: joe, password: "`+ref+`"}`, "/", func(q *http.Request) bool {
		user, word, ok := q.BasicAuth()
		return ok && user == "joe" && word == "canary value"
	})
	query := func(want string) func(*http.Request) bool {
		return func(q *http.Request) bool { return q.URL.RawQuery == want }
	}
	f(`{type: query, name: "api-key", value: "`+ref+`"}`, "/x", query("api-key=canary+value"))
	f(`{type: query, name: "api-key", value: "`+ref+`"}`, "/x?a=1&api-key=mine&%61pi-key=too&b", query("a=1&b&api-key=canary+value"))
	f(`{type: aws_sigv4, access_key_id: id, secret_access_key: "`+ref+`", region: r, service: s}`, "/x?b=2&a=1", func(q *http.Request) bool {
		return strings.HasPrefix(q.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=id/") && q.Header.Get("X-Amz-Date") != "" && q.Host == strings.TrimPrefix(o.URL, "http://")
	}, "Authorization: mine", "X-Amz-Date: mine")
}

func TestUpstreamCredentialsOverTheClientsOwn(t *testing.T) {
	o := newOrigin(t, nil)
	r := newRig(t, &Config{Policy: "compatible"}, withAuth(o, "{type: header, name: X-Api-Key, value: own}"))
	x := ask(t, "GET", "a.test", "/", "X_Api_Key: mine")
	r.do(x)
	if q := o.got(); q.Header.Get("X_Api_Key") != "" || q.Header.Get("X-Api-Key") != "own" {
		t.Errorf("the origin got %v", q.Header)
	}
}

// A credential without a value closes its service; a body that is too long is told.
func TestUpstreamCredentialsFailClosed(t *testing.T) {
	o := newOrigin(t, nil)
	r := newRig(t, &Config{}, "")
	f := func(auth string, set *secrets.Set, reason string) {
		t.Helper()
		s := r.use(withAuth(o, auth), set)
		x := ask(t, "GET", "a.test", "/")
		if r.do(x); x.Response.Status != 503 || o.got() != nil {
			t.Errorf("%s: %d", auth, x.Response.Status)
		}
		if text := s.Problems.Error(); !strings.Contains(text, reason) || strings.Contains(text, "canary") {
			t.Errorf("%s: problems %s", auth, text)
		}
	}
	const bearer = `{type: bearer, value: "{vault://fake/key}"}`
	f(bearer, nil, "was never fetched")
	f(bearer, secrets.NewSet(1, credential(t, "{vault://fake/key}", "", 1)), "x_keyway_upstream_auth.value: reference {vault://fake/key} has no value: no such secret")
	f(bearer, secrets.NewSet(1, credential(t, "{vault://fake/key}", "canary\nX-Evil: 1", 1)), "line break")
}

// refresher is a broker whose forced look publishes what next says.
type refresher struct {
	forced atomic.Int32
	next   func() error
	set    *secrets.Set
}

func (f *refresher) Force(context.Context, secrets.Ref) error {
	f.forced.Add(1)
	return f.next()
}

func (f *refresher) Current() *secrets.Set { return f.set }

func TestRefusedCredentialIsAskedForAgain(t *testing.T) {
	good := "new"
	o := newOrigin(t, func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Authorization") != "Bearer "+good {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		body, _ := io.ReadAll(q.Body)
		_, _ = fmt.Fprintf(w, "welcome %s", body)
	})
	document := withAuth(o, `{type: bearer, value: "{vault://fake/key}"}`)
	start := func() (*rig, *refresher) {
		r := newRig(t, &Config{}, "")
		r.use(document, secrets.NewSet(1, credential(t, "{vault://fake/key}", "old", 1)))
		f := &refresher{}
		f.next = func() error {
			f.set = secrets.NewSet(2, credential(t, "{vault://fake/key}", "new", 2))
			r.use(document, f.set)
			return nil
		}
		r.handler.Refresh(f)
		return r, f
	}
	t.Run("retried", func(t *testing.T) {
		r, f := start()
		x := ask(t, "GET", "a.test", "/")
		if body := r.do(x); x.Response.Status != 200 || body != "welcome " || f.forced.Load() != 1 {
			t.Errorf("%d %q after %d forced looks", x.Response.Status, body, f.forced.Load())
		}
		if v := r.finished[0].Sent[0].Version; v != 2 {
			t.Errorf("the log is told of version %d", v)
		}
	})
	t.Run("not repeated, but the next is right", func(t *testing.T) {
		r, f := start()
		x := ask(t, "POST", "a.test", "/", "Content-Length: 1")
		x.Request.Body, x.Request.Length, x.Request.LengthGiven = strings.NewReader("b"), 1, true
		if r.do(x); x.Response.Status != 401 {
			t.Errorf("%d", x.Response.Status)
		}
		poll(t, "no look was forced", func() bool { return f.forced.Load() == 1 })
		poll(t, "the next request has the old credential", func() bool {
			x := ask(t, "POST", "a.test", "/")
			r.do(x)
			return x.Response.Status == 200
		})
	})
	t.Run("no storm", func(t *testing.T) {
		r, f := start()
		good = "nothing"
		f.next = func() error { f.set = r.publisher.Current().Set; return nil }
		for range 50 {
			x := ask(t, "GET", "a.test", "/")
			if r.do(x); x.Response.Status != 401 {
				t.Fatalf("%d", x.Response.Status)
			}
		}
		if n := f.forced.Load(); n != 1 {
			t.Errorf("%d forced looks for 50 refusals that no look can cure", n)
		}
	})
	t.Run("one look for many that cannot be repeated", func(t *testing.T) {
		r, f := start()
		good = "nothing"
		hold := make(chan struct{})
		f.next = func() error { <-hold; f.set = r.publisher.Current().Set; return nil }
		for range 50 {
			x := ask(t, "POST", "a.test", "/")
			if r.do(x); x.Response.Status != 401 {
				t.Fatalf("%d", x.Response.Status)
			}
		}
		poll(t, "no look was forced", func() bool { return f.forced.Load() > 0 })
		if n := f.forced.Load(); n != 1 {
			t.Errorf("%d looks at one time for 50 refusals", n)
		}
		close(hold)
	})
	t.Run("source away", func(t *testing.T) {
		r, f := start()
		f.next = func() error { return errors.New("away") }
		x := ask(t, "GET", "a.test", "/")
		if r.do(x); x.Response.Status != 401 {
			t.Errorf("%d", x.Response.Status)
		}
	})
}

// The answers of the upstream judge the version that was sent.
func TestUpstreamAnswersJudgeAVersion(t *testing.T) {
	status := 200
	o := newOrigin(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	c := credential(t, "{vault://fake/key}", "v", 2)
	c.Trial = secrets.NewTrial(time.Now(), secrets.TrialRule{Failures: 100}, nil)
	r := newRig(t, &Config{}, "")
	r.use(withAuth(o, `{type: bearer, value: "{vault://fake/key}"}`), secrets.NewSet(1, c))
	for _, status = range []int{200, 500, 401, 403, 404} {
		r.do(ask(t, "GET", "a.test", "/"))
	}
	if good, bad := c.Trial.Counts(); good != 3 || bad != 2 {
		t.Errorf("%d good and %d bad uses", good, bad)
	}
}

func TestVaultRulesHoldAtBuild(t *testing.T) {
	o := newOrigin(t, nil)
	r := newRig(t, &Config{}, "")
	doc := load(t, withAuth(o, `{type: bearer, value: "{vault://my-vault/key}"}`)+"vaults: [{name: env, prefix: my-vault, x_keyway_allow: [{entities: [services]}]}]\n")
	set := secrets.NewSet(1, credential(t, "{vault://my-vault/key}", "v", 1))
	s, report := r.builder.Build(nil, Inputs{Document: doc, Set: set, Now: time.Now()})
	if len(s.Problems) != 0 || len(report.Rotations) != 1 {
		t.Fatalf("%v, %+v", s.Problems, report.Rotations)
	}
	// As a provider would that writes documents without reading them.
	doc.Vaults[0].Allow[0].Entities = []string{"plugins"}
	s, report = r.builder.Build(s, Inputs{Document: doc, Set: set, Now: time.Now()})
	if len(s.Problems) != 1 || !strings.Contains(s.Problems.Error(), "vault 'my-vault'") || !strings.Contains(s.Problems.Error(), "x_keyway_allow[0] by its entities") || len(report.Rotations) != 1 || report.Rotations[0].Check != "access" {
		t.Errorf("%v, %+v", s.Problems, report.Rotations)
	}
	if _, report = r.builder.Build(s, Inputs{Document: doc, Set: set, Now: time.Now()}); len(report.Rotations) != 0 {
		t.Errorf("told again: %+v", report.Rotations)
	}
}

// A consumer's key that was replaced is taken until the end of its overlap.
func TestConsumerKeysOverlap(t *testing.T) {
	c := credential(t, "{vault://fake/key}", "new", 2)
	c.Previous = []secrets.Old{{Version: 1, Value: secrets.NewValue([]byte("old")), Until: time.Now().Add(time.Minute)}}
	r := newRig(t, &Config{}, "")
	s := r.use("consumers: [{username: ann, keyauth_credentials: [{key: \"{vault://fake/key}\"}]}, {username: bob, keyauth_credentials: [{key: own}]}]\n", secrets.NewSet(1, c))
	for key, version := range map[string]int{"new": 2, "old": 1} {
		if k, ok := s.Directory.Key(key); !ok || k.Version != version || k.Consumer.Username != "ann" || k.Identity().Version != version {
			t.Errorf("key %q: %v version %d", key, ok, k.Version)
		}
	}
	c.Previous[0].Value = secrets.NewValue([]byte("own"))
	s = r.use("consumers: [{username: ann, keyauth_credentials: [{key: \"{vault://fake/key}\"}]}, {username: bob, keyauth_credentials: [{key: own}]}]\n", secrets.NewSet(2, c))
	if k, _ := s.Directory.Key("own"); k.Consumer.Username != "bob" {
		t.Errorf("a replaced key opens for %s", k.Consumer.Username)
	}
}

func TestUpstreamClientCertificate(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.leaf("client.test")
	r := newRig(t, &Config{}, "")
	document := `services: [{name: s, url: "https://origin.test", x_keyway_upstream_auth: {type: client_certificate, cert: "{vault://fake/c}", key: "{vault://fake/k}"}, routes: [{name: r, paths: [/]}]}]` + "\n"
	set := func(cert, key string, version int) *secrets.Set {
		return secrets.NewSet(uint64(version), credential(t, "{vault://fake/c}", cert, version), credential(t, "{vault://fake/k}", key, version))
	}
	s := r.use(document, set(cert, "no key: canary", 1))
	if len(s.Problems) != 1 || s.Problems[0].Field != "x_keyway_upstream_auth.cert" || strings.Contains(s.Problems.Error(), "canary") {
		t.Fatalf("a pair that is none: %v", s.Problems)
	}
	x := ask(t, "GET", "a.test", "/")
	if r.do(x); x.Response.Status != 503 {
		t.Errorf("a service without its pair answered %d", x.Response.Status)
	}
	if s = r.use(document, set(cert, key, 2)); len(s.Problems) != 0 {
		t.Fatalf("a good pair: %v", s.Problems)
	}
	id := s.Document.Services[0].ID
	first := s.pairs[id]
	if s = r.use(document, set(cert, "no key", 3)); s.pairs[id] != first || len(s.Problems) != 1 {
		t.Errorf("a bad successor replaced the good pair, or was not told: %v", s.Problems)
	}
	cert, key = a.leaf("client.test")
	if s = r.use(document, set(cert, key, 4)); s.pairs[id] == first || s.pairs[id] == nil {
		t.Error("a good successor was not taken")
	}
}
