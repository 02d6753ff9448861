package kube

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/labels"
)

// change is one event of the fake's past.
type change struct {
	at   int
	kind string
	key  key
	body map[string]any
	is   map[string]string // labels, now and before
	was  map[string]string
}

// server is an API server that knows Secrets: get of one, list and watch of one, of a
// namespace and of all, with the rules of resource versions and without what they hold.
type server struct {
	*httptest.Server
	mu     sync.Mutex // guards the group below
	at     int
	oldest int // watches from before it are answered with 410
	now    map[key]map[string]any
	labels map[key]map[string]string // of Secrets, from the next time on that they are put
	query  map[string]bool           // of labels, that lists and watches came with
	past   []change
	denied map[key]bool
	wide   int      // what may be listed and watched: 0 all, 1 a namespace, 2 one, 3 nothing
	told   []string // scopes of the watches that came up
	values int      // answers with what a Secret holds to another verb than get
	status int
	after  string
	hung   chan struct{}
	news   chan struct{} // closed at each change
	cut    chan struct{} // closed to end all watches
	counts map[string]int
}

func fake(t *testing.T) *server {
	s := &server{
		now: map[key]map[string]any{}, labels: map[key]map[string]string{}, query: map[string]bool{}, denied: map[key]bool{}, counts: map[string]int{},
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

// named reads a name of the namespace own, or namespace/name.
func named(name string) key {
	namespace, rest, two := strings.Cut(name, "/")
	if !two {
		return key{"own", name}
	}
	return key{namespace, rest}
}

// put makes data the Secret's, each value as it is.
func (s *server) put(name string, data map[string]string) {
	k := named(name)
	encoded := map[string]string{}
	for k, v := range data {
		encoded[k] = base64.StdEncoding.EncodeToString([]byte(v))
	}
	s.with(func() {
		kind := "ADDED"
		if s.now[k] != nil {
			kind = "MODIFIED"
		}
		s.at++
		was := labelsOf(s.now[k])
		s.now[k] = map[string]any{"kind": "Secret", "data": encoded, "metadata": map[string]any{
			"name": k.name, "namespace": k.namespace, "resourceVersion": strconv.Itoa(s.at), "creationTimestamp": "2026-01-02T03:04:05Z",
			"labels": s.labels[k], "managedFields": []any{map[string]any{"time": "2026-02-02T00:00:00Z"}, map[string]any{"manager": "x"}},
		}}
		s.tell(change{s.at, kind, k, map[string]any{"metadata": s.now[k]["metadata"]}, s.labels[k], was})
	})
}

func (s *server) remove(name string) {
	k := named(name)
	s.with(func() {
		s.at++
		body := map[string]any{"metadata": map[string]any{"name": k.name, "namespace": k.namespace, "resourceVersion": strconv.Itoa(s.at)}}
		was := labelsOf(s.now[k])
		delete(s.now, k)
		s.tell(change{s.at, "DELETED", k, body, nil, was})
	})
}

func labelsOf(secret map[string]any) map[string]string {
	m, _ := secret["metadata"].(map[string]any)
	list, _ := m["labels"].(map[string]string)
	return list
}

// selects reads the selector of labels of a query.
func selects(r *http.Request) labels.Selector {
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		panic(err)
	}
	return selector
}

// seen is an event as a watch with a selector sees it, "" for not at all.
func (c *change) seen(by labels.Selector) string {
	is, was := c.kind != "DELETED" && by.Matches(labels.Set(c.is)), c.kind != "ADDED" && by.Matches(labels.Set(c.was))
	switch {
	case is && was:
		return "MODIFIED"
	case is:
		return "ADDED"
	case was:
		return "DELETED"
	}
	return ""
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

// of reads what a request is about.
func of(r *http.Request) (k key, verb string) {
	path, _ := strings.CutPrefix(r.URL.Path, "/api/v1/")
	if rest, some := strings.CutPrefix(path, "namespaces/"); some {
		k.namespace, path, _ = strings.Cut(rest, "/")
	}
	_, name, one := strings.Cut(path, "/")
	if one {
		return key{k.namespace, name}, "get"
	}
	if name, is := strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name="); is {
		k.name = name
	}
	if r.URL.Query().Get("watch") == "true" {
		return k, "watch"
	}
	return k, "list"
}

// may says whether the rights are wide enough. mu is held.
func (s *server) may(k key, verb string) bool {
	if s.denied[k] {
		return false
	}
	return verb == "get" || s.wide == 0 || s.wide == 1 && k.namespace != "" || s.wide == 2 && k.name != ""
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k, verb := of(r)
	s.mu.Lock()
	s.counts[verb]++
	whole := r.URL.Query().Get("fieldSelector") == "type=kubernetes.io/tls"
	if whole {
		s.counts["whole"]++
	}
	if verb != "get" {
		s.query[r.URL.Query().Get("labelSelector")] = true
	}
	one := verb == "list" && k.name != "" && r.Header.Get("Accept") == "application/json" // in place of get
	if verb != "get" && !one && strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") == whole {
		s.values++
	}
	hung, status, after, denied := s.hung, s.status, s.after, !s.may(k, verb)
	body := s.now[k]
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
		s.watch(w, r, k)
	case verb == "list":
		s.list(w, r, k)
	case body == nil:
		answer(w, 404, map[string]any{})
	default:
		answer(w, 200, body)
	}
}

// list answers some Secrets at a time.
func (s *server) list(w http.ResponseWriter, r *http.Request, scope key) {
	skip, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	by := selects(r)
	s.mu.Lock()
	part := max(2, len(s.now)/3)
	var names []key
	for k := range s.now {
		if scope.covers(k) && by.Matches(labels.Set(labelsOf(s.now[k]))) {
			names = append(names, k)
		}
	}
	slices.SortFunc(names, func(a, b key) int { return strings.Compare(a.String(), b.String()) })
	meta := map[string]any{"resourceVersion": strconv.Itoa(s.at)}
	if len(names) > skip+part {
		meta["continue"] = strconv.Itoa(skip + part)
	}
	items := []any{}
	for _, k := range names[min(skip, len(names)):min(skip+part, len(names))] {
		if r.Header.Get("Accept") == "application/json" {
			items = append(items, s.now[k])
		} else {
			items = append(items, map[string]any{"metadata": s.now[k]["metadata"]})
		}
	}
	s.mu.Unlock()
	answer(w, 200, map[string]any{"metadata": meta, "items": items})
}

func (s *server) watch(w http.ResponseWriter, r *http.Request, scope key) {
	by := selects(r)
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	s.with(func() { s.told = append(s.told, scope.String()) })
	w.WriteHeader(200)
	_ = http.NewResponseController(w).Flush()
	for {
		s.mu.Lock()
		news, cut, oldest := s.news, s.cut, s.oldest
		var out []change
		for _, c := range s.past {
			if c.at > from && scope.covers(c.key) {
				if c.kind = c.seen(by); c.kind != "" {
					out = append(out, c)
				}
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
