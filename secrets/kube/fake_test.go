package kube

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// change is one event of the fake's past.
type change struct {
	at   int
	kind string
	key  string
	body map[string]any
}

// server is an API server that knows Secrets: get, list and watch of one name, with
// the rules of resource versions.
type server struct {
	*httptest.Server
	mu      sync.Mutex // guards the group below
	at      int
	oldest  int // watches from before it are answered with 410
	now     map[string]map[string]any
	past    []change
	denied  map[string]bool
	noWatch bool
	status  int
	after   string
	hung    chan struct{}
	news    chan struct{} // closed at each change
	cut     chan struct{} // closed to end all watches
	counts  map[string]int
}

func fake(t *testing.T) *server {
	s := &server{
		now: map[string]map[string]any{}, denied: map[string]bool{}, counts: map[string]int{},
		news: make(chan struct{}), cut: make(chan struct{}), at: 100,
	}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.cutWatches()
		s.Close()
	})
	return s
}

func (s *server) open(t *testing.T, more map[string]any) *Source {
	t.Helper()
	config := map[string]any{"server": s.URL, "namespace": "own"}
	for k, v := range more {
		config[k] = v
	}
	src, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.(*Source).Close() })
	return src.(*Source)
}

func (s *server) with(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// put makes data the Secret's, each value as it is.
func (s *server) put(name string, data map[string]string) {
	encoded := map[string]string{}
	for k, v := range data {
		encoded[k] = base64.StdEncoding.EncodeToString([]byte(v))
	}
	s.with(func() {
		kind := "ADDED"
		if s.now[name] != nil {
			kind = "MODIFIED"
		}
		s.at++
		s.now[name] = map[string]any{"kind": "Secret", "data": encoded, "metadata": map[string]any{
			"name": name, "resourceVersion": strconv.Itoa(s.at), "creationTimestamp": "2026-01-02T03:04:05Z",
			"managedFields": []any{map[string]any{"time": "2026-02-02T00:00:00Z"}, map[string]any{"manager": "x"}},
		}}
		s.tell(change{s.at, kind, name, s.now[name]})
	})
}

func (s *server) remove(name string) {
	s.with(func() {
		s.at++
		body := map[string]any{"metadata": map[string]any{"name": name, "resourceVersion": strconv.Itoa(s.at)}}
		delete(s.now, name)
		s.tell(change{s.at, "DELETED", name, body})
	})
}

func (s *server) tell(c change) {
	s.past = append(s.past, c)
	close(s.news)
	s.news = make(chan struct{})
}

func (s *server) cutWatches() {
	s.with(func() {
		close(s.cut)
		s.cut = make(chan struct{})
	})
}

func (s *server) count(what string) (n int) {
	s.with(func() { n = s.counts[what] })
	return n
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, _ := strings.CutPrefix(r.URL.Path, "/api/v1/namespaces/")
	namespace, rest, _ := strings.Cut(path, "/")
	_, name, one := strings.Cut(rest, "/")
	verb := "get"
	if !one {
		name, _ = strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
		verb = "list"
	}
	if r.URL.Query().Get("watch") == "true" {
		verb = "watch"
	}
	if namespace != "own" {
		name = namespace + "/" + name
	}
	s.mu.Lock()
	s.counts[verb]++
	hung, status, after, denied := s.hung, s.status, s.after, s.denied[name] || s.noWatch && verb != "get"
	body, at := s.now[name], s.at
	s.mu.Unlock()
	if hung != nil {
		select {
		case <-hung:
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case status != 0:
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		answer(w, status, map[string]any{"message": "canary-4711 is not for errors"})
	case denied:
		answer(w, 403, map[string]any{"message": "canary-4711 is not for errors"})
	case verb == "watch":
		s.watch(w, r, name)
	case verb == "list":
		items := []any{}
		if body != nil {
			items = append(items, body)
		}
		answer(w, 200, map[string]any{"metadata": map[string]any{"resourceVersion": strconv.Itoa(at)}, "items": items})
	case body == nil:
		answer(w, 404, map[string]any{})
	default:
		answer(w, 200, body)
	}
}

func (s *server) watch(w http.ResponseWriter, r *http.Request, name string) {
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	w.WriteHeader(200)
	_ = http.NewResponseController(w).Flush()
	for {
		s.mu.Lock()
		news, cut, oldest := s.news, s.cut, s.oldest
		var out []change
		for _, c := range s.past {
			if c.at > from && c.key == name {
				out = append(out, c)
			}
		}
		s.mu.Unlock()
		if from < oldest {
			send(w, "ERROR", map[string]any{"kind": "Status", "code": 410, "message": "too old"})
			return
		}
		for _, c := range out {
			send(w, c.kind, c.body)
			from = c.at
		}
		select {
		case <-news:
		case <-cut:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func send(w http.ResponseWriter, kind string, body any) {
	b, _ := json.Marshal(map[string]any{"type": kind, "object": body})
	fmt.Fprintf(w, "%s\n", b)
	_ = http.NewResponseController(w).Flush()
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
