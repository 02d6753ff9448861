package upstream

import (
	"fmt"
	"strconv"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// send writes the head and, where it is at hand and small, the body with it.
// Larger bodies get an upload.
func (k *call) send(host string) *fault {
	pools := k.cluster.pools
	buf := pools.buffer()
	b := &k.body
	out, err := k.appendHead(buf[:0], host)
	if err != nil {
		pools.giveBack(buf)
		return &fault{kind: faultHere, err: fmt.Errorf("writing a request head: %w", err)}
	}
	together := b.empty() || b.inMemory() && b.length >= 0 && len(b.memory) <= bufferSize
	if together {
		out = append(out, b.memory...)
	}
	f := k.conn.writeAll(out, k.cluster.write)
	pools.giveBack(buf)
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
func (c *conn) writeAll(p []byte, timeout time.Duration) *fault {
	sent := false
	for {
		c.writeWithin(time.Now(), timeout)
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
