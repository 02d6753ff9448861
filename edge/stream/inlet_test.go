package stream

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/handover"
)

// poll waits for ok, which must come true without much delay.
func poll(t *testing.T, fault string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(fault)
		}
	}
}

// TestPacketsOpenAndShut opens a listener of documents while the node serves: it carries,
// lets go of its clients when it is shut, and comes back in the midst of that.
func TestPacketsOpenAndShut(t *testing.T) {
	target := echoing(t)
	// Of an address that no other test takes ports of, as it is let go of for a moment.
	free, err := net.ListenPacket("udp", "127.0.0.33:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.LocalAddr().(*net.UDPAddr)
	_ = free.Close()
	snap := snapshotOf(t, "x_keyway_listeners: [{name: dns, protocol: udp, address: 127.0.0.33, port: "+strconv.Itoa(at.Port)+"}]\n"+
		"services: [{name: s, protocol: udp, host: 127.0.0.1, port: "+strconv.Itoa(target.LocalAddr().(*net.UDPAddr).Port)+", read_timeout: 600000, routes: [{name: r, protocols: [udp], destinations: [{port: "+strconv.Itoa(at.Port)+"}]}]}]\n")
	seen := &ends{}
	p := &Packets{Sockets: &handover.Sockets{}, Current: func() *edge.Snapshot { return snap }, Observer: seen, Log: slog.New(slog.DiscardHandler), Grace: 30 * time.Second}
	if err := p.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := snap.Listens()[0]
	if err := p.Open(t.Context(), l); err != nil { // before Run: it waits for that
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx, nil) }()
	dial := func() net.Conn {
		c, err := net.DialUDP("udp", nil, at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	ask := func(c net.Conn, wait time.Duration) bool {
		buf := make([]byte, 16)
		_, _ = c.Write([]byte("a"))
		_ = c.SetReadDeadline(time.Now().Add(wait))
		n, err := c.Read(buf)
		return err == nil && string(buf[:n]) == "a"
	}
	first := dial()
	if !ask(first, 10*time.Second) {
		t.Fatal("nothing is carried")
	}
	p.Shut(l.Address)
	if !ask(first, 10*time.Second) {
		t.Error("a session is to go on until it is silent")
	}
	if ask(dial(), 100*time.Millisecond) {
		t.Error("a session began on a listener that is shut")
	}
	if err := p.Open(t.Context(), l); err != nil { // it is not closed yet
		t.Fatal(err)
	}
	if second := dial(); !ask(second, 10*time.Second) || !ask(first, 10*time.Second) {
		t.Error("it does not come back")
	}
	p.Shut(l.Address)
	poll(t, "silent sessions hold the listener open", func() bool {
		c, err := net.ListenUDP("udp", at)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	if opened, results := seen.results(); opened != 2 || strings.Count(results, "idle ") != 2 {
		t.Errorf("%d sessions were opened, and ended: %s", opened, results)
	}
	if seen.list[0].Listener != "dns" {
		t.Errorf("the listener is called %s", seen.list[0].Listener)
	}
	// It is cut when the grace period is over, however much is said.
	p.Grace = 50 * time.Millisecond
	if err := p.Open(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	third := dial()
	if !ask(third, 10*time.Second) {
		t.Fatal("nothing is carried")
	}
	p.Shut(l.Address)
	poll(t, "a client that talks on is never cut", func() bool { return !ask(third, 50*time.Millisecond) })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(p.declared) > 0 {
		t.Errorf("still open: %v", p.declared)
	}
}
