package edge

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/upstream"
)

// Limits of copies (x_keyway_mirrors): what one may take is taken from nobody's own request.
const (
	mirrorsAtOnce = 256
	mirrorTime    = time.Minute // for one, from its beginning to its end
	mirrorAhead   = 1 << 20     // bytes of a body that the copy's service has not taken yet
	mirrorHeld    = 64 << 20    // the same of all copies together
	mirrorDrain   = 1 << 20     // bytes of an answer that are read so that its connection can serve again
)

// What became of a copy, as metrics have it.
const (
	mirrorAnswered = iota // the service answered, whatever it said
	mirrorFailed          // it did not
	mirrorCrowded         // too many copies were under way
	mirrorBehind          // it took the body too slowly
)

var mirrorResults = [...]string{"answered", "failed", "crowded", "behind"}

// Mirrors counts the copies of requests and holds them to their limits. The zero value is ready.
type Mirrors struct {
	open   atomic.Int64
	held   atomic.Int64 // bytes of bodies
	counts [len(mirrorResults)]atomic.Uint64
}

// Results is how many copies ended how; results without any are left out.
func (m *Mirrors) Results() map[string]uint64 {
	counts := make(map[string]uint64)
	for i, name := range mirrorResults {
		if n := m.counts[i].Load(); n > 0 {
			counts[name] = n
		}
	}
	return counts
}

// mirror is one service that gets copies of a route's requests. Immutable but for its turns.
type mirror struct {
	to                     binding // without a chain: no plugin sees a copy
	turns                  turns
	numerator, denominator uint64
}

// mirrors compiles those of a route.
func (w *build) mirrors(r *routing.Route) []*mirror {
	var list []*mirror
	for _, m := range r.Spec.Mirrors {
		s := w.service(m.Service)
		if s == nil || m.Numerator == 0 {
			continue
		}
		one := &mirror{numerator: uint64(m.Numerator), denominator: uint64(m.Denominator)}
		one.to = binding{route: r, service: s, cluster: w.next.Upstreams.Cluster(s.ID), auth: w.next.auths[s.ID]}
		one.turns.begin()
		list = append(list, one)
	}
	return list
}

// mirror sends copies of a request as it is about to be sent, without the credential of
// its own service.
func (h *Handler) mirror(r *request, list []*mirror) {
	if r.x.Request.Upgrade != "" {
		return // two ends of a conversation cannot be copied
	}
	for _, m := range list {
		if m.turns.next(m.denominator) >= m.numerator {
			continue
		}
		if h.mirrors.open.Add(1) > mirrorsAtOnce {
			h.mirrors.open.Add(-1)
			h.mirrors.counts[mirrorCrowded].Add(1)
			continue
		}
		go h.dispatch(h.copy(r, m))
	}
}

// duplicate is one copy: a request of its own, which nobody waits for.
type duplicate struct {
	request
	end  context.CancelFunc
	body *passage // nil for none
}

// copy makes one. All that the client's request will use again is copied.
func (h *Handler) copy(r *request, m *mirror) *duplicate {
	from := r.x
	d := &duplicate{}
	x := &exchange.Exchange{Conn: from.Conn, Start: time.Now(), RequestID: from.RequestID}
	x.Ctx, d.end = context.WithTimeout(context.WithoutCancel(from.Ctx), mirrorTime)
	d.x, d.snap, d.bind, d.lead = x, r.snap, &m.to, r.lead
	q, p := &x.Request, &from.Request
	q.Method, q.Scheme, q.Host, q.Target, q.Path, q.Query, q.HasQuery = p.Method, p.Scheme, p.Host, p.Target, p.Path, p.Query, p.HasQuery
	q.Version, q.Length, q.LengthGiven, q.Body = p.Version, p.Length, p.LengthGiven, exchange.NoBody
	q.Fields.CopyFrom(&p.Fields)
	d.before.CopyFrom(&r.before)
	d.fields.CopyFrom(&r.fields)
	d.out = upstream.Outgoing{
		URI: r.out.URI, Host: r.out.Host, HostDefault: r.out.HostDefault, Before: &d.before, Fields: &d.fields, Lead: r.lead,
		Client: r.out.Client, Consumer: r.out.Consumer, Captures: slices.Clone(r.out.Captures), Retrying: upstream.Once(), Timed: true,
	}
	if p.HasBody() {
		d.body = newPassage(&h.mirrors.held, q, d.end)
		q.Body, q.StopBody = d.body, d.body.abandon
		p.Body = &tap{from: p.Body, trailer: &p.Trailer, to: d.body}
		r.passages = append(r.passages, d.body)
	}
	return d
}

// dispatch sends one copy and drops its answer.
func (h *Handler) dispatch(d *duplicate) {
	defer h.mirrors.open.Add(-1)
	defer d.end()
	result := mirrorFailed
	defer func() {
		if p := recover(); p != nil {
			h.log.Error("mirrored request panicked", slog.String("request_id", d.x.RequestID), slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
		}
		if d.body != nil {
			d.body.abandon()
		}
		h.mirrors.counts[result].Add(1)
	}()
	err := h.duplicated(d)
	switch {
	case err == nil:
		result = mirrorAnswered
		drain(d.x.Response.Body)
		return
	case d.body != nil && d.body.behind():
		result = mirrorBehind
	}
	h.log.Debug("mirrored request failed", slog.String("request_id", d.x.RequestID), slog.String("service", d.bind.service.Name), slog.Any("error", err))
}

func (h *Handler) duplicated(d *duplicate) error {
	if a := d.bind.auth; a != nil {
		if a.closed != nil {
			return a.closed
		}
		if err := h.authorize(&d.request, a); err != nil {
			return err
		}
	}
	return d.bind.cluster.Do(d.x, &d.out)
}

// drain reads a short answer to its end, so that its connection can serve again.
func drain(body io.Reader) {
	if body == nil {
		return
	}
	_, _ = io.CopyN(io.Discard, body, mirrorDrain)
	if c, ok := body.(io.Closer); ok {
		_ = c.Close()
	}
}
