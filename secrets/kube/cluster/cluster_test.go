package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/watch"
)

// server is an API server of numbered objects, in memory and in virtual time.
type server struct {
	mu       sync.Mutex
	version  int
	objects  int           // how many there are of each kind, each of the server's version
	fail     error         // of every call
	status   int           // of every call, 0 for none
	after    string        // Retry-After
	unknown  bool          // the server does not have the kind any longer
	expired  bool          // each watch says at once that its version is too old
	oldest   int           // version from which a watch can go on
	watches  chan struct{} // closed to end all
	bookmark int           // version that each watch says at once, 0 for none
	asked    []time.Time
	queries  []url.Values
}

func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.watches)
	s.watches = make(chan struct{})
}

// RoundTrip answers a list or a watch.
func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	s.asked, s.queries = append(s.asked, time.Now()), append(s.queries, q)
	answer := func(status int, body string) *http.Response {
		return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {s.after}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}
	}
	from, _ := strconv.Atoi(q.Get("resourceVersion"))
	switch {
	case s.fail != nil:
		return nil, s.fail
	case s.status != 0:
		return answer(s.status, "no"), nil
	case s.unknown:
		return answer(http.StatusNotFound, `{"kind": "Status", "code": 404, "reason": "NotFound", "message": "the server could not find the requested resource"}`), nil
	case q.Get("watch") == "true" && from < s.oldest:
		return answer(http.StatusGone, `{"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}`), nil
	case q.Get("watch") == "true":
		out, in := io.Pipe()
		ended, bookmark, expired := s.watches, s.bookmark, s.expired
		go func() {
			if bookmark != 0 {
				_, _ = fmt.Fprintf(in, `{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "%d"}}}`, bookmark)
			}
			if expired {
				_, _ = io.WriteString(in, `{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}`)
			}
			select {
			case <-ended:
			case <-r.Context().Done():
			}
			_ = in.Close()
		}()
		return &http.Response{StatusCode: http.StatusOK, Body: out, Request: r}, nil
	}
	begin, _ := strconv.Atoi(q.Get("continue"))
	limit, _ := strconv.Atoi(q.Get("limit"))
	end, more := s.objects, ""
	if limit > 0 && from+begin != 0 && begin+limit < end { // version 0 is the whole of what is in memory
		end = begin + limit
		more = strconv.Itoa(end)
	}
	items := []map[string]any{}
	for i := begin; i < end; i++ {
		items = append(items, map[string]any{"metadata": map[string]any{"name": strconv.Itoa(i), "resourceVersion": strconv.Itoa(s.version)}})
	}
	text, _ := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": strconv.Itoa(s.version), "continue": more}, "items": items})
	return answer(http.StatusOK, string(text)), nil
}

// kept is a Keeper that knows how many objects there are and of which version.
type kept struct {
	mu      sync.Mutex
	n       int
	version string
}

// Read reads metadata.
func (k *kept) Read(data []byte) (*Item, error) {
	var o struct {
		Metadata struct{ Name, ResourceVersion string }
	}
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, err
	}
	return NewItem(o.Metadata.ResourceVersion, "", o.Metadata.Name, o.Metadata.ResourceVersion), nil
}

// Put is not called: the server tells changes by lists alone.
func (k *kept) Put(any) {}

// Drop is likewise.
func (k *kept) Drop(any) {}

// Replace takes a list.
func (k *kept) Replace(all []any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.n = len(all); k.n > 0 {
		k.version, _ = all[0].(string)
	}
}

func (k *kept) is() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Sprintf("%d of %s", k.n, k.version)
}

// follow runs sources of some kinds until the test ends.
func follow(t *testing.T, kinds int) (*server, []*Source, []*kept) { return followed(t, kinds, false) }

// followed does so, of kinds that the server has to know or not.
func followed(t *testing.T, kinds int, custom bool) (*server, []*Source, []*kept) {
	s := &server{version: 1, objects: 1, watches: make(chan struct{})}
	api := &API{Base: &url.URL{Scheme: "http", Host: "server.test"}, Client: &http.Client{Transport: s}}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		all.Wait()
	})
	var sources []*Source
	var keepers []*kept
	for i := range kinds {
		k := &kept{}
		x := &Source{API: api, Path: fmt.Sprintf("api/v1/kind%ds", i), Kind: "Kind", Plural: fmt.Sprintf("kind%ds", i), Custom: custom, Keeper: k, Log: slog.New(slog.DiscardHandler)}
		all.Go(func() { _ = x.Run(ctx) })
		sources, keepers = append(sources, x), append(keepers, k)
	}
	time.Sleep(time.Second)
	return s, sources, keepers
}

// TestAServerThatIsAway (C-01, F-08): for an hour it is tried once a second at most, by all
// sources together, and each of them has what changed meanwhile within five seconds of its
// return.
func TestAServerThatIsAway(t *testing.T) {
	for name, break_ := range map[string]func(*server){
		"nobody listens":       func(s *server) { s.fail = errors.New("connection refused") },
		"500":                  func(s *server) { s.status = 500 },
		"429":                  func(s *server) { s.status = 429 },
		"429 with Retry-After": func(s *server) { s.status, s.after = 429, "3" },
	} {
		synctest.Test(t, func(t *testing.T) {
			s, sources, keepers := follow(t, 30)
			s.set(func() { break_(s) })
			time.Sleep(10 * time.Second) // all were at it when it went away
			s.mu.Lock()
			s.asked = nil
			s.mu.Unlock()
			time.Sleep(time.Hour)
			s.mu.Lock()
			gaps := map[time.Duration]bool{}
			for i := 1; i < len(s.asked); i++ {
				gap := s.asked[i].Sub(s.asked[i-1])
				if gaps[gap] = true; gap < time.Second || gap > 30*time.Second {
					t.Errorf("%s: a gap of %s between two tries", name, gap)
				}
			}
			if len(s.asked) < 120 || len(gaps) < 50 {
				t.Errorf("%s: %d tries, %d different gaps", name, len(s.asked), len(gaps))
			}
			s.mu.Unlock()
			for _, x := range sources {
				if f := x.Facts(); time.Since(f.Failing) < time.Hour || x.Remark() == "" || f.Objects != 1 {
					t.Errorf("%s: %+v", name, f)
				}
			}
			s.set(func() { s.fail, s.status, s.after, s.version, s.objects, s.oldest = nil, 0, "", 9, 3, 9 })
			time.Sleep(5 * time.Second)
			for i, k := range keepers {
				if f := sources[i].Facts(); k.is() != "3 of 9" || !f.Failing.IsZero() || f.Objects != 3 {
					t.Errorf("%s: five seconds after the return source %d has %s: %+v", name, i, k.is(), f)
				}
			}
		})
	}
}

// TestWatchesThatEnd (C-02, F-09): one that was closed goes on from the last version that the
// server told, by an event or a bookmark; one that is too old is followed by a list in pages.
func TestWatchesThatEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, sources, keepers := follow(t, 1)
		last := func() url.Values {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.queries[len(s.queries)-1]
		}
		s.set(func() { s.bookmark = 7 })
		for range 20 {
			time.Sleep(5 * time.Second)
			s.set(func() {})
		}
		time.Sleep(time.Second)
		if q := last(); q.Get("watch") != "true" || q.Get("resourceVersion") != "7" || sources[0].Facts().Lists.Done != 1 {
			t.Errorf("after a bookmark: %v, %+v", q, sources[0].Facts())
		}
		s.set(func() { s.oldest, s.version, s.objects, s.bookmark, s.queries = 100, 100, 1250, 0, nil })
		time.Sleep(5 * time.Second)
		if keepers[0].is() != "1250 of 100" {
			t.Errorf("after a version that is too old: %s", keepers[0].is())
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		var pages []string
		for _, q := range s.queries {
			if q.Get("watch") == "" {
				pages = append(pages, q.Get("limit")+" from "+q.Get("continue")+q.Get("resourceVersionMatch"))
			}
		}
		if got := strings.Join(pages, ", "); got != "500 from NotOlderThan, 500 from 500, 500 from 1000" {
			t.Errorf("pages %s", got)
		}
	})
}

// TestListsThatDoNotHelp: where each watch is too old as soon as its list was read, lists come
// further and further apart, and one watch that goes on ends that.
func TestListsThatDoNotHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, sources, keepers := follow(t, 1)
		s.set(func() { s.expired = true })
		time.Sleep(10 * time.Minute)
		before := sources[0].Facts().Lists.Done
		time.Sleep(time.Hour)
		if n := sources[0].Facts().Lists.Done - before; n < 60 || n > 250 {
			t.Errorf("%d lists in an hour", n)
		}
		s.set(func() { s.expired, s.version, s.objects = false, 9, 3 })
		time.Sleep(time.Minute)
		if keepers[0].is() != "3 of 9" {
			t.Errorf("when a watch goes on: %s", keepers[0].is())
		}
		for range 3 {
			s.set(func() { s.version++; s.oldest = s.version })
			time.Sleep(time.Second)
			if want := fmt.Sprintf("3 of %d", s.version); keepers[0].is() != want {
				t.Errorf("a second after a version that is too old: %s, not %s", keepers[0].is(), want)
			}
			time.Sleep(healthy)
		}
	})
}

// TestWatchesThatBreakOff: they do so at once, again and again, which is no reason to wait for
// long when it is over.
func TestWatchesThatBreakOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, keepers := follow(t, 1)
		for range 200 {
			s.set(func() {})
			time.Sleep(100 * time.Millisecond)
		}
		s.set(func() { s.version, s.objects, s.oldest = 9, 3, 9 })
		time.Sleep(5 * time.Second)
		if keepers[0].is() != "3 of 9" {
			t.Errorf("five seconds later: %s", keepers[0].is())
		}
	})
}

// TestAKindThatIsTakenAway: the definition of a kind is deleted. It has no objects then, which
// is no trouble, and when it comes back it is followed again.
func TestAKindThatIsTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, sources, keepers := followed(t, 1, true)
		s.set(func() { s.unknown = true })
		time.Sleep(5 * time.Second)
		if f := sources[0].Facts(); !strings.HasPrefix(keepers[0].is(), "0 ") || !f.Failing.IsZero() || sources[0].Remark() != "" || f.Objects != 0 {
			t.Errorf("%s, %+v, %s", keepers[0].is(), f, sources[0].Remark())
		}
		s.set(func() { s.unknown = false })
		time.Sleep(20 * time.Second)
		if f := sources[0].Facts(); keepers[0].is() != "1 of 1" || !f.Failing.IsZero() {
			t.Errorf("it came back: %s, %+v", keepers[0].is(), f)
		}
	})
}

// TestAnAnswerThatCannotBeReadSaysNothingOfTheServer: who asks for other objects does not wait.
func TestAnAnswerThatCannotBeReadSaysNothingOfTheServer(t *testing.T) {
	if away(fmt.Errorf("%w: Kind", ErrShape)) {
		t.Error("the server is taken for away")
	}
	if !away(io.ErrUnexpectedEOF) {
		t.Error("a server whose answer breaks off is not")
	}
}

// TestAWatchThatIsClosedSaysNothingOfTheServer: a reflector closes one that told an error, as
// that its version is too old, and nobody else waits for that.
func TestAWatchThatIsClosedSaysNothingOfTheServer(t *testing.T) {
	out, in := io.Pipe()
	api := &API{}
	d := newStream(t.Context(), &Source{API: api}, out)
	go func() {
		_, _ = io.WriteString(in, `{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}`)
	}()
	if kind, _, err := d.Decode(); kind != watch.Error || err != nil {
		t.Fatal(kind, err)
	}
	d.Close()
	if _, _, err := d.Decode(); !errors.Is(err, io.EOF) || api.gate.failures != 0 {
		t.Errorf("%v, failures %d", err, api.gate.failures)
	}
	// One that breaks off by itself does.
	out, in = io.Pipe()
	d = newStream(t.Context(), &Source{API: api}, out)
	_ = in.CloseWithError(io.ErrUnexpectedEOF)
	if _, _, err := d.Decode(); !errors.Is(err, io.EOF) || api.gate.failures != 1 {
		t.Errorf("%v, failures %d", err, api.gate.failures)
	}
}
