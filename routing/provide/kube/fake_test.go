package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	secretskube "github.com/keyway-edge/keyway/secrets/kube"
)

// server is an API server as far as this package uses one.
type server struct {
	t    *testing.T
	http *httptest.Server

	mu       sync.Mutex
	version  int
	objects  map[string]map[string]any // by path
	events   []event
	oldest   int               // version that watches can go on from
	unknown  map[string]bool   // resources that are not defined
	denied   map[string]bool   // resources that may not be read, or names in them that may not be written
	invalid  map[string]bool   // likewise names that may not be written so
	meantime func(path string) // is called once, with mu held, before something is written; nil for nothing
	refused  map[string]int    // how often such were asked for
	stalled  map[string]bool   // paths whose lists are not answered meanwhile
	queries  map[string]string // of labels, with which paths were listed and watched last
	refuse   int               // status for everything, 0 for none
	writes   []string          // method and path of what was written
	watchers map[chan struct{}]struct{}
	ended    chan struct{} // closed to end all watches in order
	lists    map[string]int
	selected map[string]int // of lists of Secrets: those without a selector of labels, by that of fields
}

type event struct {
	version int
	kind    string
	path    string
	object  map[string]any
	old     map[string]any // that it was before
}

// newServer makes one that listens.
func newServer(t *testing.T) *server {
	s := newMemory(t)
	s.http = httptest.NewServer(s)
	t.Cleanup(func() {
		s.cut()
		s.http.Close()
	})
	return s
}

// newMemory makes one that is reached as a http.RoundTripper, for tests in virtual time.
func newMemory(t *testing.T) *server {
	return &server{t: t, objects: map[string]map[string]any{}, unknown: map[string]bool{}, denied: map[string]bool{}, invalid: map[string]bool{}, refused: map[string]int{}, stalled: map[string]bool{}, queries: map[string]string{}, watchers: map[chan struct{}]struct{}{}, lists: map[string]int{}, selected: map[string]int{}, ended: make(chan struct{}), version: 1}
}

// RoundTrip has it answer without a network.
func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	out, in := io.Pipe()
	w := &answer{header: http.Header{}, status: make(chan int, 1), body: in}
	go func() { // until the request is answered or its context ends
		s.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
		_ = in.Close()
	}()
	select {
	case status := <-w.status:
		context.AfterFunc(r.Context(), func() { _ = in.CloseWithError(r.Context().Err()) })
		return &http.Response{StatusCode: status, Header: w.header, Body: out, Request: r}, nil
	case <-r.Context().Done():
		_ = out.Close() // nobody reads what is answered
		return nil, r.Context().Err()
	}
}

// answer is a response that goes into a pipe.
type answer struct {
	header http.Header
	status chan int // capacity 1
	once   sync.Once
	body   *io.PipeWriter
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) { a.once.Do(func() { a.status <- status }) }

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

// FlushError is for http.ResponseController.
func (a *answer) FlushError() error { return nil }

// connectionOf is a connection that is not made.
func connectionOf(t *testing.T) secretskube.Config {
	return secretskube.Config{Kubeconfig: newMemory(t).kubeconfig()}
}

// kubeconfig writes one that leads here.
func (s *server) kubeconfig() string {
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	url := "http://server.test"
	if s.http != nil {
		url = s.http.URL
	}
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [{"name": "c", "cluster": {"server": %q}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "keyway"}}], "users": [{"name": "u", "user": {"token": "t"}}]}`, url)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// put writes an object: "apis/networking.k8s.io/v1/namespaces/shop/ingresses/i".
func (s *server) put(path, text string) {
	s.t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		s.t.Fatalf("%v: %s", err, text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store(path, o)
}

// store keeps an object. mu is held.
func (s *server) store(path string, o map[string]any) {
	parts := strings.Split(path, "/")
	m, _ := o["metadata"].(map[string]any)
	if m == nil {
		m = map[string]any{}
		o["metadata"] = m
	}
	m["name"] = parts[len(parts)-1]
	if i := slices.Index(parts, "namespaces"); i >= 0 && i < len(parts)-2 { // or it is a Namespace itself
		m["namespace"] = parts[i+1]
	}
	s.version++
	m["resourceVersion"] = fmt.Sprint(s.version)
	if m["uid"] == nil {
		m["uid"] = fmt.Sprintf("uid-%d", s.version)
	}
	kind := "MODIFIED"
	if s.objects[path] == nil {
		kind = "ADDED"
	}
	s.events = append(s.events, event{s.version, kind, path, o, s.objects[path]})
	s.objects[path] = o
	s.wake()
}

func (s *server) remove(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[path]
	delete(s.objects, path)
	s.version++
	s.events = append(s.events, event{s.version, "DELETED", path, o, o})
	s.wake()
}

// wake has watchers look again. mu is held.
func (s *server) wake() {
	for c := range s.watchers {
		hint(c)
	}
}

// set changes how the server answers.
func (s *server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// endWatches ends all watches in order.
func (s *server) endWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.ended)
	s.ended = make(chan struct{})
}

// cut ends every connection.
func (s *server) cut() { s.http.CloseClientConnections() }

// of splits the path of a list: the namespace, "" for all, and the rest.
func of(path string) (namespace, resource string) {
	if before, after, ok := strings.Cut(path, "/namespaces/"); ok {
		ns, plural, _ := strings.Cut(after, "/")
		return ns, before + "/" + plural
	}
	return "", path
}

// in says whether an object is in a list.
func in(object, list string) bool {
	ns, resource := of(list)
	of1, of2 := of(object[:strings.LastIndex(object, "/")])
	return of2 == resource && (ns == "" || ns == of1)
}

// selected says whether an object is one of those that a query asks for.
func selected(q url.Values, o map[string]any) bool {
	m, _ := o["metadata"].(map[string]any)
	has, _ := m["labels"].(map[string]any)
	if name, ok := strings.CutPrefix(q.Get("fieldSelector"), "metadata.name="); ok && m["name"] != name {
		return false
	}
	selector, err := labels.Parse(q.Get("labelSelector"))
	if err != nil {
		panic(err)
	}
	set := labels.Set{}
	for name, v := range has {
		set[name] = fmt.Sprint(v)
	}
	return selector.Matches(set)
}

// seen is an event as a watch of a query sees it, "" for not at all.
func (e *event) seen(q url.Values) string {
	now, before := e.kind != "DELETED" && selected(q, e.object), e.old != nil && selected(q, e.old)
	switch {
	case now && before:
		return "MODIFIED"
	case now:
		return "ADDED"
	case before:
		return "DELETED"
	}
	return ""
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	_, resource := of(path)
	s.mu.Lock()
	refuse, denied, invalid := s.refuse, s.denied[resource], s.invalid[resource]
	for s.stalled[path] && r.Context().Err() == nil {
		s.mu.Unlock()
		time.Sleep(time.Millisecond)
		s.mu.Lock()
	}
	s.queries[path] = r.URL.Query().Get("labelSelector")
	if denied || invalid {
		s.refused[resource]++
	}
	s.mu.Unlock()
	switch {
	case denied:
		s.status(w, http.StatusForbidden, "not allowed")
	case invalid:
		s.status(w, http.StatusUnprocessableEntity, "status.conditions: too many")
	case refuse != 0:
		s.status(w, refuse, "refused")
	case r.Method != http.MethodGet:
		s.write(w, r, path)
	case s.unknown[resource]:
		s.status(w, http.StatusNotFound, "the server could not find the requested resource")
	case strings.Trim(r.URL.Query().Get("resourceVersion"), "0123456789") != "":
		s.status(w, http.StatusBadRequest, "invalid resource version")
	case r.URL.Query().Get("watch") == "true":
		s.watch(w, r, path)
	default:
		s.read(w, path, r.URL.Query())
	}
}

func (s *server) status(w http.ResponseWriter, code int, message string) {
	reason := map[int]string{403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid", 429: "TooManyRequests"}[code]
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "status": "Failure", "code": code, "message": message, "reason": reason})
}

func (s *server) read(w http.ResponseWriter, path string, q url.Values) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.objects[path]; o != nil {
		_ = json.NewEncoder(w).Encode(o)
		return
	}
	if strings.HasPrefix(path, "apis/") && strings.Count(path, "/") == 2 { // what kinds a group has; those that may not be read are enough
		kinds := []any{}
		for resource := range s.denied {
			if name, ok := strings.CutPrefix(resource, path+"/"); ok && !s.unknown[resource] {
				kinds = append(kinds, map[string]any{"name": name})
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"resources": kinds})
		return
	}
	if last := path[strings.LastIndex(path, "/")+1:]; !strings.HasSuffix(last, "s") || strings.Count(path, "/") > 5 {
		s.status(w, http.StatusNotFound, "not found")
		return
	}
	if s.lists[path]++; strings.HasSuffix(path, "/secrets") && q.Get("labelSelector") == "" {
		s.selected[q.Get("fieldSelector")]++
	}
	list := []any{}
	for p, o := range s.objects {
		if in(p, path) && selected(q, o) {
			list = append(list, o)
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{"resourceVersion": fmt.Sprint(s.version)}, "items": list})
}

func (s *server) watch(w http.ResponseWriter, r *http.Request, path string) {
	var from int
	_, _ = fmt.Sscan(r.URL.Query().Get("resourceVersion"), &from)
	c := make(chan struct{}, 1)
	s.mu.Lock()
	old, ended := from < s.oldest, s.ended
	s.watchers[c] = struct{}{}
	s.mu.Unlock()
	defer s.set(func() { delete(s.watchers, c) })
	if old {
		s.status(w, http.StatusGone, "too old")
		return
	}
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	for {
		s.mu.Lock()
		var out []event
		for _, e := range s.events {
			if e.version > from && in(e.path, path) {
				if e.kind = e.seen(r.URL.Query()); e.kind != "" {
					out = append(out, e)
				}
			}
		}
		from = s.version
		refuse := s.refuse
		s.mu.Unlock()
		for _, e := range out {
			_ = json.NewEncoder(w).Encode(map[string]any{"type": e.kind, "object": e.object})
		}
		_ = http.NewResponseController(w).Flush()
		if refuse != 0 {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ended:
			return
		case <-c:
		}
	}
}

// write takes a POST, a PUT or a merge patch.
func (s *server) write(w http.ResponseWriter, r *http.Request, path string) {
	var o map[string]any
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		s.status(w, http.StatusBadRequest, err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, r.Method+" "+path)
	if s.meantime != nil && strings.HasSuffix(path, "/status") {
		s.meantime(path)
		s.meantime = nil
	}
	target := strings.TrimSuffix(path, "/status")
	if r.Method == http.MethodPost {
		m, _ := o["metadata"].(map[string]any)
		name, _ := m["name"].(string)
		if target += "/" + name; s.objects[target] != nil {
			s.status(w, http.StatusConflict, "it is there")
			return
		}
		s.store(target, o)
		_ = json.NewEncoder(w).Encode(o)
		return
	}
	old := s.objects[target]
	m, _ := o["metadata"].(map[string]any)
	om, _ := old["metadata"].(map[string]any)
	switch {
	case old == nil:
		s.status(w, http.StatusNotFound, "not found")
		return
	case m["resourceVersion"] != nil && m["resourceVersion"] != om["resourceVersion"]:
		s.status(w, http.StatusConflict, "it is another version")
		return
	case r.Method == http.MethodPatch:
		next := map[string]any{}
		for k, v := range old {
			next[k] = v
		}
		meta := map[string]any{}
		for k, v := range om {
			meta[k] = v
		}
		next["metadata"] = meta
		for k, v := range o {
			if k != "metadata" {
				next[k] = v
			}
		}
		o = next
	}
	s.store(target, o)
	_ = json.NewEncoder(w).Encode(o)
}

// poll waits for something.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("waited too long: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// refusals is how often what is denied was asked for.
func (s *server) refusals(part string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for resource, times := range s.refused {
		if strings.Contains(resource, part) {
			n += times
		}
	}
	return n
}

// wrote answers the writes to paths that have a text in them.
func (s *server) wrote(part string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, x := range s.writes {
		if strings.Contains(x, part) {
			list = append(list, x)
		}
	}
	return list
}
