package upstream

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// A hedged request is sent to a second target when the first is slow to answer, and the
// answer that comes first is taken. Only a service that asks for it (hedge_after) does
// so, for GET and HEAD without a body, and each second request is paid for like a retry.

// leg is one of the two requests, with an exchange of its own.
type leg struct {
	x      exchange.Exchange
	k      call
	at     atomic.Pointer[target] // where it is now
	cancel context.CancelFunc
	err    error
	broke  any // what it panicked with, nil if it did not
	over   bool
}

// ride runs the leg. A panic is its owner's to have: there it ends one request and not
// the process.
func (l *leg) ride(done chan<- *leg) {
	defer func() {
		l.broke = recover()
		done <- l
	}()
	l.err = l.k.run()
}

// hedges says whether the request may be sent twice at once.
func (k *call) hedges() bool {
	r := &k.x.Request
	return k.retrying().hedge > 0 && k.cluster.balancer.method != stickySessions && (r.Method == "GET" || r.Method == "HEAD") && k.body.empty() && r.Upgrade == "" &&
		len(k.cluster.balancer.current().all) > 1
}

// hedged runs the request on one leg, and after a while on a second one too.
func (k *call) hedged() error {
	done := make(chan *leg, 2)
	var wait sync.WaitGroup
	defer wait.Wait() // the loser's connection is closed: it does not take long
	begin := func(avoid []*target, used int, watch func()) *leg {
		l := &leg{}
		l.x = exchange.Exchange{Conn: k.x.Conn, Request: k.x.Request, UpstreamStart: k.x.UpstreamStart, WatchClient: watch}
		l.x.Ctx, l.cancel = context.WithCancel(k.x.Ctx)
		l.k = call{cluster: k.cluster, x: &l.x, out: k.out, body: k.body, leg: l, avoid: avoid, used: used}
		wait.Go(func() { l.ride(done) })
		return l
	}
	first := begin(nil, 0, k.x.WatchClient) // one of the two watches, since it is done once
	legs := []*leg{first}
	slow := time.NewTimer(k.retrying().hedge)
	defer slow.Stop()
	for open := 1; open > 0; {
		select {
		case l := <-done:
			l.over = true
			open--
			if l.broke != nil {
				for _, other := range legs {
					other.cancel()
				}
				panic(l.broke)
			}
			if l.err == nil {
				k.finish(l, legs, done)
				return nil
			}
		case <-slow.C:
			if t := first.at.Load(); t != nil && !first.over && k.cluster.balancer.pay() {
				legs = append(legs, begin([]*target{t}, k.retrying().retries, nil))
				open++
			}
		}
	}
	for _, l := range legs {
		k.x.Attempts = append(k.x.Attempts, l.x.Attempts...)
		l.cancel()
	}
	return legs[0].err
}

// finish takes the winner's response and ends the other leg.
func (k *call) finish(won *leg, legs []*leg, done <-chan *leg) {
	for _, l := range legs {
		if l != won && !l.over {
			l.cancel()
			<-done
			if l.err == nil && l.broke == nil { // it answered at the same time
				if c, ok := l.x.Response.Body.(io.Closer); ok {
					_ = c.Close()
				}
			}
		}
		k.x.Attempts = append(k.x.Attempts, l.x.Attempts...)
	}
	from, to := &won.x.Response, &k.x.Response
	fields, trailer := to.Fields, to.Trailer
	*to = *from
	to.Fields, to.Trailer = fields, trailer
	to.Fields.CopyFrom(&from.Fields)
	k.x.UpstreamHead, k.x.UpstreamReused = won.x.UpstreamHead, won.x.UpstreamReused
	if from.Body == nil {
		won.cancel()
		return
	}
	won.x.WatchClient, won.k.watched = k.x.WatchClient, legs[0].k.watched
	to.Body = &hedgedBody{won, to}
}

// hedgedBody is the winner's body, whose end brings its trailers.
type hedgedBody struct {
	l  *leg
	to *exchange.Response
}

// Read reads the winner's body.
func (b *hedgedBody) Read(p []byte) (int, error) {
	n, err := b.l.k.Read(p)
	if errors.Is(err, io.EOF) {
		b.to.Trailer.CopyFrom(&b.l.x.Response.Trailer)
		b.l.cancel()
	}
	return n, err
}

// Close lets the connection go.
func (b *hedgedBody) Close() error {
	defer b.l.cancel()
	return b.l.k.Close()
}
