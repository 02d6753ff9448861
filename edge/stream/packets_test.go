package stream

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
)

// snapshotOf builds what serves a document.
func snapshotOf(t *testing.T, text string) *edge.Snapshot {
	t.Helper()
	doc, problems := spec.Load([]spec.Source{{Name: "test.yaml", Data: []byte("_format_version: \"3.0\"\n" + text)}}, spec.Schemas{})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	b := &edge.Builder{Config: &edge.Config{}, Pools: upstream.NewPools(upstream.Settings{})}
	snap, _ := b.Build(nil, edge.Inputs{Document: doc, Now: time.Now()})
	return snap
}

// ends notes the streams that are over.
type ends struct {
	mu   sync.Mutex
	list []*edge.StreamEnd
	open int
}

func (e *ends) StreamOpened(string) {
	e.mu.Lock()
	e.open++
	e.mu.Unlock()
}
func (e *ends) StreamCarried(string, int64, int64) {}
func (e *ends) StreamClosed(_ context.Context, end *edge.StreamEnd) {
	e.mu.Lock()
	e.list = append(e.list, end)
	e.mu.Unlock()
}

func (e *ends) results() (opened int, results string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.list {
		results += x.Result + " "
	}
	return e.open, results
}

// echoing is a target that sends each datagram back until the test ends.
func echoing(t *testing.T) net.PacketConn {
	t.Helper()
	target, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := target.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = target.WriteTo(buf[:n], from)
		}
	}()
	return target
}

// TestPacketsDrain has clients talk while the node stops: those who have a session go
// on with it and are waited for, others begin none, and all is over when Run returns.
func TestPacketsDrain(t *testing.T) {
	target := echoing(t)
	port := target.LocalAddr().(*net.UDPAddr).Port
	snap := snapshotOf(t, "services: [{name: s, protocol: udp, host: 127.0.0.1, port: "+strconv.Itoa(port)+", routes: [{name: r, protocols: [udp], sources: [{ip: 127.0.0.0/8}]}]}]\n")
	seen := &ends{}
	p := &Packets{Addresses: []string{"127.0.0.1:0"}, Current: func() *edge.Snapshot { return snap }, Observer: seen, Log: slog.New(slog.DiscardHandler), MaxPerClient: 8, Grace: 30 * time.Second}
	if err := p.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	address := p.inlets[0].LocalAddr().String()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, nil) }()
	dial := func() net.Conn {
		c, err := net.Dial("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	ask := func(c net.Conn, text string, wait time.Duration) error {
		buf := make([]byte, 2048)
		if _, err := c.Write([]byte(text)); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(wait))
		n, err := c.Read(buf)
		if err == nil && string(buf[:n]) != text {
			err = fmt.Errorf("%q came back for %q", buf[:n], text)
		}
		return err
	}
	var clients []net.Conn
	for i := range 8 {
		clients = append(clients, dial())
		if err := ask(clients[i], fmt.Sprint("client ", i), 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if ask(dial(), "one too many", 200*time.Millisecond) == nil {
		t.Error("a ninth session of one address is served")
	}
	stop()
	for !p.draining.Load() {
		if err := ask(clients[0], "still", 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := ask(clients[0], "while it drains", 10*time.Second); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	if opened, results := seen.results(); opened != 8 || strings.Count(results, "idle ") != 8 || strings.Count(results, "full ") != 1 {
		t.Errorf("%d sessions were opened, and ended: %s", opened, results)
	}
	if len(p.sessions)+len(p.clients) > 0 {
		t.Errorf("%d sessions of %d clients are remembered", len(p.sessions), len(p.clients))
	}
}

// TestPacketsCut ends sessions at once when the node is forced to stop.
func TestPacketsCut(t *testing.T) {
	target, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = target.Close() }()
	snap := snapshotOf(t, "services: [{name: s, protocol: udp, host: 127.0.0.1, port: "+strconv.Itoa(target.LocalAddr().(*net.UDPAddr).Port)+", routes: [{name: r, protocols: [udp], sources: [{ip: 127.0.0.0/8}]}]}]\n")
	seen := &ends{}
	p := &Packets{Addresses: []string{"127.0.0.1:0"}, Current: func() *edge.Snapshot { return snap }, Observer: seen, Log: slog.New(slog.DiscardHandler), Grace: time.Hour}
	if err := p.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	force, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- p.Run(ctx, force) }()
	c, err := net.Dial("udp", p.inlets[0].LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = c.Write([]byte("hello"))
	_ = target.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, _, err := target.ReadFrom(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	close(force)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if opened, results := seen.results(); opened != 1 || results != "cut " {
		t.Errorf("%d sessions were opened, and ended: %s", opened, results)
	}
}

// TestPacketsCountNetworks counts the addresses of one /64 as one client.
func TestPacketsCountNetworks(t *testing.T) {
	p, in := &Packets{MaxPerClient: 2, sessions: map[sessionKey]*session{}, clients: map[netip.Addr]int{}}, &inlet{}
	key := func(client string) sessionKey { return sessionKey{in, netip.MustParseAddrPort(client)} }
	for _, c := range []struct {
		client string
		admits bool
	}{
		{"[2001:db8::1]:1", true},
		{"[2001:db8::2]:1", true},
		{"[2001:db8::ffff:3]:1", false},
		{"[2001:db8:0:1::1]:1", true},
		{"192.0.2.1:1", true},
		{"192.0.2.1:2", true},
		{"192.0.2.1:3", false},
		{"192.0.2.2:1", true},
	} {
		if got := p.admit(key(c.client), &session{}); got != c.admits {
			t.Errorf("%s is admitted: %v, want %v", c.client, got, c.admits)
		}
	}
	p.forget(key("[2001:db8::1]:1"))
	if !p.admit(key("[2001:db8::ffff:3]:1"), &session{}) {
		t.Error("what has ended is still counted")
	}
}
