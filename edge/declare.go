package edge

import (
	"context"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// Open opens a listener of documents for connections, or has one that is open serve as l
// says. Where another protocol is spoken from now on the socket stays, and the connections
// of the one before end as in a drain.
func (s *Server) Open(ctx context.Context, l *Listen) error {
	s.mu.Lock()
	p, stopped := s.declared[l.Address], s.stopped
	s.mu.Unlock()
	switch {
	case stopped:
		return ErrStopping
	case p != nil:
		s.change(p, l)
		return nil
	}
	p, err := s.listen(ctx, PurposeDeclared, s.gateOf(l))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		_ = p.l.Close()
		s.Sockets.Forget(p.name)
		return ErrStopping
	}
	s.declared[l.Address] = p
	if s.serving != nil { // before Run it waits for that
		s.start(p)
	}
	return nil
}

// gateOf is what is served on a listener of documents.
func (s *Server) gateOf(l *Listen) *gate {
	e := s.Pattern
	e.Name, e.Address = l.Name(), l.Address
	e.TLS, e.Stream, e.Requests = l.secure(), l.Protocol == speaksTLS || l.Protocol == speaksTCP || l.Streams, l.Streams
	e.H2C = e.H2C && l.Protocol == speaksHTTP
	e.NoHTTP3 = e.NoHTTP3 && l.Protocol == speaksHTTPS
	g := &gate{e, &tenure{}}
	g.policy.Store(l.policy)
	return g
}

// change has an open listener serve as l says.
func (s *Server) change(p *port, l *Listen) {
	old, next := p.gate.Load(), s.gateOf(l)
	if old.TLS == next.TLS && old.Stream == next.Stream && old.Requests == next.Requests {
		old.policy.Store(l.policy)
		next.tenure = old.tenure
		p.gate.Store(next)
		return
	}
	p.gate.Store(next)
	old.shut.Store(true)
	<-s.begun
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dismiss(old)
}

// Shut closes a listener of documents. Whoever waits in its queue is served, requests in
// flight are finished, and what is left after the grace period is cut.
func (s *Server) Shut(address string) {
	<-s.begun // so that there is somebody to serve them
	s.mu.Lock()
	p := s.declared[address]
	if p == nil || s.stopped { // then Run closes it
		s.mu.Unlock()
		return
	}
	delete(s.declared, address)
	s.accepting.Add(1) // Run does not end before
	s.mu.Unlock()
	defer s.accepting.Done()
	g := p.gate.Load()
	g.shut.Store(true)
	s.close(p, nil)
	s.Sockets.Forget(p.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dismiss(g)
}

// dismiss has the connections of a gate end, those that are still on their way to an engine
// too. s.mu is held.
func (s *Server) dismiss(g *gate) {
	if g.held == 0 {
		return
	}
	ctx, end := context.WithTimeout(s.serving, s.grace())
	s.wg.Go(func() {
		defer end()
		s.usher(ctx, func(c *exchange.Conn) bool {
			ci, ok := c.Policy.(*connInfo)
			return ok && ci.at != nil && ci.at.tenure == g.tenure
		}, func() []*trackedConn { return s.of(g) })
	})
}

// of are the connections of a gate.
func (s *Server) of(g *gate) []*trackedConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.held == 0 {
		return nil
	}
	var list []*trackedConn
	for c := range s.conns {
		if c.facts.at.tenure == g.tenure {
			list = append(list, c)
		}
	}
	return list
}
