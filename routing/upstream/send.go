package upstream

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// send writes the head and, where it is at hand and small, the body with it.
// Larger bodies get an upload.
func (k *call) send(host string) *fault {
	c, b := k.conn, &k.body
	if c.buf == nil {
		c.buf = k.cluster.pools.buffer()
	}
	c.r, c.w = 0, 0
	// What is read comes after what is written: one buffer serves for both.
	out, err := k.appendHead(c.buf[:0], host)
	if err != nil {
		return &fault{kind: faultHere, err: fmt.Errorf("writing a request head: %w", err)}
	}
	together := b.together()
	if together {
		out = append(out, b.memory...)
	}
	rest, f := k.swap(out)
	if f == nil && len(rest) > 0 {
		f = c.writeAll(rest, k.within(k.cluster.write), k.now)
		if f != nil {
			f.sent = f.sent || len(rest) < len(out)
		}
	}
	if f == nil && !together {
		k.start()
	}
	if f != nil && f.sent && !f.timeout {
		// The target may have answered before it closed, for example that the
		// request is too large. receive finds out.
		k.broken = f
		return nil
	}
	return f
}

// within is a limit of time, no longer than what this try has left.
func (k *call) within(limit time.Duration) time.Duration {
	if k.tryBy.IsZero() {
		return limit
	}
	return max(min(limit, time.Until(k.tryBy)), time.Millisecond)
}

// together says that the body goes along with the head.
func (b *payload) together() bool {
	return b.empty() || b.inMemory() && b.length >= 0 && len(b.memory) <= bufferSize
}

// swaps says whether sending the request and taking in the first bytes of the answer
// can be one step on a connection, and is worth it.
func (k *call) swaps(c *conn) bool {
	return !c.secure && k.leg == nil && k.tryBy.IsZero() && k.body.together()
}

// swap makes that step. It answers what is still to be written.
func (k *call) swap(out []byte) (rest []byte, f *fault) {
	c := k.conn
	if !k.swaps(c) {
		return out, nil
	}
	c.readWithin(k.now, patience)
	sent, n, err := c.sock.swap(out, c.buf, k.probe)
	if errors.Is(err, errNoise) {
		return nil, &fault{kind: faultBroken, err: fmt.Errorf("writing to %s: %w", c.address, err)}
	}
	c.w += n
	k.heard = k.heard || n > 0
	if err != nil && !isTimeout(err) {
		k.ended = err
		if !errors.Is(err, io.EOF) {
			k.ended = fmt.Errorf("reading from %s: %w", c.address, err)
		}
	}
	return out[sent:], nil
}

// appendHead writes the request line and fields in their order on the wire.
func (k *call) appendHead(dst []byte, host string) ([]byte, error) {
	o, r, b := k.out, &k.x.Request, &k.body
	dst, err := wire.AppendRequestLine(dst, r.Method, o.URI)
	put := func(name, value string) {
		if err == nil {
			dst, err = wire.AppendField(dst, name, value)
		}
	}
	list := func(f *exchange.Fields, from, to int) {
		for i := from; f != nil && i < min(to, f.Len()); i++ {
			line := f.At(i)
			put(line.Name, line.Value)
		}
	}
	const all = int(^uint(0) >> 1)
	list(o.Before, 0, all)
	put("Host", host)
	if r.Upgrade != "" {
		put("Upgrade", r.Upgrade)
		put("Connection", "keep-alive, Upgrade")
	} else {
		put("Connection", "keep-alive")
	}
	list(o.Fields, 0, o.Lead)
	switch {
	case b.length < 0:
		put("Transfer-Encoding", "chunked")
	case b.announced:
		put("Content-Length", strconv.FormatInt(b.length, 10))
	}
	list(o.Fields, o.Lead, all)
	return append(dst, '\r', '\n'), err
}

// writeAll writes within the write timeout, begun anew while there is progress.
func (c *conn) writeAll(p []byte, timeout time.Duration, now time.Time) *fault {
	sent := false
	for ; ; now = time.Now() {
		c.writeWithin(now, timeout)
		n, err := c.rw.Write(p)
		sent = sent || n > 0
		if err == nil {
			return nil
		}
		late := isTimeout(err)
		if late && n > 0 && n < len(p) && !c.secure {
			p = p[n:]
			continue
		}
		if late {
			err = fmt.Errorf("writing to %s: %w after %v", c.address, errTimeout, timeout)
		} else {
			err = fmt.Errorf("writing to %s: %w", c.address, err)
		}
		// Over TLS a failed write may have sent a part and tells nothing of it.
		return &fault{kind: faultBroken, err: err, sent: sent || c.secure, timeout: late}
	}
}
