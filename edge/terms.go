package edge

import (
	"context"
	"errors"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/upstream"
)

// terms are what a route says of its requests' way to the service, beyond the service.
type terms struct {
	within   time.Duration      // for the whole request, 0 for no limit
	retrying *upstream.Retrying // nil for the service's
	mirrors  []*mirror
}

// terms compiles those of a route to one of its services; nil where it says nothing.
func (w *build) terms(r *routing.Route, b *binding) *terms {
	s := r.Spec
	if s.Timeouts == nil && s.Retry == nil && len(s.Mirrors) == 0 {
		return nil
	}
	t := &terms{mirrors: w.mirrors(r)}
	var attempt time.Duration
	if s.Timeouts != nil {
		t.within, attempt = time.Duration(s.Timeouts.Request)*time.Millisecond, time.Duration(s.Timeouts.Attempt)*time.Millisecond
	}
	if b.cluster != nil && (s.Retry != nil || attempt > 0) {
		t.retrying = b.cluster.Retrying(s.Retry, attempt)
	}
	return t
}

var errRequestTime = errors.New("the time that x_keyway_timeouts has for a request is over")

// clock is the limit of time of one request.
type clock struct {
	whole  context.Context //nolint:containedctx // what the exchange has again when this is over
	end    context.CancelFunc
	unbody func() bool   // takes back the watch over the request's body, nil for none
	body   chan struct{} // closed when that watch has run
}

// limitTime ends the exchange's context when its time is over.
func (r *request) limitTime(within time.Duration) {
	x := r.x
	from := x.HeadDone
	if from.IsZero() {
		from = x.Start
	}
	ctx, cancel := context.WithDeadlineCause(x.Ctx, from.Add(within), errRequestTime)
	c := &clock{whole: x.Ctx, end: cancel}
	x.Ctx, r.context.Ctx, r.clock = ctx, ctx, c
	stop := x.Request.StopBody
	if !x.Request.HasBody() || stop == nil {
		return
	}
	c.body = make(chan struct{})
	c.unbody = context.AfterFunc(ctx, func() {
		defer close(c.body)
		stop() // a client that sends slowly must not hold up the answer
	})
}

// unlimit takes the limit back: a request that became a conversation has no end.
func (r *request) unlimit() {
	if c := r.clock; c != nil {
		c.stop(r.x)
		r.context.Ctx, r.clock = r.x.Ctx, nil
	}
}

// late says that the request's time is over.
func (r *request) late() bool {
	return r.clock != nil && errors.Is(context.Cause(r.x.Ctx), errRequestTime)
}

// stop gives the exchange its own context back. Whoever stops the body is waited for: the
// next request on the connection has another one.
func (c *clock) stop(x *exchange.Exchange) {
	if c.unbody != nil && !c.unbody() {
		<-c.body
	}
	c.end()
	x.Ctx = c.whole
}

// settle ends what a route's terms began for a request.
func (r *request) settle() {
	r.unlimit()
	for i, p := range r.passages {
		p.cut()
		r.passages[i] = nil
	}
	r.passages = r.passages[:0]
}
