package upstream

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Retrying is how often, when and for how long targets are tried: what a service's
// x_keyway_retry says, or a route's. Immutable.
type Retrying struct {
	retries  int           // tries after the first
	statuses statusSet     // answers after which another target is tried
	some     bool          // there are such statuses
	hedge    time.Duration // after which a second target is asked too; 0 for never
	try      time.Duration // for one try, until its response head; 0 for the read timeout
	backoff  time.Duration // between two tries, at the least
	attempt  time.Duration // for one try, until the end of its response; 0 for no limit
}

func newRetrying(r *spec.Retry, retries int) Retrying {
	if r == nil {
		return Retrying{retries: retries}
	}
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	out := Retrying{retries: retries, some: len(r.OnStatuses) > 0, try: ms(r.TryTimeout), hedge: ms(r.HedgeAfter), backoff: ms(r.Backoff)}
	if r.Attempts != nil {
		out.retries = *r.Attempts
	}
	out.statuses.add(r.OnStatuses)
	return out
}

// Retrying is how requests of one route are tried: as its own retry says, nil for as the
// service's does, and each try within attempt, 0 for no limit.
func (cl *Cluster) Retrying(own *spec.Retry, attempt time.Duration) *Retrying {
	r := cl.retry
	if own != nil {
		r = newRetrying(own, cl.retries)
	}
	r.attempt = attempt
	return &r
}

// Once is one try, at one target.
func Once() *Retrying { return &Retrying{} }

// retrying is what holds for this request.
func (k *call) retrying() *Retrying {
	if r := k.out.Retrying; r != nil {
		return r
	}
	return &k.cluster.retry
}

// spare says that after this try there may be another, whatever becomes of it: the
// request does no harm twice, its body is at hand, and tries are left.
func (k *call) spare(tries int) bool {
	return tries < k.retrying().retries && idempotent(k.x.Request.Method) && k.body.replayable() && k.x.Request.Upgrade == ""
}

// unwanted says that a response is to be dropped for another try.
func (k *call) unwanted(tries int) bool {
	r := k.retrying()
	return r.some && r.statuses.has(k.x.Response.Status) && k.spare(tries) && k.cluster.balancer.pay()
}

// drop lets go of a response for another try.
func (k *call) drop() {
	r := &k.x.Response
	if c, ok := r.Body.(io.Closer); ok {
		_ = c.Close()
	}
	fields, trailer := r.Fields, r.Trailer
	fields.Reset()
	trailer.Reset()
	*r = exchange.Response{Fields: fields, Trailer: trailer}
}

// again says whether another target may be tried after a fault, and pays for it.
func (k *call) again(f *fault) bool {
	switch f.kind {
	case faultConnect:
		return !f.sent
	case faultBroken:
		return k.replayable(f) && (!f.sent || k.cluster.balancer.pay())
	default:
		return false
	}
}

// run tries targets until one answers or nothing more may be tried.
func (k *call) run() error {
	b, rules := k.cluster.balancer, k.retrying()
	b.budget.earn(b.traits.RetryBudget)
	var room [4]*target
	tried := append(room[:0], k.avoid...)
	var w wish
	cookie := ""
	switch b.method {
	case consistentHashing:
		w.key, w.keyed, cookie = b.hash.key(k.x, k.out)
	case stickySessions:
		k.held = b.held(&k.x.Request.Fields)
	}
	var last *fault
	for tries := k.used; tries <= rules.retries; {
		if last != nil && rules.backoff > 0 {
			if err := k.pause(rules.backoff); err != nil {
				return (&fault{kind: faultClient, err: err}).answer()
			}
		}
		w.tried = tried
		t, trial, err := k.seat(w, k.spare(tries))
		if err != nil {
			return k.noSeat(err)
		}
		if t == nil {
			break
		}
		addr, err := k.address(t)
		if err != nil {
			k.unseat(t, trial, trialVoid)
			if !b.named {
				return k.unresolved(err)
			}
			// A name without addresses is not a try: there is nothing to connect to.
			if slices.Contains(tried, t) || len(tried) >= len(b.current().all) {
				break
			}
			tried = append(tried, t)
			continue
		}
		if k.leg != nil {
			k.leg.at.Store(t)
		}
		again := k.spare(tries)
		tries++
		tried = append(tried, t)
		k.hold = rules.some && again
		f := k.visit(t, addr, again)
		if trial {
			b.concluded(t, b.outcomeOf(f, k.x.Response.Status))
		}
		if f == nil {
			if !k.unwanted(tries - 1) {
				if b.method == stickySessions {
					cookie = b.bind(k.held, t, addr, k.out.Secure)
				}
				k.keep(cookie)
				return nil
			}
			k.drop()
			last = &fault{kind: faultInvalid, err: errUnwanted}
			continue
		}
		last = f
		b.failed(t, f)
		if !k.again(f) {
			break
		}
	}
	if last == nil {
		return &Error{503, messageNoPeer, errNoTarget(b)}
	}
	return last.answer()
}

// pause waits between two tries.
func (k *call) pause(d time.Duration) error {
	if !k.watched && k.x.WatchClient != nil && k.body.stream == nil {
		k.watched = true
		k.x.WatchClient()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	k.now = time.Time{}
	select {
	case <-timer.C:
		return nil
	case <-k.x.Ctx.Done():
		return fmt.Errorf("waiting before another try: %w", context.Cause(k.x.Ctx))
	}
}

// keep makes the response that came the one of the request.
func (k *call) keep(cookie string) {
	if cookie != "" {
		k.x.Response.Fields.Add("Set-Cookie", cookie)
	}
	if k.hold && k.conn == nil && k.stream == nil {
		k.body.free() // the response had no body: everything is over
	}
	k.hold = false
}

// unseat gives a place back that was not used.
func (k *call) unseat(t *target, trial bool, o outcome) {
	k.cluster.balancer.leave(t)
	if trial {
		k.cluster.balancer.concluded(t, o)
	}
}
