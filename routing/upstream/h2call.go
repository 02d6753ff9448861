package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// share sends the request on a connection that others use too, and reads the response
// head: what ride does for HTTP/1.1.
func (k *call) share(s *stack, t *target, host string) *fault {
	k.told, k.target, k.sent, k.heard = s.id.addr.String(), t, nil, false
	ctx := k.x.Ctx
	if !k.tryBy.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, k.tryBy)
		defer cancel()
	}
	watch := k.x.WatchClient
	if k.watched || k.body.stream != nil { // whose reader sees the client go
		watch = nil
	}
	once := !k.body.replayable() || !idempotent(k.x.Request.Method)
	var st *h2stream
	var reused bool
	for {
		var err error
		st, reused, err = s.ride(ctx, k.cluster, k.lastShared, func() {
			if watch != nil {
				k.watched = true
				watch()
			}
		})
		if err != nil {
			return unconnected(err)
		}
		if !reused || !once || st.c.look(ctx) {
			break
		}
		st.end() // its connection takes no more: another one is looked for
	}
	k.stream, k.lastShared = st, st.c
	f := k.sendShared(host)
	if f == nil {
		f = k.receiveShared()
	}
	if f != nil {
		st.c.mu.Lock()
		refused := st.refused || st.id == 0
		st.c.mu.Unlock()
		if refused && f.kind == faultBroken && k.body.replayable() {
			f.sent = false // the target has not looked at it, as it says itself or cannot have
		}
		f.stale = f.kind == faultBroken && (refused || reused && !k.heard && !f.timeout)
		k.leaveShared()
		return f
	}
	k.x.UpstreamReused = reused
	k.cluster.balancer.answered(t, k.x.Response.Status)
	return nil
}

// sendShared queues the head and what the windows let go of a body that is at hand.
// The rest, and bodies that stream, get a sender of their own.
func (k *call) sendShared(host string) *fault {
	lines, err := k.h2lines(host)
	if err != nil {
		return &fault{kind: faultHere, err: fmt.Errorf("writing a request head: %w", err)}
	}
	b, st := &k.body, k.stream
	c := st.c
	c.mu.Lock()
	if c.dead != nil || c.gone {
		defer c.mu.Unlock()
		err := c.dead
		if err == nil {
			err = errH2Gone
		}
		return &fault{kind: faultBroken, err: fmt.Errorf("writing to %s: %w", c.address, err)}
	}
	st.bare = k.x.Request.Method == "HEAD"
	st.begin(lines, b.empty())
	var rest []byte
	whole := b.empty()
	if b.inMemory() && !whole && b.trailers == nil {
		rest = b.memory[st.push(b.memory, true):]
		whole = st.localEnded
	}
	c.flush()
	c.mu.Unlock()
	if !whole {
		k.sent = &h2sender{st: st, body: b, rest: rest, write: k.cluster.write, done: make(chan struct{})}
		go k.sent.run()
	}
	return nil
}

// h2lines are the pseudo fields and fields of the request, in their order.
func (k *call) h2lines(host string) ([]hpack.HeaderField, error) {
	o, r := k.out, &k.x.Request
	scheme := "http"
	if k.cluster.tls != nil {
		scheme = "https"
	}
	if !wire.IsToken(r.Method) || !wire.Plain(o.URI) || !wire.Plain(host) {
		return nil, errors.New("the method, the target or the host has a character that none may have")
	}
	n := 8
	for _, f := range [...]*exchange.Fields{o.Before, o.Fields} {
		if f != nil {
			n += f.Len()
		}
	}
	lines := append(make([]hpack.HeaderField, 0, n),
		hpack.HeaderField{Name: ":method", Value: r.Method}, hpack.HeaderField{Name: ":scheme", Value: scheme},
		hpack.HeaderField{Name: ":path", Value: o.URI}, hpack.HeaderField{Name: ":authority", Value: host})
	var err error
	for _, f := range [...]*exchange.Fields{o.Before, o.Fields} {
		if lines, err = appendLines(lines, f); err != nil {
			return nil, err
		}
	}
	if k.cluster.talks(r) && !slices.ContainsFunc(lines, func(l hpack.HeaderField) bool { return l.Name == "te" }) {
		lines = append(lines, hpack.HeaderField{Name: "te", Value: "trailers"})
	}
	if k.body.length >= 0 && k.body.announced {
		lines = append(lines, hpack.HeaderField{Name: "content-length", Value: strconv.FormatInt(k.body.length, 10)})
	}
	return lines, nil
}

// appendLines appends fields in the form of HTTP/2. Credentials are never indexed, here
// or further on.
func appendLines(lines []hpack.HeaderField, f *exchange.Fields) ([]hpack.HeaderField, error) {
	for i := 0; f != nil && i < f.Len(); i++ {
		l := f.At(i)
		name := strings.ToLower(l.Name)
		switch name {
		case "host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "content-length", "http2-settings":
			continue
		case "te":
			if !exchange.EqualFold(l.Value, "trailers") { // RFC 9113, section 8.2.2
				continue
			}
		}
		if !wire.IsToken(name) || !wire.Plain(l.Value) {
			return lines, fmt.Errorf("field %q has a character that none may have", name)
		}
		secret := name == "authorization" || name == "cookie" || name == "proxy-authorization" || name == "apikey"
		lines = append(lines, hpack.HeaderField{Name: name, Value: l.Value, Sensitive: secret})
	}
	return lines, nil
}

// receiveShared waits for the final head, and passes interim ones on.
func (k *call) receiveShared() *fault {
	st := k.stream
	for {
		st.c.mu.Lock()
		var h *h2head
		if len(st.heads) > 0 {
			h, st.heads = st.heads[0], st.heads[1:]
		}
		dead, invalid := st.dead, st.invalid
		empty := st.remoteEnded && len(st.in) == 0 && len(st.trailer) == 0
		st.c.mu.Unlock()
		switch {
		case h != nil && h.status < 200:
			k.heard = true
			if f := k.passOnShared(h); f != nil {
				return f
			}
		case h != nil:
			k.acceptShared(h, empty)
			return nil
		case dead != nil && k.expired():
			k.acceptShared(&h2head{status: 200, fields: append([]exchange.Field{{Name: "content-type", Value: "application/grpc"}}, lateStatus()...), ended: true}, true)
			return nil
		case dead != nil:
			return k.lostShared(dead, invalid)
		default:
			if err := k.awaitShared(); err != nil {
				return k.lostShared(err, false)
			}
		}
	}
}

// lostShared is the fault of a stream that ended before its response head.
func (k *call) lostShared(err error, invalid bool) *fault {
	if k.sent != nil {
		k.sent.stop(&k.x.Request)
		if f := k.sent.f; f != nil && (f.kind != faultBroken || f.timeout) {
			return f
		}
	}
	kind := faultBroken
	if invalid {
		kind = faultInvalid
	}
	if k.x.Ctx.Err() != nil {
		kind = faultClient
	}
	return &fault{kind: kind, err: err, sent: true, timeout: errors.Is(err, errTimeout)}
}

// passOnShared sends an interim response on to the client, but for 100.
func (k *call) passOnShared(h *h2head) *fault {
	if h.status == 100 || k.x.Interim == nil {
		return nil
	}
	var fields exchange.Fields
	for _, f := range h.fields {
		fields.Add(f.Name, f.Value)
	}
	if err := k.x.Interim(h.status, &fields); err != nil {
		return &fault{kind: faultClient, err: fmt.Errorf("sending an interim response: %w", err), sent: true}
	}
	return nil
}

// acceptShared makes x.Response of the final head.
func (k *call) acceptShared(h *h2head, empty bool) {
	x, r := k.x, &k.x.Response
	k.now = x.Now()
	x.UpstreamHead, k.tryBy, k.heard = k.now, k.wholeBy, true
	r.Status, r.FromUpstream = h.status, true
	for _, f := range h.fields {
		r.Fields.Add(f.Name, f.Value)
	}
	r.Length = k.stream.length
	if k.sent != nil && !k.sent.ended() && x.Request.Version < exchange.HTTP2 {
		r.Close = true // the client's body may never be read to its end
	}
	if h.ended || empty {
		if r.Length < 0 && !k.stream.bare && x.Request.Version < exchange.HTTP2 {
			r.Length = 0
		}
		k.finishShared()
		return
	}
	r.Body = k
}

// awaitShared waits until something comes on the stream, within the read timeout, which does
// not run while the request is still being sent.
func (k *call) awaitShared() error {
	began := k.x.Now()
	now := began
	for {
		var sent <-chan struct{}
		wait := k.cluster.read - now.Sub(began)
		if k.sent != nil && !k.sent.over() {
			sent, began, wait = k.sent.done, now, k.cluster.read
		}
		if !k.tryBy.IsZero() {
			wait = min(wait, k.tryBy.Sub(now))
		}
		if wait <= 0 {
			return fmt.Errorf("reading from %s: %w after %v", k.told, errTimeout, now.Sub(began))
		}
		watching := sent != nil || k.watched || k.x.WatchClient == nil
		if !watching {
			wait = min(wait, patience)
		}
		timer := time.NewTimer(wait)
		select {
		case <-k.stream.came:
			timer.Stop()
			return nil
		case <-sent:
			timer.Stop()
		case <-timer.C:
			if !watching {
				k.watched = true
				k.x.WatchClient()
			}
		case <-k.x.Ctx.Done():
			timer.Stop()
			return fmt.Errorf("awaiting %s: %w", k.told, context.Cause(k.x.Ctx))
		}
		now = time.Now()
	}
}

// readShared reads the response's body. At its end the place is given back.
func (k *call) readShared(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if err := k.overdue(); err != nil {
			return 0, k.endShared(err)
		}
		n, more := k.stream.read(p)
		if n > 0 {
			return n, nil
		}
		if more {
			if err := k.awaitShared(); err != nil {
				return 0, k.endShared(fmt.Errorf("reading the response body of %s: %w", k.told, err))
			}
			continue
		}
		st := k.stream
		st.c.mu.Lock()
		whole, err := st.remoteEnded, st.dead
		st.c.mu.Unlock()
		trailer := st.trailer
		if !whole && k.expired() {
			whole, trailer = true, lateStatus()
		}
		if whole {
			for _, f := range trailer {
				k.x.Response.Trailer.Add(f.Name, f.Value)
			}
			return 0, k.endShared(io.EOF)
		}
		return 0, k.endShared(fmt.Errorf("reading the response body of %s: %w", k.told, err))
	}
}

// overdue says that the response has had its time, even while it comes without a pause.
func (k *call) overdue() error {
	switch {
	case k.out.Timed && k.x.Ctx.Err() != nil:
		return fmt.Errorf("reading the response body of %s: %w", k.told, context.Cause(k.x.Ctx))
	case !k.tryBy.IsZero() && !time.Now().Before(k.tryBy):
		return fmt.Errorf("reading the response body of %s: %w", k.told, errTimeout)
	}
	return nil
}

func (k *call) endShared(err error) error {
	k.end = err
	k.finishShared()
	return err
}

// finishShared ends the exchange with the target.
func (k *call) finishShared() {
	if k.stream == nil {
		return
	}
	k.leaveShared()
	if !k.hold {
		k.body.free()
	}
	k.cluster.balancer.leave(k.target)
}

// waitingShared says that nothing of the body is there.
func (k *call) waitingShared() bool {
	st := k.stream
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	return len(st.in) == 0 && !st.remoteEnded && st.dead == nil
}

// leaveShared ends the sender and gives the place on the connection back.
func (k *call) leaveShared() {
	st := k.stream
	k.stream = nil
	if k.sent != nil {
		k.sent.stop(&k.x.Request)
	}
	st.end()
}

// h2sender sends a body that did not go with the head, in a goroutine of its own.
type h2sender struct {
	st       *h2stream
	body     *payload
	rest     []byte // of a body in memory
	write    time.Duration
	stopping atomic.Bool
	done     chan struct{}
	f        *fault // valid once done is closed
}

func (u *h2sender) over() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// ended says that the whole request was queued.
func (u *h2sender) ended() bool {
	u.st.c.mu.Lock()
	defer u.st.c.mu.Unlock()
	return u.st.localEnded && !u.st.stopped
}

// run sends. When it can't, the stream ends, so that nobody waits for an answer.
func (u *h2sender) run() {
	defer close(u.done)
	if u.rest != nil {
		u.f = u.st.send(u.rest, true, nil, u.write)
	} else {
		u.f = u.copy()
	}
	if u.f != nil && (u.f.kind != faultBroken || u.f.timeout) {
		u.st.c.mu.Lock()
		u.st.kill(u.f.err, false)
		u.st.c.mu.Unlock()
	}
}

// copy sends what the body's source gives, piece by piece.
func (u *h2sender) copy() *fault {
	b := u.body
	buf := b.pools.buffer()
	defer b.pools.giveBack(buf)
	src, sent := b.source(), int64(0)
	for {
		if u.stopping.Load() {
			return stopped()
		}
		b.touched = true
		n, err := src.Read(buf)
		if sent += int64(n); err == nil && n > 0 && n < len(buf) && sent == b.length {
			var more int // the end is due: it is sent along
			more, err = src.Read(buf[n:])
			n, sent = n+more, sent+int64(more)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			if u.stopping.Load() {
				return stopped() // the read failed because it was told to
			}
			return u.clientFault(err)
		}
		ended := err != nil
		if b.length >= 0 && (sent > b.length || ended && sent < b.length) {
			return u.clientFault(fmt.Errorf("%w: announced %d, got %d", errBodyLength, b.length, sent))
		}
		if n == 0 && !ended {
			continue
		}
		var lines []hpack.HeaderField
		if ended && b.trailers != nil && b.trailers.Len() > 0 {
			if lines, err = appendLines(make([]hpack.HeaderField, 0, b.trailers.Len()), b.trailers); err != nil {
				return u.clientFault(err)
			}
		}
		if n > 0 || lines == nil {
			if f := u.st.send(buf[:n], ended && lines == nil, nil, u.write); f != nil {
				return f
			}
		}
		if lines != nil {
			return u.st.send(nil, true, lines, u.write)
		}
		if ended {
			return nil
		}
	}
}

// clientFault blames the client, except for the file that this node keeps itself.
func (u *h2sender) clientFault(err error) *fault {
	if u.body.stream == nil {
		return &fault{kind: faultHere, err: fmt.Errorf("reading a spooled request body: %w", err), sent: true}
	}
	return &fault{kind: faultClient, err: blame(err), sent: true}
}

// stop ends a sender that is still going, and waits for it.
func (u *h2sender) stop(r *exchange.Request) {
	if u.over() || u.ended() {
		<-u.done
		return
	}
	u.stopping.Store(true)
	u.st.c.mu.Lock()
	u.st.stopped = true
	wake(u.st.opened)
	u.st.c.mu.Unlock()
	if u.body.stream != nil && r.StopBody != nil {
		r.StopBody()
	}
	<-u.done
}
