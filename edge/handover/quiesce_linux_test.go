package handover

import (
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// TestNobodyNewIsGreeted: once a listener ignores new connections, whoever waits in its queue
// still gets in, and nobody else does.
func TestNobodyNewIsGreeted(t *testing.T) {
	l, err := (&Sockets{}).Listen(t.Context(), "proxy", "tcp", "127.0.0.1:0") // as a node does
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	before, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = before.Close() }()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = ignoreNew(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if c, err := net.DialTimeout("tcp", l.Addr().String(), 300*time.Millisecond); !os.IsTimeout(err) {
		t.Errorf("a new connection: %v, %v; expected no answer", c, err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := before.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("who was greeted before: %d bytes, %v", n, err)
	}
}

// TestQuiesceTakesAll closes listeners while clients come: whoever got a connection is taken.
func TestQuiesceTakesAll(t *testing.T) {
	for range 10 {
		l, err := (&Sockets{}).Listen(t.Context(), "proxy", "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		greeted := map[string]bool{}
		begun, stop := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for n := 0; n < 500; n++ { // the queue has room for them all
					c, err := net.DialTimeout("tcp", l.Addr().String(), 50*time.Millisecond)
					if err != nil {
						select {
						case <-stop:
							return
						default:
							continue
						}
					}
					defer func() { _ = c.Close() }()
					mu.Lock()
					if greeted[c.LocalAddr().String()] = true; len(greeted) == 100 {
						close(begun)
					}
					mu.Unlock()
				}
			})
		}
		<-begun
		taken := map[string]bool{}
		Quiesce(l, func(c net.Conn) { taken[c.RemoteAddr().String()] = true; _ = c.Close() })
		_ = l.Close()
		close(stop)
		wg.Wait()
		for c := range greeted {
			if !taken[c] {
				t.Fatalf("of %d that were greeted %s was not taken", len(greeted), c)
			}
		}
	}
}
