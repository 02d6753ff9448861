package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// h2dial is a connection that is being opened, for all who wait for it.
type h2dial struct {
	done chan struct{}
	room int // how many more may wait for it
	conn *h2conn
	err  error // valid once done is closed
}

// ride answers a place on a connection of the stack, opening one if need be. not is a
// connection that was tried in vain, or nil. slow is called when that takes a while, as
// for HTTP/1.1: the client may go meanwhile. reused says that the connection was there, be
// it that a place on it became free while a new one was opened.
func (s *stack) ride(ctx context.Context, cl *Cluster, not *h2conn, slow func()) (st *h2stream, reused bool, err error) {
	var opened *h2conn
	for {
		s.mu.Lock()
		s.used = time.Now()
		for _, c := range s.shared {
			if c == not {
				continue
			}
			if st := c.seat(); st != nil {
				s.mu.Unlock()
				return st, c != opened, nil
			}
		}
		d := s.dialing
		if d == nil || d.room == 0 {
			d = &h2dial{done: make(chan struct{}), room: s.places()}
			s.dialing = d
			if !s.pools.flow(func() { s.dialShared(context.WithoutCancel(ctx), cl, d) }) {
				s.dialing = nil
				s.mu.Unlock()
				return nil, false, fmt.Errorf("connecting to %s: %w", s.id.addr, errPoolsEnded)
			}
		}
		d.room--
		s.mu.Unlock()
		if err := d.await(ctx, slow); err != nil {
			return nil, false, fmt.Errorf("connecting to %s: %w", s.id.addr, err)
		}
		slow = nil
		if d.err != nil {
			return nil, false, d.err
		}
		opened = d.conn
	}
}

// await waits for the connection.
func (d *h2dial) await(ctx context.Context, slow func()) error {
	var late <-chan time.Time
	if slow != nil {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		late = timer.C
	}
	for {
		select {
		case <-d.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late:
			slow()
		}
	}
}

// places is how many streams a new connection is expected to take. s.mu is held.
func (s *stack) places() int {
	if s.room == 0 {
		return 100
	}
	return s.room
}

// dialShared opens a connection for those who wait. It goes on when the first of them
// leaves, since others may rely on it.
func (s *stack) dialShared(ctx context.Context, cl *Cluster, d *h2dial) {
	c, err := s.connect(ctx, cl)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dialing == d {
		s.dialing = nil
	}
	if err == nil {
		c.mu.Lock()
		s.room = max(1, min(c.most, h2Streams))
		c.mu.Unlock()
		s.shared = append(s.shared, c)
	}
	d.conn, d.err = c, err
	close(d.done)
}

// connect opens one connection and awaits what the target says of itself.
func (s *stack) connect(ctx context.Context, cl *Cluster) (*h2conn, error) {
	ctx, cancel := context.WithTimeout(ctx, cl.connect)
	defer cancel()
	nc, err := cl.dial(ctx, s, cl.connect)
	if err != nil {
		return nil, err
	}
	if p := nc.protocol(); nc.secure && p != "h2" {
		nc.close()
		return nil, fmt.Errorf("shaking hands with %s as %q: expected that it speaks HTTP/2 (ALPN h2), it chose %q", nc.address, s.id.server, p)
	}
	nc.sock.listen()
	over := nc.rw
	if !nc.secure {
		over = nc.sock // whose reads tell how far they are
	}
	c := newH2conn(s, over, nc.address, cl.write, time.Now())
	if nc.sock.tap != nil {
		c.sock = nc.sock
	}
	if !s.pools.enlist(c) {
		nc.close()
		return nil, fmt.Errorf("connecting to %s: %w", nc.address, errPoolsEnded)
	}
	s.pools.flows.Go(c.run)
	if err := c.awaitSettings(ctx); err != nil {
		c.abort(err)
		return nil, err
	}
	return c, nil
}

// abort ends a connection at once.
func (c *h2conn) abort(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail(why)
}

// lose forgets a connection that ended.
func (s *stack) lose(c *h2conn) {
	s.mu.Lock()
	if i := slices.Index(s.shared, c); i >= 0 {
		s.shared = slices.Delete(s.shared, i, i+1)
	}
	s.mu.Unlock()
	s.pools.mu.Lock()
	delete(s.pools.shared, c)
	s.pools.mu.Unlock()
}

// sweepShared closes shared connections whose idle time is up, and answers whether
// there is none.
func (s *stack) sweepShared(now time.Time) bool {
	s.mu.Lock()
	list := slices.Clone(s.shared)
	none := len(list) == 0 && s.dialing == nil
	s.mu.Unlock()
	idle := s.pools.set.IdleTimeout
	if s.retired.Load() {
		idle = 0
	}
	for _, c := range list {
		c.sweep(now, idle)
	}
	return none
}

// flow runs a part of a shared connection, unless the pools have ended.
func (p *Pools) flow(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.flows.Go(f)
	}
	return !p.ended
}

// enlist notes a connection, so that the end of the pools is its end too.
func (p *Pools) enlist(c *h2conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.shared[c] = struct{}{}
	return true
}

// sweepStray looks after shared connections whose stack is forgotten.
func (p *Pools) sweepStray(now time.Time) {
	p.mu.Lock()
	var stray []*h2conn
	for c := range p.shared {
		if c.stack.retired.Load() {
			stray = append(stray, c)
		}
	}
	p.mu.Unlock()
	for _, c := range stray {
		c.sweep(now, sweepEvery)
	}
}

// end ends the shared connections that are left, and waits for all that serves them.
func (p *Pools) end() {
	p.Close()
	p.mu.Lock()
	p.ended = true
	list := make([]*h2conn, 0, len(p.shared))
	for c := range p.shared {
		list = append(list, c)
	}
	p.mu.Unlock()
	for _, c := range list {
		c.abort(errPoolsEnded)
	}
	p.flows.Wait()
}

var errPoolsEnded = errors.New("this node is stopping")
