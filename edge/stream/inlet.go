package stream

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/handover"
)

// inlet is a listener of datagrams.
type inlet struct {
	*handover.UDP
	name    atomic.Pointer[string] // for logs and metrics
	closing atomic.Bool            // no session begins any more; set under Packets.mu

	held int                // sessions; of Packets.mu
	keep context.CancelFunc // ends the closing; of Packets.mu
}

// open opens a listener.
func (p *Packets) open(ctx context.Context, purpose, name, address string) (*inlet, error) {
	c, err := p.Sockets.ListenPacket(ctx, purpose, address)
	if err != nil {
		return nil, err
	}
	in := &inlet{UDP: c}
	in.name.Store(&name)
	c.Clients = func() []netip.AddrPort { return p.of(in) }
	return in, nil
}

// begin reads from the listeners that are open, and from those that are opened later.
func (p *Packets) begin(serving context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serving = serving
	for _, in := range p.inlets {
		p.start(in)
	}
	for _, in := range p.declared {
		p.start(in)
	}
}

// start reads from a listener. p.mu is held.
func (p *Packets) start(in *inlet) {
	serving := p.serving
	p.reading.Go(func() { p.read(serving, in) })
}

// all are the listeners that are open.
func (p *Packets) all() []*inlet {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := slices.Clone(p.inlets)
	for _, in := range p.declared {
		list = append(list, in)
	}
	return list
}

// Open opens a listener of documents. One that is still closing is kept.
func (p *Packets) Open(ctx context.Context, l *edge.Listen) error {
	name := l.Name()
	p.mu.Lock()
	in := p.declared[l.Address]
	if in != nil {
		in.name.Store(&name)
		if in.closing.Load() {
			in.keep()
			in.closing.Store(false)
		}
	}
	p.mu.Unlock()
	if in != nil {
		return nil
	}
	in, err := p.open(ctx, edge.PurposeDeclared, name, l.Address)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining.Load() {
		_ = in.Close()
		p.Sockets.Forget(in.Name())
		return edge.ErrStopping
	}
	p.declared[l.Address] = in
	if p.serving != nil { // before Run it waits for that
		p.start(in)
	}
	return nil
}

// Shut closes a listener of documents: sessions begin no more, and those that are under
// way end when they have been silent for a moment, or when the grace period is over.
func (p *Packets) Shut(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.declared[address]
	if in == nil || in.closing.Load() || p.draining.Load() { // then Run closes it
		return
	}
	in.closing.Store(true)
	if p.serving == nil {
		p.drop(address, in)
		return
	}
	ctx, keep := context.WithTimeout(p.serving, p.Grace)
	kept, cancel := context.WithCancel(ctx)
	in.keep = cancel
	p.reading.Go(func() {
		defer keep()
		defer cancel()
		p.close(ctx, kept, address, in)
	})
}

// close waits for the sessions of a listener and closes it, unless it is wanted again.
func (p *Packets) close(ctx, kept context.Context, address string, in *inlet) {
	p.each(func(s *session) {
		if s.key.in == in {
			s.nudge()
		}
	})
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		p.mu.Lock()
		if in.held == 0 && in.closing.Load() && kept.Err() == nil {
			p.drop(address, in)
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		select {
		case <-look.C:
		case <-kept.Done():
			if ctx.Err() == nil {
				return // it is wanted again
			}
			p.each(func(s *session) {
				if s.key.in == in {
					s.close()
				}
			})
			p.mu.Lock()
			defer p.mu.Unlock()
			if in.closing.Load() {
				p.drop(address, in)
			}
			return
		}
	}
}

// drop closes a listener of documents. p.mu is held.
func (p *Packets) drop(address string, in *inlet) {
	delete(p.declared, address)
	_ = in.Close()
	p.Sockets.Forget(in.Name())
}
