package upstream

import (
	"io"
	"slices"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// retrying is what a service's x_keyway_retry says. Immutable.
type retrying struct {
	statuses statusSet     // answers after which another target is tried
	some     bool          // there are such statuses
	hedge    time.Duration // after which a second target is asked too; 0 for never
	try      time.Duration // for one try, until its response head; 0 for the read timeout
}

func newRetrying(r *spec.Retry) retrying {
	if r == nil {
		return retrying{}
	}
	out := retrying{some: len(r.OnStatuses) > 0, try: time.Duration(r.TryTimeout) * time.Millisecond, hedge: time.Duration(r.HedgeAfter) * time.Millisecond}
	out.statuses.add(r.OnStatuses)
	return out
}

// spare says that after this try there may be another, whatever becomes of it: the
// request does no harm twice, its body is at hand, and tries are left.
func (k *call) spare(tries int) bool {
	return tries < k.cluster.retries && idempotent(k.x.Request.Method) && k.body.replayable() && k.x.Request.Upgrade == ""
}

// unwanted says that a response is to be dropped for another try.
func (k *call) unwanted(tries int) bool {
	r := &k.cluster.retry
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
	cl, b := k.cluster, k.cluster.balancer
	b.budget.earn(b.traits.RetryBudget)
	var room [4]*target
	tried := append(room[:0], k.avoid...)
	var w wish
	cookie := ""
	if b.method == consistentHashing {
		w.key, w.keyed, cookie = b.hash.key(k.x, k.out)
	}
	var last *fault
	for tries := k.used; tries <= cl.retries; {
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
		k.hold = cl.retry.some && again
		f := k.visit(t, addr, again)
		if trial {
			b.concluded(t, b.outcomeOf(f, k.x.Response.Status))
		}
		if f == nil {
			if !k.unwanted(tries - 1) {
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
