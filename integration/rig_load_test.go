package integration

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// clients are requests of several kinds that never rest, verify strictly, and count what
// they meet. Each request has a number of its own, so that the origin can tell what
// came twice.
type clients struct {
	g     *gateway
	roots *x509.CertPool
	names []string
	path  string
	// stale says of a serial whether it was replaced more than a second before a
	// handshake that began then; nil asks nothing.
	stale func(name, serial string, began time.Time) (time.Duration, bool)
	// expect says whether an answer is what should be; nil wants 200.
	expect func(status int, body string) bool
	// took is told how long each good answer took, with a handshake of its own or
	// without; nil for nobody.
	took func(fresh bool, d time.Duration)
	// settled leaves out those that make connections.
	settled bool

	requests, lost, handshakes, failed, old, refused atomic.Int64
	first                                            atomic.Value // the first trouble, as text
	number                                           atomic.Int64
	down                                             atomic.Bool // the node is being killed: nothing is counted
	stop                                             chan struct{}
	wg                                               sync.WaitGroup
}

// begin starts n clients that keep connections (every second one over HTTP/2) and n
// that make a new one for each request.
func (l *clients) begin(n int) *clients {
	l.stop = make(chan struct{})
	if l.path == "" {
		l.path = "/"
	}
	for i := range n {
		l.wg.Go(func() { l.kept(l.names[i%len(l.names)], i%2 == 1) })
		if !l.settled {
			l.wg.Go(func() { l.fresh(i) })
		}
	}
	return l
}

// end stops the clients and waits for them.
func (l *clients) end() {
	close(l.stop)
	l.wg.Wait()
}

func (l *clients) running() bool {
	select {
	case <-l.stop:
		return false
	default:
		return true
	}
}

func (l *clients) trouble(format string, args ...any) {
	l.first.CompareAndSwap(nil, fmt.Sprintf(format, args...))
}

func (l *clients) config(name string) *tls.Config {
	return &tls.Config{ServerName: name, RootCAs: l.roots, ClientSessionCache: nil}
}

// kept asks again and again over one connection.
func (l *clients) kept(name string, h2 bool) {
	tr := &http.Transport{ForceAttemptHTTP2: h2, TLSClientConfig: l.config(name), MaxConnsPerHost: 1}
	if !h2 {
		tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	c := &http.Client{Transport: tr, Timeout: 20 * time.Second}
	defer tr.CloseIdleConnections()
	for l.running() {
		l.ask(c, name, time.Time{})
		pause(l.stop, time.Duration(1+mathrand.IntN(4))*time.Millisecond)
	}
}

// fresh makes a handshake for each request, each for a name of its own.
func (l *clients) fresh(i int) {
	for l.running() {
		i += 7
		name, began := l.names[i%len(l.names)], time.Now()
		var shown *x509.Certificate
		tr := &http.Transport{DisableKeepAlives: true, TLSClientConfig: l.config(name)}
		tr.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error { shown = s.PeerCertificates[0]; return nil }
		l.handshakes.Add(1)
		if !l.ask(&http.Client{Transport: tr, Timeout: 20 * time.Second}, name, began) {
			pause(l.stop, 20*time.Millisecond)
		}
		if shown != nil && l.stale != nil {
			if behind, bad := l.stale(name, shown.SerialNumber.String(), began); bad {
				l.old.Add(1)
				l.trouble("%s: a certificate that was replaced %s before", name, behind)
			}
		}
		pause(l.stop, time.Duration(1+mathrand.IntN(6))*time.Millisecond)
	}
}

// pause waits for a moment, or for the end.
func pause(stop <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-stop:
	case <-timer.C:
	}
}

// ask makes one request and counts it; began is set where a handshake belongs to it.
func (l *clients) ask(c *http.Client, name string, began time.Time) bool {
	req, err := http.NewRequest(http.MethodGet, "https://"+l.g.tls+l.path, nil)
	if err != nil {
		panic(err)
	}
	req.Host = name
	req.Header.Set("X-Number", fmt.Sprint(l.number.Add(1)))
	dying := l.down.Load()
	status, body, asked := 0, "", time.Now()
	resp, err := c.Do(req)
	if err == nil {
		var text []byte
		text, err = io.ReadAll(resp.Body)
		status, body = resp.StatusCode, string(text)
		_ = resp.Body.Close()
	}
	if dying || l.down.Load() {
		return false
	}
	l.requests.Add(1)
	took := time.Since(asked)
	var op *net.OpError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		l.refused.Add(1)
		l.lost.Add(1)
	case err != nil && !began.IsZero() && (strings.Contains(err.Error(), "tls:") || strings.Contains(err.Error(), "x509:") || errors.As(err, &op) && op.Op == "remote error"):
		l.failed.Add(1)
		l.trouble("%s: handshake: %v", name, err)
		return false
	case err != nil:
		l.lost.Add(1)
	case l.expect != nil && l.expect(status, body), l.expect == nil && status == http.StatusOK:
		if l.took != nil {
			l.took(!began.IsZero(), took)
		}
		return true
	default:
		l.lost.Add(1)
	}
	if len(body) > 120 {
		body = body[:120]
	}
	l.trouble("%s%s: %d %q %v", name, l.path, status, body, err)
	return false
}

// tattler is an origin that counts what it gets and what comes twice.
type tattler struct {
	addr    string
	mu      sync.Mutex // guards seen and doubles
	seen    map[string]int
	doubles int
	total   atomic.Int64
}

// tattle runs an origin; check judges a request's credential and answers the status.
func tattle(t testing.TB, check func(r *http.Request) (status int, why string)) *tattler {
	t.Helper()
	o := &tattler{seen: map[string]int{}}
	o.addr = origin(t, func(w http.ResponseWriter, r *http.Request) {
		o.total.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		status, why := http.StatusOK, "ok"
		if check != nil {
			status, why = check(r)
		}
		if n := r.Header.Get("X-Number"); n != "" && status == http.StatusOK {
			o.mu.Lock()
			o.seen[n]++
			if o.seen[n] > 1 {
				o.doubles++
			}
			o.mu.Unlock()
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, why)
	})
	return o
}

// twice is how many requests were served more than once.
func (o *tattler) twice() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.doubles
}
