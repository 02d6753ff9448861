package upstream

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// still is a connection that only remembers whether it was closed.
type still struct {
	net.Conn
	shut atomic.Bool
}

func (s *still) Close() error { s.shut.Store(true); return nil }
func (s *still) closed() bool { return s.shut.Load() }

func parked(s *stack) (*conn, *still) {
	n := &still{}
	return &conn{stack: s, sock: &sock{Conn: n}}, n
}

func id(port uint16) identity {
	return identity{addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)}
}

func TestIdleConnectionsAreLastInFirstOutAndExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPools(Settings{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		s := p.stack(id(1))
		old, oldSock := parked(s)
		s.put(old, time.Now())
		time.Sleep(40 * time.Second)
		young, youngSock := parked(s)
		s.put(young, time.Now())
		if got := s.take(time.Now()); got != young {
			t.Fatal("the warmest connection must come first")
		}
		s.put(young, time.Now())
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if !oldSock.closed() || youngSock.closed() || p.Stats().Idle != 1 {
			t.Fatalf("after 70 s: old closed %v, young closed %v, %+v", oldSock.closed(), youngSock.closed(), p.Stats())
		}
		time.Sleep(stackUnused + time.Minute)
		synctest.Wait()
		if p.Stats() != (Stats{}) || !s.retired.Load() {
			t.Fatalf("an unused identity was kept: %+v", p.Stats())
		}
		late, lateSock := parked(s)
		s.put(late, time.Now())
		if !lateSock.closed() {
			t.Fatal("a connection was put where nobody looks any more")
		}
		last, lastSock := parked(p.stack(id(1)))
		last.stack.put(last, time.Now())
		cancel()
		if err := <-ended; err != nil || !lastSock.closed() {
			t.Fatalf("Run ended with %v, closed %v", err, lastSock.closed())
		}
	})
}

func TestIdleConnectionsAreBounded(t *testing.T) {
	p := NewPools(Settings{PoolSize: 2, IdleTotal: 3})
	closed := 0
	for i := range 6 {
		c, n := parked(p.stack(id(uint16(i % 2))))
		c.stack.put(c, time.Now())
		if n.closed() {
			closed++
		}
	}
	if closed != 3 || p.Stats().Idle != 3 {
		t.Errorf("%d closed, %+v", closed, p.Stats())
	}
	s := p.stack(id(0))
	for s.take(time.Now()) != nil {
	}
	if p.Stats().Idle != 1 {
		t.Errorf("after taking: %+v", p.Stats())
	}
	p.Close()
	if p.Stats() != (Stats{}) {
		t.Errorf("after Close: %+v", p.Stats())
	}
}

func TestIdentitiesAreBounded(t *testing.T) {
	p := NewPools(Settings{})
	for i := range maxIdentities {
		p.stack(identity{server: strconv.Itoa(i)})
	}
	s := p.stack(identity{server: "one more"})
	c, n := parked(s)
	s.put(c, time.Now())
	if !n.closed() || p.Stats().Identities != maxIdentities {
		t.Errorf("%+v", p.Stats())
	}
	if p.stack(identity{server: "7"}).retired.Load() {
		t.Error("a known identity lost its pool")
	}
}

func TestDeadlinesAreGenerousButBounded(t *testing.T) {
	now := time.Now()
	for _, wait := range []time.Duration{patience, 400 * time.Millisecond, time.Minute} {
		if s := slack(wait); s < 0 || wait != patience && s > wait/10 {
			t.Errorf("%v may come %v late", wait, s)
		}
	}
	n := &counting{}
	c := &conn{sock: &sock{Conn: n}}
	c.readWithin(now, patience)
	c.readWithin(now.Add(patience/2), patience)
	c.readWithin(now.Add(patience), patience)
	if n.set != 1 {
		t.Errorf("%d deadlines set where one would do", n.set)
	}
	c.readWithin(now.Add(patience+1), patience)
	c.readWithin(now, time.Minute)
	c.readWithin(now, patience)
	if n.set != 4 {
		t.Errorf("%d deadlines set, want 4", n.set)
	}
}

type counting struct {
	net.Conn
	set int
}

func (c *counting) SetReadDeadline(time.Time) error { c.set++; return nil }
