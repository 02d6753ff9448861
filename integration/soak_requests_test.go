package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
)

// errand is a kind of request: how it is made, and what its answer has to be.
type errand struct {
	name, pool string
	safe       bool // the node may send it twice
	weight     int  // how often, beside others
	make       func(k *soak, base string) (req *http.Request, check func(resp *http.Response, body []byte) error)
}

// request makes one.
func request(method, url string, body io.Reader, fields ...string) *http.Request {
	req, err := http.NewRequestWithContext(context.Background(), method, url, body)
	if err != nil {
		panic(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	return req
}

// size draws the size of a body: mostly small, sometimes a mebibyte.
func (k *soak) size() int {
	sizes := []int{1 << 10, 1 << 10, 1 << 10, 4 << 10, 4 << 10, 16 << 10, 16 << 10, 64 << 10, 64 << 10, 256 << 10, mebi}
	return sizes[mathrand.IntN(len(sizes))]
}

// same says whether a body is the first n bytes of what targets send.
func same(body, want []byte) error {
	if !bytes.Equal(body, want) {
		return wrong("%d bytes of %d, and not the same ones", len(body), len(want))
	}
	return nil
}

// get asks for a block under a path.
func get(prefix string) func(k *soak, base string) (*http.Request, func(*http.Response, []byte) error) {
	return func(k *soak, base string) (*http.Request, func(*http.Response, []byte) error) {
		n := k.size()
		return request("GET", fmt.Sprintf("%s%s/block/%d", base, prefix, n), nil), func(_ *http.Response, body []byte) error { return same(body, k.block[:n]) }
	}
}

// upload sends a body whose sum comes back.
func upload(method, prefix string, chunked bool) func(k *soak, base string) (*http.Request, func(*http.Response, []byte) error) {
	return func(k *soak, base string) (*http.Request, func(*http.Response, []byte) error) {
		n := k.size()
		sum := fmt.Sprintf("%x", sha256.Sum256(k.block[:n]))
		var body io.Reader = bytes.NewReader(k.block[:n])
		want := fmt.Sprintf("%d %s ", n, sum)
		if chunked { // with a trailer field too
			body = io.MultiReader(body)
			want += sum
		}
		req := request(method, base+prefix+"/take", body)
		if chunked {
			req.Trailer = http.Header{"X-Sum": {sum}}
		}
		return req, func(_ *http.Response, body []byte) error {
			if string(body) != want {
				return wrong("the target took %q, want %q", body, want)
			}
			return nil
		}
	}
}

// errands are all kinds of requests.
func errands() []*errand {
	says := func(method, path, want string, fields ...string) func(*soak, string) (*http.Request, func(*http.Response, []byte) error) {
		return func(_ *soak, base string) (*http.Request, func(*http.Response, []byte) error) {
			return request(method, base+path, nil, fields...), func(_ *http.Response, body []byte) error {
				if string(body) != want {
					return wrong("%q, want %q", body, want)
				}
				return nil
			}
		}
	}
	return []*errand{
		{"GET", "plain", true, 6, get("/plain")},
		{"GET from a TLS upstream", "tls", true, 3, get("/secure")},
		{"GET from an HTTP/2 upstream", "h2", true, 3, get("/two")},
		{"POST of known length", "plain", false, 2, upload("POST", "/plain", false)},
		{"POST in chunks with a trailer", "plain", false, 2, upload("POST", "/plain", true)},
		{"POST in chunks, not held back", "plain", false, 1, upload("POST", "/live", true)},
		{"PUT", "plain", true, 1, upload("PUT", "/plain", false)},
		{"POST to an HTTP/2 upstream", "h2", false, 1, upload("POST", "/two", true)},
		{"POST to a TLS upstream", "tls", false, 1, upload("POST", "/secure", false)},
		{"response in chunks with a trailer", "plain", true, 1, inPieces},
		{"key-auth and rate-limiting", "plain", true, 3, withKey},
		{"compression", "plain", true, 1, compressed},
		{"cors", "plain", true, 1, crossed},
		{"cors, preflight", "plain", true, 1, preflight},
		{"request-transformer", "plain", true, 1, transformed},
		{"route of an expression", "plain", true, 1, says("GET", "/spoken/fields", "spoken ", "X-Beta", "on")},
		{"upstream credential that rotates", "door", true, 2, says("GET", "/door", "ok")},
	}
}

func inPieces(k *soak, base string) (*http.Request, func(*http.Response, []byte) error) {
	n := k.size()
	return request("GET", fmt.Sprintf("%s/plain/pieces/%d", base, n), nil), func(resp *http.Response, body []byte) error {
		if got, want := resp.Trailer.Get("X-Sum"), fmt.Sprintf("%x", sha256.Sum256(k.block[:n])); got != want {
			return wrong("the trailer says %q, want %q", got, want)
		}
		return same(body, k.block[:n])
	}
}

func withKey(k *soak, base string) (*http.Request, func(*http.Response, []byte) error) {
	key := k.key[mathrand.IntN(len(k.key))].Load().(string)
	return request("GET", base+"/keyed/block/1024", nil, "apikey", key), func(resp *http.Response, body []byte) error {
		if resp.Header.Get("RateLimit-Remaining") == "" {
			return wrong("no RateLimit-Remaining")
		}
		return same(body, k.block[:1024])
	}
}

func compressed(k *soak, base string) (*http.Request, func(*http.Response, []byte) error) {
	n := k.size()
	return request("GET", fmt.Sprintf("%s/small/text/%d", base, n), nil, "Accept-Encoding", "gzip"), func(resp *http.Response, body []byte) error {
		if got := resp.Header.Get("Content-Encoding"); got != "gzip" {
			return wrong("Content-Encoding %q", got)
		}
		r, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return wrong("%v", err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return wrong("%v", err)
		}
		return same(text, k.text[:n])
	}
}

func crossed(k *soak, base string) (*http.Request, func(*http.Response, []byte) error) {
	return request("GET", base+"/shared/block/1024", nil, "Origin", "https://page.test"), func(resp *http.Response, body []byte) error {
		if got := resp.Header.Get("Access-Control-Allow-Origin"); got != "https://page.test" {
			return wrong("Access-Control-Allow-Origin %q", got)
		}
		return same(body, k.block[:1024])
	}
}

func preflight(_ *soak, base string) (*http.Request, func(*http.Response, []byte) error) {
	return request("OPTIONS", base+"/shared/block/1024", nil, "Origin", "https://page.test", "Access-Control-Request-Method", "PUT"), func(resp *http.Response, _ []byte) error {
		if origin, age := resp.Header.Get("Access-Control-Allow-Origin"), resp.Header.Get("Access-Control-Max-Age"); origin != "https://page.test" || age == "" || resp.Header.Get("X-Target") != "" {
			return wrong("Access-Control-Allow-Origin %q, Access-Control-Max-Age %q, X-Target %q", origin, age, resp.Header.Get("X-Target"))
		}
		return nil
	}
}

func transformed(k *soak, base string) (*http.Request, func(*http.Response, []byte) error) {
	req := request("GET", base+"/changed/fields", nil, "X-Removed", "here", "X-Number", k.next())
	want := "by " + req.Header.Get("X-Number") + " "
	return req, func(_ *http.Response, body []byte) error {
		if string(body) != want {
			return wrong("%q, want %q", body, want)
		}
		return nil
	}
}

// next is a number that no request had.
func (k *soak) next() string { return fmt.Sprint(k.number.Add(1)) }

// ask goes on one errand.
func (k *soak) ask(v *voice, tr http.RoundTripper, e *errand) {
	req, check := e.make(k, v.base(k.fleet.name(mathrand.IntN(anyNames))))
	if req.Header.Get("X-Number") == "" {
		req.Header.Set("X-Number", k.next())
	}
	d := &deed{kind: v.name, what: e.name + ", " + req.Method + " " + req.URL.String(), number: req.Header.Get("X-Number"), pool: e.pool, safe: e.safe, began: time.Now()}
	err := k.send(d, tr, req, check, nil)
	k.book.done(d, err)
	k.book.tell(e.name, err == nil)
}

// send sends a request and reads its answer, slowly if read says how.
func (k *soak) send(d *deed, tr http.RoundTripper, req *http.Request, check func(*http.Response, []byte) error, read func(io.Reader) ([]byte, error)) error {
	if read == nil {
		read = io.ReadAll
	}
	// The limit is the client's: what is left of the answer is read within it.
	resp, err := (&http.Client{Transport: tr, Timeout: patience}).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	d.status, d.target = resp.StatusCode, resp.Header.Get("X-Target")
	body, err := read(resp.Body)
	d.bytes = max(req.ContentLength, 0) + int64(len(body))
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("status %d, %.200q", resp.StatusCode, body)
	}
	return check(resp, body)
}

// converse has a voice go on errands until the load ends.
func (k *soak) converse(v *voice) {
	list := errands()
	var drawn []*errand
	for _, e := range list {
		for range e.weight {
			drawn = append(drawn, e)
		}
	}
	tr, end := v.open(k)
	distance := keptEvery
	if !v.kept {
		distance = freshEvery
	}
	defer func() { end() }()
	for k.running() {
		k.ask(v, tr, drawn[mathrand.IntN(len(drawn))])
		if !v.kept {
			end()
			tr, end = v.open(k)
		}
		k.rest(distance)
	}
}

// later asks for what takes a target a moment, over all upstreams: of these requests
// some are under way whenever a target is killed.
func (k *soak) later(v *voice) {
	tr, end := v.open(k)
	defer end()
	pools := []string{"plain", "tls", "h2"}
	for range 20 {
		i, wait := mathrand.IntN(len(pools)), 100+mathrand.IntN(600)
		url := fmt.Sprintf("%s%s/later/%d", v.base(k.fleet.name(mathrand.IntN(anyNames))), []string{"/plain", "/secure", "/two"}[i], wait)
		d := &deed{kind: v.name, number: k.next(), pool: pools[i], safe: mathrand.IntN(3) > 0, began: time.Now()}
		var req *http.Request
		want := "0 later"
		if d.safe {
			req = request("GET", url, nil, "X-Number", d.number)
		} else {
			req, want = request("POST", url, bytes.NewReader(k.block[:2000]), "X-Number", d.number), "2000 later"
		}
		d.what = "slow at the target, " + req.Method + " " + url
		err := k.send(d, tr, req, func(_ *http.Response, body []byte) error { return same(body, []byte(want)) }, nil)
		k.book.done(d, err)
		k.book.tell("answered late by the target", err == nil)
		if !k.running() {
			return
		}
	}
}

// many sends requests at once over one connection.
func (k *soak) many(v *voice, n int) {
	tr, end := v.open(k)
	defer end()
	host := k.fleet.name(mathrand.IntN(anyNames))
	ask := func() {
		req := request("GET", v.base(host)+"/plain/block/4096", nil, "X-Number", k.next())
		d := &deed{kind: v.name, what: "one of many, GET " + req.URL.String(), number: req.Header.Get("X-Number"), pool: "plain", safe: true, began: time.Now()}
		err := k.send(d, tr, req, func(_ *http.Response, body []byte) error { return same(body, k.block[:4096]) }, nil)
		k.book.done(d, err)
		k.book.tell("many at once", err == nil)
	}
	ask() // the connection is there then
	done := make(chan struct{})
	for range n {
		go func() { ask(); done <- struct{}{} }()
	}
	for range n {
		<-done
	}
}

// slowly reads a body as a client far away does.
func slowly(r io.Reader) ([]byte, error) {
	var out bytes.Buffer
	for {
		_, err := io.CopyN(&out, r, 32<<10)
		if errors.Is(err, io.EOF) {
			return out.Bytes(), nil
		}
		if err != nil {
			return out.Bytes(), err
		}
		pause(nil, 50*time.Millisecond)
	}
}

// slowBody is read as slowly.
type slowBody struct{ io.Reader }

func (b slowBody) Read(p []byte) (int, error) {
	pause(nil, 50*time.Millisecond)
	return b.Reader.Read(p[:min(len(p), 16<<10)])
}

// slow is a client far away: a download and an upload that take seconds.
func (k *soak) slow(v *voice) {
	tr, end := v.open(k)
	defer end()
	base := v.base(k.fleet.name(mathrand.IntN(anyNames)))
	down := request("GET", fmt.Sprintf("%s/plain/block/%d", base, mebi), nil, "X-Number", k.next())
	d := &deed{kind: v.name, what: "slow GET", number: down.Header.Get("X-Number"), pool: "plain", safe: true, began: time.Now()}
	err := k.send(d, tr, down, func(_ *http.Response, body []byte) error { return same(body, k.block) }, slowly)
	k.book.done(d, err)
	k.book.tell("slow download", err == nil)

	const n = 256 << 10
	sum := fmt.Sprintf("%x", sha256.Sum256(k.block[:n]))
	up := request("POST", base+"/live/take", slowBody{bytes.NewReader(k.block[:n])}, "X-Number", k.next())
	d = &deed{kind: v.name, what: "slow POST", number: up.Header.Get("X-Number"), pool: "plain", began: time.Now()}
	err = k.send(d, tr, up, func(_ *http.Response, body []byte) error {
		if !strings.HasPrefix(string(body), fmt.Sprintf("%d %s", n, sum)) {
			return wrong("the target took %q", body)
		}
		return nil
	}, nil)
	k.book.done(d, err)
	k.book.tell("slow upload", err == nil)
}
