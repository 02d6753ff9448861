package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

func TestContract(t *testing.T) {
	secrettest.Contract(t, func(t *testing.T) secrettest.Subject {
		s := fake(t)
		return secrettest.Subject{
			Source: s.open(t, nil),
			Put: func(_ *testing.T, name, value string) {
				fields := map[string]string{}
				if json.Unmarshal([]byte(value), &fields) != nil {
					fields = map[string]string{"value": value}
				}
				s.put(name, fields)
			},
			Remove: func(_ *testing.T, name string) { s.remove(name) },
			Deny:   func(_ *testing.T, name string) { s.with(func() { s.denied[named(name)] = true }) },
			Break: func(*testing.T) func() {
				s.with(func() { s.status = 503 })
				return func() { s.with(func() { s.status = 0 }) }
			},
			Hang: func(t *testing.T) func() {
				hung := make(chan struct{})
				mend := sync.OnceFunc(func() { s.with(func() { s.hung = nil }); close(hung) })
				t.Cleanup(mend)
				s.with(func() { s.hung = hung })
				return mend
			},
			Issues: true, // what is put is a key of what is answered; hints have tests of their own
		}
	})
}

// run starts Run and answers a func that ends it and waits.
func run(t *testing.T, src *Source) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v; expected nil at the end of its context", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run did not end with its context")
		}
	})
	t.Cleanup(stop)
	return stop
}

func field(t *testing.T, src *Source, resource, key string) (string, error) {
	t.Helper()
	l, err := src.Fetch(t.Context(), secrets.Request{Resource: resource})
	if err != nil {
		return "", err
	}
	var fields map[string]*string
	if err := json.Unmarshal(l.Value.Reveal(), &fields); err != nil {
		t.Fatal("the value is no JSON object of texts")
	}
	if fields[key] == nil {
		return "", errors.New("no such text")
	}
	return *fields[key], nil
}

// becomes looks at each hint until a key has a value; without hints it fails.
func becomes(t *testing.T, src *Source, resource, key, want string) {
	t.Helper()
	end := time.After(10 * time.Second)
	for {
		select {
		case <-src.Changed():
			if got, err := field(t, src, resource, key); err == nil && got == want || want == "" && errors.Is(err, secrets.ErrNotFound) {
				return
			}
		case <-end:
			t.Fatalf("%s/%s: no hint after which it was as expected", resource, key)
		}
	}
}

// live waits for a watch to be up.
func live(t *testing.T, src *Source, k key) {
	t.Helper()
	for range 1000 {
		src.mu.Lock()
		up := src.known[k] != nil && src.known[k].watch.live
		src.mu.Unlock()
		if up {
			return
		}
		time.Sleep(10 * time.Millisecond) // the network is real here
	}
	t.Fatalf("the watch of %s did not come up", k)
}

func TestWatchBringsChanges(t *testing.T) {
	s := fake(t)
	src := s.open(t, nil)
	s.put("db", map[string]string{"password": "one"})
	run(t, src)
	if got, err := field(t, src, "db", "password"); got != "one" {
		t.Fatalf("first fetch: %v", err)
	}
	live(t, src, key{"own", "db"})
	asked := s.count("get")
	for _, v := range []string{"two", "three"} {
		s.put("db", map[string]string{"password": v})
		becomes(t, src, "db", "password", v)
		s.put("unused", map[string]string{"password": v})
		for range 5 {
			_, _ = field(t, src, "db", "password")
		}
	}
	s.remove("db")
	becomes(t, src, "db", "password", "")
	s.put("db", map[string]string{"password": "four"})
	becomes(t, src, "db", "password", "four")
	if n := s.count("get") - asked; n != 4 {
		t.Errorf("%d reads; expected one for each of 4 changes", n)
	}
	if n := s.count("list"); n != 1 {
		t.Errorf("%d lists; expected one", n)
	}
}

func TestHintsSayWhichSecret(t *testing.T) {
	s := fake(t)
	src := s.open(t, nil)
	for _, name := range []string{"db", "other"} {
		s.put(name, map[string]string{"password": "one"})
	}
	run(t, src)
	for _, name := range []string{"db", "other"} {
		if _, err := field(t, src, name, "password"); err != nil {
			t.Fatal(err)
		}
		live(t, src, key{"own", name})
	}
	src.Touched()
	s.put("db", map[string]string{"password": "two"})
	becomes(t, src, "db", "password", "two")
	touched := src.Touched()
	if !touched("db") || !touched("own/db") || touched("other") {
		t.Errorf("db %v, own/db %v, other %v; expected db alone", touched("db"), touched("own/db"), touched("other"))
	}
	if again := src.Touched(); again("db") {
		t.Error("touched twice by one change")
	}
}

func TestAClosedWatchGoesOnWhereItWas(t *testing.T) {
	s := fake(t)
	src := s.open(t, nil)
	s.put("db", map[string]string{"password": "one"})
	run(t, src)
	_, _ = field(t, src, "db", "password")
	live(t, src, key{"own", "db"})
	for i := range 3 {
		v := fmt.Sprint("after cut ", i)
		s.cutWatches()
		s.put("db", map[string]string{"password": v}) // while no watch may be up
		if got, err := field(t, src, "db", "password"); err == nil && got != v {
			becomes(t, src, "db", "password", v)
		}
		live(t, src, key{"own", "db"})
	}
	if n := s.count("list"); n != 1 {
		t.Errorf("%d lists; expected one: a watch that was closed in order goes on from its version", n)
	}
}

func TestWhatWasWatchedIsNoAnswerOfADeadServer(t *testing.T) {
	s := fake(t)
	src := s.open(t, nil)
	s.put("db", map[string]string{"password": "one"})
	run(t, src)
	_, _ = field(t, src, "db", "password")
	live(t, src, key{"own", "db"})
	s.with(func() { s.status = 503 })
	s.cutWatches()
	for range 1000 {
		if _, err := field(t, src, "db", "password"); errors.Is(err, secrets.ErrUnavailable) {
			return
		}
		time.Sleep(10 * time.Millisecond) // the network is real here
	}
	t.Error("after its watch ended the source still answers what it brought")
}

func TestAVersionTooOldIsListedAgain(t *testing.T) {
	s := fake(t)
	src := s.open(t, nil)
	s.put("db", map[string]string{"password": "one"})
	run(t, src)
	_, _ = field(t, src, "db", "password")
	live(t, src, key{"own", "db"})
	s.put("other", nil)
	s.with(func() { // the past is forgotten, as by etcd's compaction
		s.at++
		s.oldest = s.at
		s.past = nil
	})
	s.cutWatches()
	s.put("db", map[string]string{"password": "two"})
	becomes(t, src, "db", "password", "two")
	live(t, src, key{"own", "db"})
	if n := s.count("list"); n != 2 {
		t.Errorf("%d lists; expected two", n)
	}
}

func TestWithoutTheRightToWatchEachFetchReads(t *testing.T) {
	s := fake(t)
	s.wide = 3
	src := s.open(t, nil)
	s.put("db", map[string]string{"password": "one"})
	run(t, src)
	for _, v := range []string{"one", "two"} {
		s.put("db", map[string]string{"password": v})
		if got, err := field(t, src, "db", "password"); got != v {
			t.Errorf("got another value: %v", err)
		}
	}
}

func TestErrorsHaveTheirKinds(t *testing.T) {
	s := fake(t)
	src := s.open(t, nil)
	s.put("db", map[string]string{"password": "one"})
	for _, tt := range []struct {
		status int
		after  string
		want   error
		wait   time.Duration
	}{
		{401, "", secrets.ErrDenied, 0},
		{403, "", secrets.ErrDenied, 0},
		{404, "", secrets.ErrNotFound, 0},
		{500, "", secrets.ErrUnavailable, 0},
		{503, "7", secrets.ErrUnavailable, 7 * time.Second},
		{429, "", secrets.ErrUnavailable, time.Second},
		{429, "12", secrets.ErrUnavailable, 12 * time.Second},
		{302, "", secrets.ErrUnavailable, 0},
	} {
		s.with(func() { s.status, s.after = tt.status, tt.after })
		_, err := src.Fetch(t.Context(), secrets.Request{Resource: "db"})
		var throttled *secrets.Throttled
		wait := time.Duration(0)
		if errors.As(err, &throttled) {
			wait = throttled.After
		}
		if !errors.Is(err, tt.want) || wait != tt.wait || strings.Contains(fmt.Sprint(err), "canary") {
			t.Errorf("status %d: %v, wait %v; expected %v, wait %v, nothing of the answer", tt.status, err, wait, tt.want, tt.wait)
		}
	}
	s.with(func() { s.status = 403 })
	if _, err := src.Fetch(t.Context(), secrets.Request{Resource: "db"}); !strings.Contains(fmt.Sprint(err), "reading Secret own/db: ") ||
		!strings.Contains(fmt.Sprint(err), "may not get it") {
		t.Errorf("a refusal says %v; expected namespace, name and verb", err)
	}
	s.Close()
	if _, err := src.Fetch(t.Context(), secrets.Request{Resource: "db"}); !errors.Is(err, secrets.ErrUnavailable) {
		t.Errorf("no server: %v", err)
	}
}

func TestOtherNamespacesOnlyWhenAllowed(t *testing.T) {
	s := fake(t)
	s.put("shop/db", map[string]string{"password": "theirs"})
	_, err := s.open(t, nil).Fetch(t.Context(), secrets.Request{Resource: "shop/db"})
	if !errors.Is(err, secrets.ErrDenied) || !strings.Contains(err.Error(), "config.namespaces") {
		t.Errorf("not allowed: %v; expected a refusal that tells of config.namespaces", err)
	}
	if n := s.count("get"); n != 0 {
		t.Errorf("%d reads for a refused reference", n)
	}
	src := s.open(t, map[string]any{"namespaces": []any{"shop"}})
	if got, err := field(t, src, "shop/db", "password"); got != "theirs" {
		t.Errorf("allowed: %v", err)
	}
	for _, bad := range []string{"", "a/b/c", "..", "../db", "DB", "a b", "shop/", "/db", "db?x=1", "db%2f"} {
		if _, err := src.Fetch(t.Context(), secrets.Request{Resource: bad}); err == nil {
			t.Errorf("resource %q: no error", bad)
		}
	}
}

func TestAValueThatIsNoTextSpoilsOnlyItsKey(t *testing.T) {
	s := fake(t)
	src := s.open(t, nil)
	s.put("mixed", map[string]string{"good": "text \u00fc", "bad": "\xff\xfe"})
	if got, err := field(t, src, "mixed", "good"); got != "text \u00fc" {
		t.Errorf("good: %v", err)
	}
	if _, err := field(t, src, "mixed", "bad"); err == nil {
		t.Error("bad: no error")
	}
	l, _ := src.Fetch(t.Context(), secrets.Request{Resource: "mixed"})
	if want := time.Date(2026, 2, 2, 0, 0, 0, 0, time.UTC); l.Version != "101" || !l.Modified.Equal(want) {
		t.Errorf("version %s, modified %v; expected 101, %v", l.Version, l.Modified, want)
	}
}

func TestUnusedSecretsAreForgotten(t *testing.T) {
	s := fake(t)
	src := s.open(t, nil)
	for _, n := range []string{"used", "unused"} {
		s.put(n, map[string]string{"k": "v"})
		_, _ = field(t, src, n, "k")
	}
	src.forget()
	src.forget() // hints: whoever still wants it asks now
	_, _ = field(t, src, "used", "k")
	src.forget()
	if src.known[key{"own", "used"}] == nil || src.known[key{"own", "unused"}] != nil {
		t.Errorf("%d known; expected the used one alone", len(src.known))
	}
	select {
	case <-src.Changed():
	default:
		t.Error("no hint before a Secret was forgotten")
	}
}

func TestNothingRunsAfterRun(t *testing.T) {
	s := fake(t)
	before := runtime.NumGoroutine()
	src := s.open(t, nil)
	stop := run(t, src)
	for i := range 20 {
		n := fmt.Sprint("s", i)
		s.put(n, map[string]string{"k": "v"})
		_, _ = field(t, src, n, "k")
		live(t, src, key{"own", n})
	}
	stop()
	_ = src.Close()
	s.CloseClientConnections()
	for range 500 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond) // connections end in their own time
	}
	buf := make([]byte, 1<<16)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}

func TestPauses(t *testing.T) {
	throttled := &secrets.Throttled{Err: secrets.ErrUnavailable, After: 45 * time.Second}
	for range 200 {
		for _, tt := range []struct {
			failed    int
			err       error
			from, end time.Duration
		}{
			{1, secrets.ErrUnavailable, 500 * time.Millisecond, time.Second},
			{3, secrets.ErrUnavailable, 2 * time.Second, 4 * time.Second},
			{100, secrets.ErrUnavailable, 2 * time.Second, 4 * time.Second},
			{1, secrets.ErrDenied, 500 * time.Millisecond, time.Second},
			{100, secrets.ErrDenied, 15 * time.Second, 30 * time.Second},
			{1, throttled, 45 * time.Second, 45 * time.Second},
		} {
			if d := pause(tt.failed, tt.err); d < tt.from || d > tt.end {
				t.Fatalf("failure %d, %v: pause %v; expected %v to %v", tt.failed, tt.err, d, tt.from, tt.end)
			}
		}
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	for want, config := range map[string]map[string]any{
		"config.nope":       {"nope": 1},
		"config.namespace:": {"namespace": "No Such"},
		"config.namespaces": {"namespaces": "shop"},
		"config.kubeconfig": {"kubeconfig": "relative"},
		"config.context":    {"context": "x"},
		"config.token_file": {"server": "https://a", "token_file": "t"},
		"config.server":     {"server": "http://a", "token_file": "/t"},
		"config.server:":    {"ca_file": "/c"},
		"config.server: it": {"server": "https://a", "kubeconfig": "/k"},
	} {
		if _, err := Parse(config); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v: %v; expected an error that begins with %s", config, err, want)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	s := fake(t)
	s.put("db", map[string]string{"password": "one"})
	file := func(server, user, cluster string) string {
		path := filepath.Join(t.TempDir(), "config")
		text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"none",
"clusters":[{"name":"c","cluster":{"server":%q%s}}],"users":[{"name":"u","user":%s}],
"contexts":[{"name":"x","context":{"cluster":"c","user":"u","namespace":"own"}}]}`, server, cluster, user)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	src, err := Open(map[string]any{"kubeconfig": file(s.URL, `{"token":"t"}`, ""), "context": "x"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := field(t, src.(*Source), "db", "password"); got != "one" {
		t.Errorf("with a kubeconfig: %v", err)
	}
	program := `{"exec":{"apiVersion":"client.authentication.k8s.io/v1","command":"true","interactiveMode":"Never"}}`
	for name, c := range map[string]map[string]any{
		"a program":       {"kubeconfig": file("https://127.0.0.1:1", program, ""), "context": "x"},
		"insecure":        {"kubeconfig": file("https://127.0.0.1:1", `{"token":"t"}`, `,"insecure-skip-tls-verify":true`), "context": "x"},
		"no such context": {"kubeconfig": file("https://127.0.0.1:1", `{"token":"t"}`, ""), "context": "y"},
		"no such file":    {"kubeconfig": "/nowhere/config"},
		"no pod":          {},
		"no such ca":      {"server": "https://127.0.0.1:1", "ca_file": "/nowhere/ca"},
		"no such token":   {"server": "https://127.0.0.1:1", "token_file": "/nowhere/token"},
	} {
		if _, err := Open(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
