package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// faultMode is what a faulty server does to calls.
type faultMode string

const (
	faultNone      faultMode = "pass"
	faultRefuse    faultMode = "refuse"     // nobody listens
	faultBlackHole faultMode = "black hole" // connections are taken and calls never answered
	faultSlow      faultMode = "slow"       // calls pass after a delay
	faultThrottle  faultMode = "429"        // with Retry-After when retryAfter is set
	faultDown      faultMode = "503"
	faultCut       faultMode = "cut" // the answer breaks off in the middle
)

// faulty is an HTTP proxy in front of a real server that can be made to fail. It
// counts every call that reaches it, those it does not pass included.
type faulty struct {
	addr   string // host:port, in clear or, with front, over TLS
	target *url.URL
	proxy  *httputil.ReverseProxy
	front  *tls.Config

	mu         sync.Mutex // guards what follows
	mode       faultMode
	delay      time.Duration
	retryAfter time.Duration
	changed    chan struct{} // closed when the mode changes
	server     *http.Server  // nil while nobody listens
	calls      []faultCall
}

// faultCall is one call that reached a faulty server.
type faultCall struct {
	at     time.Time
	method string
	path   string
	header http.Header
	status int // what was answered, 0 for nothing
}

// faultProxy puts a proxy in front of target, a base URL. With front it speaks TLS;
// roots verify a target over TLS.
func faultProxy(t testing.TB, target string, front *tls.Config, roots *x509.CertPool) *faulty {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{addr: "127.0.0.1:" + strconv.Itoa(freePort(t)), target: u, front: front, mode: faultNone, changed: make(chan struct{})}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: u.Hostname()}, ForceAttemptHTTP2: false}
	f.proxy = &httputil.ReverseProxy{
		// The server's own links (ACME has them) must lead back through here: Host stays.
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host },
		Transport:    transport,
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	f.listen(t)
	t.Cleanup(func() {
		f.set(t, faultRefuse)
		transport.CloseIdleConnections()
	})
	return f
}

func (f *faulty) listen(t testing.TB) {
	t.Helper()
	var l net.Listener
	poll(t, "the faulty server's port is free", 20*time.Second, func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", f.addr)
		return err == nil
	})
	if f.front != nil {
		l = tls.NewListener(l, f.front)
	}
	s := &http.Server{Handler: f, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	f.server = s
	go func() { _ = s.Serve(l) }()
}

// set changes what calls meet. Calls that hang are let go; connections are cut when
// nobody is to listen any more.
func (f *faulty) set(t testing.TB, mode faultMode) {
	t.Helper()
	f.mu.Lock()
	f.mode = mode
	close(f.changed)
	f.changed = make(chan struct{})
	server := f.server
	if mode == faultRefuse {
		f.server = nil
	}
	f.mu.Unlock()
	switch {
	case mode == faultRefuse && server != nil:
		_ = server.Close()
	case mode != faultRefuse && server == nil:
		f.listen(t)
	}
}

// slow and throttle are set with their figure.
func (f *faulty) slow(t testing.TB, d time.Duration) {
	f.mu.Lock()
	f.delay = d
	f.mu.Unlock()
	f.set(t, faultSlow)
}

func (f *faulty) throttle(t testing.TB, after time.Duration) {
	f.mu.Lock()
	f.retryAfter = after
	f.mu.Unlock()
	f.set(t, faultThrottle)
}

// ServeHTTP does to one call what the mode says.
func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	mode, delay, after, changed := f.mode, f.delay, f.retryAfter, f.changed
	n := len(f.calls)
	f.calls = append(f.calls, faultCall{at: time.Now(), method: r.Method, path: r.URL.Path, header: r.Header.Clone()})
	f.mu.Unlock()
	answer := func(status int) {
		f.mu.Lock()
		f.calls[n].status = status
		f.mu.Unlock()
		w.WriteHeader(status)
	}
	switch mode {
	case faultBlackHole:
		hang(r.Context(), changed, time.Hour)
		panic(http.ErrAbortHandler)
	case faultSlow:
		hang(r.Context(), changed, delay)
	case faultThrottle:
		if after > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(after/time.Second)))
		}
		answer(http.StatusTooManyRequests)
		return
	case faultDown:
		answer(http.StatusServiceUnavailable)
		return
	case faultCut:
		w.Header().Set("Content-Length", "4096")
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, `{"request_id":`)
		panic(http.ErrAbortHandler)
	}
	f.proxy.ServeHTTP(&noted{w, f, n}, r)
}

// noted keeps the status of a call that passed.
type noted struct {
	http.ResponseWriter
	f *faulty
	n int
}

func (w *noted) WriteHeader(status int) {
	w.f.mu.Lock()
	w.f.calls[w.n].status = status
	w.f.mu.Unlock()
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *noted) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// hang waits for a time, or for a change, or for the caller to go.
func hang(ctx context.Context, changed <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-timer.C:
	}
}

// since are the calls from a time on whose path has a text in it.
func (f *faulty) since(from time.Time, path string) []faultCall {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []faultCall
	for _, c := range f.calls {
		if !c.at.Before(from) && strings.Contains(c.path, path) {
			out = append(out, c)
		}
	}
	return out
}

// busiest is the greatest number of calls in any window of this length.
func busiest(calls []faultCall, window time.Duration) int {
	most, from := 0, 0
	for i, c := range calls {
		for c.at.Sub(calls[from].at) >= window {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}
