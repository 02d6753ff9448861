package integration

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// target is an upstream that can be killed with all that it holds, and returned.
type target struct {
	pool, name, addr string
	begin            func(x *target) (end func(), err error)
	end              func()       // kills it
	served           atomic.Int64 // requests, connections or datagrams
	silent           bool         // it does not say who it is, nor count
}

// add makes a target of a pool and lets it live.
func (k *soak) add(pool string, begin func(*target) (func(), error)) *target {
	k.t.Helper()
	x := &target{pool: pool, name: fmt.Sprintf("%s-%d", pool, len(k.pools[pool])+1), addr: fmt.Sprintf("127.0.0.1:%d", freePort(k.t)), begin: begin}
	end, err := begin(x)
	if err != nil {
		k.t.Fatal(err)
	}
	x.end = end
	k.pools[pool] = append(k.pools[pool], x)
	k.t.Cleanup(func() { x.end() })
	return x
}

// crowded is a listener that knows its connections and ends them with itself.
type crowded struct {
	net.Listener
	mu   sync.Mutex // guards what follows
	all  map[net.Conn]bool
	dead bool
}

type crowdedConn struct {
	net.Conn
	l *crowded
}

func listenCrowded(addr string) (*crowded, error) {
	l, err := net.Listen("tcp", addr)
	return &crowded{Listener: l, all: map[net.Conn]bool{}}, err
}

// Accept notes the connection.
func (l *crowded) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	l.all[c] = true
	return &crowdedConn{c, l}, nil
}

func (c *crowdedConn) Close() error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	delete(c.l.all, c.Conn)
	return c.Conn.Close()
}

// CloseWrite ends one direction.
func (c *crowdedConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// kill does what the kernel does for a process that is killed.
func (l *crowded) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	_ = l.Listener.Close()
	for c := range l.all {
		_ = c.Close()
	}
	clear(l.all)
}

// web is an origin for HTTP, in clear or over TLS and then with HTTP/2 too.
func (k *soak) web(secure *tls.Config) func(*target) (func(), error) {
	return func(x *target) (func(), error) {
		l, err := listenCrowded(x.addr)
		if err != nil {
			return nil, err
		}
		s := &http.Server{Handler: k.page(x), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: 30 * time.Second}
		if secure != nil {
			s.TLSConfig = secure.Clone()
			go func() { _ = s.ServeTLS(l, "", "") }()
		} else {
			go func() { _ = s.Serve(l) }()
		}
		return func() { l.kill(); _ = s.Close() }, nil
	}
}

// page serves what the errands of the soak ask for.
func (k *soak) page(x *target) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			return
		}
		x.served.Add(1)
		defer k.book.ledger.begin(r.Header.Get("X-Number"), x.name)()
		w.Header().Set("X-Target", x.name)
		what, size, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		n, _ := strconv.Atoi(size)
		switch what {
		case "block":
			w.Header().Set("Content-Length", size)
			_, _ = w.Write(k.block[:n])
		case "pieces":
			// Without a length: in chunks, and with a trailer field.
			w.Header().Set("Trailer", "X-Sum")
			for at := 0; at < n; at += 16 << 10 {
				if _, err := w.Write(k.block[at:min(n, at+16<<10)]); err != nil {
					return
				}
				_ = http.NewResponseController(w).Flush()
			}
			w.Header().Set("X-Sum", fmt.Sprintf("%x", sha256.Sum256(k.block[:n])))
		case "text":
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write(k.text[:n])
		case "take":
			h := sha256.New()
			got, err := io.Copy(h, r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			_, _ = fmt.Fprintf(w, "%d %x %s", got, h.Sum(nil), r.Trailer.Get("X-Sum"))
		case "later": // so that there is something under way when a target dies
			got, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			wait := time.NewTimer(time.Duration(n) * time.Millisecond)
			defer wait.Stop()
			select {
			case <-wait.C:
				_, _ = fmt.Fprintf(w, "%d later", got)
			case <-r.Context().Done():
				panic(http.ErrAbortHandler)
			}
		case "fields":
			_, _ = fmt.Fprintf(w, "%s %s", r.Header.Get("X-Added"), r.Header.Get("X-Removed"))
		case "events":
			k.events(w, r, n)
		case "chat":
			echoFrames(w, r)
		default:
			http.Error(w, "no such page: "+r.URL.Path, http.StatusTeapot)
		}
	}
}

// events sends n numbered events, one after the other, and says so at the end.
func (k *soak) events(w http.ResponseWriter, r *http.Request, n int) {
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(eventEvery)
	defer tick.Stop()
	for i := range n {
		if _, err := fmt.Fprintf(w, "id: %d\ndata: event %d\n\n", i, i); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
	_, _ = io.WriteString(w, "data: end\n\n")
}

// echo is a target for streams: it says its name, in a line, and then whatever it is told.
func (k *soak) echo(secure *tls.Config) func(*target) (func(), error) {
	return func(x *target) (func(), error) {
		crowd, err := listenCrowded(x.addr)
		if err != nil {
			return nil, err
		}
		var l net.Listener = crowd
		if secure != nil {
			l = tls.NewListener(l, secure)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer func() { _ = c.Close() }()
					if _, err := io.WriteString(c, x.name+"\n"); err != nil {
						return
					}
					if n, _ := io.CopyN(c, c, 1); n > 0 { // no probe
						x.served.Add(1)
						_, _ = io.Copy(c, c)
					}
				}()
			}
		}()
		return crowd.kill, nil
	}
}

// datagrams is a target for UDP: it answers each with its name and what was sent.
func (k *soak) datagrams(x *target) (func(), error) {
	c, err := net.ListenPacket("udp", x.addr)
	if err != nil {
		return nil, err
	}
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			x.served.Add(1)
			_, _ = c.WriteTo(append([]byte(x.name+"\n"), buf[:n]...), from)
		}
	}()
	return func() { _ = c.Close() }, nil
}

// calls is the server of gRPC's interoperability suite, a process that is killed with
// SIGKILL. It does not say its name.
func (k *soak) calls(args ...string) func(*target) (func(), error) {
	dev := tool(k.t, "grpcdev")
	return func(x *target) (func(), error) {
		x.silent = true
		var said lockedBuffer
		cmd := exec.Command(dev, append([]string{"-listen", x.addr}, args...)...)
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		var once sync.Once
		end := func() {
			once.Do(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
		}
		for late := time.Now().Add(20 * time.Second); !strings.Contains(said.String(), "ready"); {
			if time.Now().After(late) {
				end()
				return nil, errors.New("grpcdev is not ready: " + said.String())
			}
			pause(k.never, 10*time.Millisecond)
		}
		return end, nil
	}
}
