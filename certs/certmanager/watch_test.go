package certmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets/kube"
)

// server is an API server that knows Certificates.
type server struct {
	http *httptest.Server

	mu      sync.Mutex
	unknown bool              // the kind is not defined
	refuse  map[string]int    // status by method
	objects map[string]string // JSON by path below "/apis/cert-manager.io/v1/"
	version int
	lines   []string // of watches
	wake    chan struct{}
	patches []string
	meddle  int // so many changes come from elsewhere before a patch
}

func newServer(t *testing.T) *server {
	s := &server{refuse: map[string]int{}, objects: map[string]string{}, wake: make(chan struct{})}
	s.http = httptest.NewServer(s)
	t.Cleanup(func() {
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

// put writes a Certificate of the namespace shop, "" takes it away.
func (s *server) put(name, rest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	at, kind := "namespaces/shop/certificates/"+name, "MODIFIED"
	text := fmt.Sprintf(`{"metadata": {"name": %q, "namespace": "shop", "resourceVersion": "%d", "generation": 7, "creationTimestamp": "2030-01-01T00:00:0%dZ"}, %s}`, name, s.version, s.version%10, rest)
	if rest == "" {
		text, kind = strings.Replace(text, ", }", "}", 1), "DELETED"
		delete(s.objects, at)
	} else {
		s.objects[at] = text
	}
	s.lines = append(s.lines, fmt.Sprintf(`{"type": %q, "object": %s}`, kind, text))
	close(s.wake)
	s.wake = make(chan struct{})
}

func (s *server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *server) fail(w http.ResponseWriter, code int) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "status": "Failure", "code": code, "message": "as the test says", "reason": map[int]string{403: "Forbidden", 404: "NotFound", 409: "Conflict"}[code]})
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := strings.TrimPrefix(r.URL.Path, "/apis/cert-manager.io/v1/")
	switch code := s.refuse[r.Method]; {
	case s.unknown:
		s.fail(w, http.StatusNotFound)
	case code != 0:
		s.fail(w, code)
	case r.Method == http.MethodPatch:
		body, _ := io.ReadAll(r.Body)
		if s.meddle > 0 {
			s.meddle--
			s.fail(w, http.StatusConflict)
			return
		}
		s.patches = append(s.patches, at+" "+r.Header.Get("Content-Type")+" "+string(body))
		_, _ = io.WriteString(w, `{}`)
	case r.URL.Query().Get("watch") != "":
		s.follow(w, r)
	case strings.Trim(r.URL.Query().Get("resourceVersion"), "0123456789") != "":
		s.fail(w, http.StatusBadRequest)
	case strings.HasSuffix(at, "/certificates") || at == "certificates":
		list := make([]string, 0, len(s.objects))
		for _, o := range s.objects {
			list = append(list, o)
		}
		_, _ = fmt.Fprintf(w, `{"metadata": {"resourceVersion": "%d"}, "items": [%s]}`, len(s.lines), strings.Join(list, ","))
	case s.objects[at] == "":
		s.fail(w, http.StatusNotFound)
	default:
		_, _ = io.WriteString(w, s.objects[at])
	}
}

// follow streams what comes after a version, which is a number of lines. mu is held.
func (s *server) follow(w http.ResponseWriter, r *http.Request) {
	var from int
	_, _ = fmt.Sscan(r.URL.Query().Get("resourceVersion"), &from)
	for {
		for ; from < len(s.lines); from++ {
			_, _ = io.WriteString(w, s.lines[from]+"\n")
		}
		_ = http.NewResponseController(w).Flush()
		wake := s.wake
		s.mu.Unlock()
		select {
		case <-wake:
		case <-r.Context().Done():
		}
		s.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
	}
}

// watching starts a Watcher.
func watching(t *testing.T, s *server) *Watcher {
	t.Helper()
	w, err := New(Config{Connection: kube.Config{Server: s.http.URL}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

// until waits for something that a hint tells of.
func until(t *testing.T, w *Watcher, what string, is func() bool) {
	t.Helper()
	end := time.After(20 * time.Second)
	for !is() {
		select {
		case <-w.Changed():
		case <-end:
			t.Fatalf("never: %s", what)
		}
	}
}

func spec(secret string) string {
	return fmt.Sprintf(`"spec": {"secretName": %q, "issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}`, secret)
}

func TestOwners(t *testing.T) {
	s := newServer(t)
	s.put("web", spec("pair"))
	w := watching(t, s)
	owner := func(secret string) string {
		c, ok := w.Owner("shop", secret)
		if !ok {
			return ""
		}
		return strings.Join(append([]string{c.Name}, c.Rivals...), " ")
	}
	is := func(secret, want string) {
		t.Helper()
		until(t, w, secret+" is of "+want, func() bool { return owner(secret) == want })
	}
	is("pair", "web")
	s.put("api", spec("other"))
	is("other", "api")
	s.put("api", spec("pair")) // a second one for a Secret that has one
	is("pair", "web api")
	is("other", "")
	s.put("web", "")
	is("pair", "api")
	if _, ok := w.Owner("elsewhere", "pair"); ok {
		t.Error("a Secret of another namespace has an owner")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.all) != 1 || len(w.owners) != 1 {
		t.Errorf("%d Certificates of %d Secrets are kept, want 1 of 1", len(w.all), len(w.owners))
	}
}

func TestAClusterWithoutCertManager(t *testing.T) {
	t.Parallel() // it waits for the next look
	s := newServer(t)
	s.put("web", spec("pair"))
	s.set(func() { s.unknown = true })
	w := watching(t, s)
	<-w.Changed() // an empty list
	if remarks := w.Remarks(); len(remarks) > 0 {
		t.Errorf("a cluster without cert-manager is told of: %v", remarks)
	}
	if _, ok := w.Owner("shop", "pair"); ok {
		t.Error("a Secret has an owner of a kind that is not there")
	}
	s.set(func() { s.unknown = false })
	until(t, w, "the kind is found", func() bool { _, ok := w.Owner("shop", "pair"); return ok })
}

func TestRenew(t *testing.T) {
	s := newServer(t)
	status := func(issuing string) string {
		return spec("pair") + `, "status": {"conditions": [{"type": "Ready", "status": "True", "x": "kept"}, {"type": "Issuing", "status": "` + issuing + `"}]}`
	}
	s.put("web", status("False"))
	w := watching(t, s)
	until(t, w, "it is known", func() bool { _, ok := w.Owner("shop", "pair"); return ok })
	c, _ := w.Owner("shop", "pair")

	s.set(func() { s.meddle = 3 })
	if err := w.Renew(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	var patches []string
	s.set(func() { patches = s.patches })
	if len(patches) != 1 {
		t.Fatalf("%d patches, want 1", len(patches))
	}
	for _, part := range []string{"namespaces/shop/certificates/web/status application/merge-patch+json ", `"resourceVersion":"1"`, `"x":"kept"`, `"reason":"ManuallyTriggered","status":"True","type":"Issuing"`, `"observedGeneration":7`} {
		if !strings.Contains(patches[0], part) {
			t.Errorf("%s is not in the patch %s", part, patches[0])
		}
	}
	if strings.Count(patches[0], "Issuing") != 1 {
		t.Errorf("the old condition stays: %s", patches[0])
	}

	// What failed within this second, or by a clock that goes ahead, is behind it.
	failed := time.Now().Add(5 * time.Second).UTC().Truncate(time.Second)
	s.put("web", spec("pair")+`, "status": {"lastFailureTime": "`+failed.Format(time.RFC3339)+`", "conditions": []}`)
	if err := w.Renew(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	s.set(func() { patches = s.patches })
	if want := `"lastTransitionTime":"` + failed.Add(time.Second).Format(time.RFC3339) + `"`; len(patches) != 2 || !strings.Contains(patches[1], want) {
		t.Errorf("%s is not in the patch %s", want, patches[1:])
	}
	s.put("web", status("False"))

	s.set(func() { s.meddle = 100 })
	if err := w.Renew(t.Context(), c); err == nil || !strings.Contains(err.Error(), "changed all the time") {
		t.Errorf("changed all the time: %v", err)
	}
	s.set(func() { s.meddle, s.refuse[http.MethodPatch] = 0, http.StatusForbidden })
	if err := w.Renew(t.Context(), c); err == nil || !strings.Contains(err.Error(), "the account may not patch certificates/status of cert-manager.io in the namespace shop") {
		t.Errorf("without rights: %v", err)
	}
	s.put("web", status("True"))
	if err := w.Renew(t.Context(), c); !errors.Is(err, ErrUnderWay) {
		t.Errorf("while it is issued: %v", err)
	}
	s.put("web", "")
	if err := w.Renew(t.Context(), c); err == nil || !strings.Contains(err.Error(), "it is gone") {
		t.Errorf("gone: %v", err)
	}
}
