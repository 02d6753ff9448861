package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// tally counts what one kind of client met.
type tally struct {
	name                    string
	sent, ok, refused, held atomic.Int64 // refused: nobody listened any more; held: 502 to a request that the killed upstream may have had
	lost                    atomic.Int64
	first                   atomic.Value
}

// note counts one answer. Only a request that may not be sent twice may be answered
// 502, and only while an upstream that had it was killed.
func (c *tally) note(status int, err error, mayHold bool) {
	c.sent.Add(1)
	switch {
	case err == nil && status == http.StatusOK:
		c.ok.Add(1)
	case errors.Is(err, syscall.ECONNREFUSED):
		c.refused.Add(1)
	case err == nil && status == http.StatusBadGateway && mayHold:
		c.held.Add(1)
	default:
		c.lost.Add(1)
		c.first.CompareAndSwap(nil, fmt.Sprintf("%d %v", status, err))
	}
}

// TestEndurance is load of every kind with everything at once: reloads good and
// bad, SIGHUP, certificate swaps good and bad, secret swaps, an upstream that dies
// and returns, and a drain at the end. It runs for KEYWAY_ENDURANCE, 20 s without.
// Memory, goroutines and descriptors must be at the end what they were early on.
func TestEndurance(t *testing.T) {
	long := 20 * time.Second
	if v := os.Getenv("KEYWAY_ENDURANCE"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		long = d
	}
	s := newShop(t, nil)
	text, err := os.ReadFile(s.doc)
	if err != nil {
		t.Fatal(err)
	}
	good := string(text)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	kinds := []*tally{{name: "HTTP/1.1, connection each"}, {name: "HTTP/1.1, kept"}, {name: "HTTP/2"}, {name: "POST of 64 KiB, HTTP/1.1"}, {name: "POST of 64 KiB, HTTP/2"}, {name: "key that swaps"}}
	var current atomic.Value // the key in the sealed store and the one before, which is good a moment longer
	current.Store([2]string{"first-key", "first-key"})
	for i, kind := range kinds {
		client := s.client(i != 0)
		if i == 2 || i == 4 {
			client.Transport.(*http.Transport).ForceAttemptHTTP2 = true
		}
		clients.Go(func() {
			defer client.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				switch {
				case kind.name == "key that swaps":
					keys := current.Load().([2]string)
					status, err := s.ask(client, "/keyed", keys[0])
					if status == http.StatusUnauthorized { // it had just been replaced, or not arrived
						now := current.Load().([2]string)
						if status, err = s.ask(client, "/keyed", now[1]); status == http.StatusUnauthorized {
							status, err = s.ask(client, "/keyed", now[0])
						}
					}
					kind.note(status, err, false)
				case strings.HasPrefix(kind.name, "POST"):
					status, err := post(s, client)
					kind.note(status, err, true)
				default:
					status, err := s.ask(client, "/open", "")
					kind.note(status, err, false)
				}
			}
		})
	}
	var early, late footprint
	var certs, refusals, secrets, reloads, bads, kills int
	var worst time.Duration
	began := time.Now()
	for i := 0; time.Since(began) < long; i++ {
		cert, key := pair(t, "shop.test", "shop.test")
		if i%3 == 2 {
			_, other := pair(t, "shop.test", "shop.test")
			before := s.counter(t, `keyway_credential_rejected_total{check="key_mismatch"}`)
			s.replace(t, cert, other)
			poll(t, "a bad pair is refused", 5*time.Second, func() bool {
				return s.counter(t, `keyway_credential_rejected_total{check="key_mismatch"}`) > before
			})
			refusals++
		}
		s.replace(t, cert, key)
		at := time.Now()
		poll(t, "the new certificate is served", 5*time.Second, func() bool { return s.serial(t) == serialOf(t, cert) })
		worst = max(worst, time.Since(at))
		certs++
		keys := current.Load().([2]string)
		next := fmt.Sprintf("key-%d", i)
		current.Store([2]string{next, keys[0]})
		keep(t, s.dir, "shop-key", next)
		poll(t, "the new key opens", 5*time.Second, func() bool { return s.opens(next) })
		current.Store([2]string{next, next})
		secrets++
		if i%4 == 1 {
			s.write("_format_version: \"3.0\"\nservices: [{name: a, hots: b}]\n")
			if out, err := s.run("reload"); err == nil {
				t.Errorf("a bad document is taken: %s", out)
			}
			bads++
		}
		s.write(strings.Replace(good, "retries: 5", fmt.Sprintf("retries: %d", 6+i%10), 1))
		if i%2 == 0 {
			if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		} else if out, err := s.run("reload"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		reloads++
		if i%5 == 4 {
			addr := s.a.Addr
			_ = s.a.Close()
			port := 0
			if _, err := fmt.Sscanf(addr, "127.0.0.1:%d", &port); err != nil {
				t.Fatal(err)
			}
			s.a = originAt(t, port)
			kills++
		}
		if early.files == 0 && time.Since(began) > long/4 {
			early = s.footprint(t)
		}
		late = s.footprint(t)
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.done:
	case <-time.After(40 * time.Second):
		t.Fatal("the drain does not end")
	}
	close(stop)
	clients.Wait()
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	var sent, held int64
	for _, c := range kinds {
		sent, held = sent+c.ok.Load()+c.held.Load()+c.lost.Load(), held+c.held.Load()
		if lost := c.lost.Load(); lost > 0 {
			t.Errorf("%s: %d of %d lost, the first: %v", c.name, lost, c.sent.Load(), c.first.Load())
		}
		t.Logf("%-26s %7d answered, %d held by the killed upstream, %d lost", c.name, c.ok.Load(), c.held.Load(), c.lost.Load())
	}
	if held > int64(20*kills) {
		t.Errorf("%d requests were answered 502 in %d kills", held, kills)
	}
	if worst > time.Second {
		t.Errorf("the slowest certificate swap took %s, at most 1s", worst)
	}
	if late.heap > 2*early.heap+32*mebi || late.goroutines > early.goroutines+200 || late.files > early.files+200 {
		t.Errorf("it grew from %+v to %+v", early, late)
	}
	if out, err := s.run("audit", "verify"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("%s: %d requests, %d certificate swaps (the slowest seen after %s), %d refused pairs, %d secret swaps, %d reloads, %d bad documents, %d upstream kills; %+v early, %+v late",
		long, sent, certs, worst.Round(time.Millisecond), refusals, secrets, reloads, bads, kills, early, late)
}

// post sends a body that the origin must have whole.
func post(s *shop, c *http.Client) (int, error) {
	req, err := http.NewRequest(http.MethodPost, "https://"+s.tls+"/open", zeros(64<<10))
	if err != nil {
		return 0, err
	}
	req.Host = "shop.test"
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// opens says whether a key opens the keyed route.
func (s *shop) opens(key string) bool {
	c := s.client(false)
	status, err := s.ask(c, "/keyed", key)
	return err == nil && status == http.StatusOK
}

// footprint is what a node holds.
type footprint struct{ heap, goroutines, files int }

func (g *gateway) footprint(t testing.TB) footprint {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return footprint{int(g.counter(t, "keyway_heap_bytes")), int(g.counter(t, "keyway_goroutines")), len(open)}
}
