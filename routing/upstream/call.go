package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// call is one request under way, and then the body of its response. It is made
// anew for each request, never reused: the engine may close a body twice, and a
// body that was somebody else's by then would cut him off.
type call struct {
	cluster *Cluster
	x       *exchange.Exchange
	out     *Outgoing
	body    payload
	upload  *upload // nil when the body went with the head

	target *target
	conn   *conn  // nil once it is given back or closed
	told   string // address of the last connection
	heard  bool   // a byte of a response has come

	tryBy   time.Time // when this try has had its time, zero for the read timeout alone
	wholeBy time.Time // when its response has, zero for no limit
	held    *target   // where the request's session is, nil for none
	leg     *leg      // of a hedged request; nil for others
	avoid   []*target // whom the other leg has asked
	used    int       // tries that are taken off
	hold    bool      // the request's body is kept after the response, for another try

	now    time.Time // of the last look at the clock, zero when that may be long ago
	probe  bool      // whether the connection is quiet shows when the request is sent
	ended  error     // how the connection ended while the request was sent
	broken *fault    // writing failed: what is read now is the target's last word

	framing  wire.Framing
	chunks   wire.Body // reads a chunked body
	left     int64     // bytes to come of another one; -1 when the connection's end ends it
	reusable bool      // the connection may serve again once the body is read
	end      error     // what Read answers when there is nothing more

	stream     *h2stream // where the connection is shared, nil once the place is given back
	sent       *h2sender // nil when the body went with the head
	lastShared *h2conn   // of the last try

	watching bool        // the end of x.Ctx closes the connection
	watched  bool        // the client is watched too
	unwatch  func() bool // ends watching
}

// patience is how long an answer is awaited before the client is watched: fast
// exchanges then pay neither for a watch nor for a timer.
const patience = 50 * time.Millisecond

// read reads what the target sends within the read timeout. The time does not
// run while the request is still being sent.
func (k *call) read(p []byte) (int, error) {
	c := k.conn
	began := k.x.Now()
	k.now = began
	now := began
	for {
		sending := k.upload != nil && !k.upload.over()
		if sending {
			began = now
		}
		wait := k.cluster.read - now.Sub(began)
		if !k.tryBy.IsZero() {
			wait = min(wait, k.tryBy.Sub(now))
		}
		if wait <= 0 {
			return 0, fmt.Errorf("reading from %s: %w after %v", c.address, errTimeout, now.Sub(began))
		}
		if sending || !k.watching || !k.watched {
			wait = min(wait, patience)
		}
		c.readWithin(now, wait)
		n, err := c.rw.Read(p)
		if n > 0 {
			k.heard = true
			return n, nil
		}
		if err == nil {
			continue
		}
		if !isTimeout(err) {
			if !errors.Is(err, io.EOF) {
				err = fmt.Errorf("reading from %s: %w", c.address, err)
			}
			return 0, err
		}
		now = time.Now()
		k.watch(sending)
	}
}

// watch begins to look after the client, because the target is slow: its going
// away closes the connection, which ends every wait on it.
func (k *call) watch(sending bool) {
	if !k.watching {
		k.watching = true
		sock := k.conn.sock.Conn
		k.unwatch = context.AfterFunc(k.x.Ctx, func() { _ = sock.Close() })
	}
	// Not while the body is uploaded, whose reader sees the client go.
	if !sending && !k.watched {
		k.watched = true
		if k.x.WatchClient != nil {
			k.x.WatchClient()
		}
	}
}

// settle ends the watch and the upload; it answers whether the connection is
// untouched by both.
func (k *call) settle() bool {
	intact := true
	if k.upload != nil {
		k.upload.stop(&k.x.Request)
		intact = k.upload.f == nil
	}
	if k.unwatch != nil {
		intact = k.unwatch() && intact
		k.unwatch = nil
	}
	k.watching = false
	return intact
}

// abandon closes the connection of a failed try. What the upload failed of stays.
func (k *call) abandon() {
	c := k.conn
	k.conn = nil
	c.close()
	k.settle()
	c.rest(k.cluster.pools)
}

// rest gives back the buffer that a connection has only while in use.
func (c *conn) rest(p *Pools) {
	if c.buf != nil {
		p.giveBack(c.buf)
		c.buf = nil
	}
	c.r, c.w = 0, 0
	c.heads.Release()
}

// release ends the exchange with the target: reusable, the connection goes back
// to its stack unless something of it was touched or left over.
func (k *call) release(reusable bool) {
	c := k.conn
	if c == nil {
		return
	}
	k.conn = nil
	leftover := c.r < c.w
	intact := k.settle()
	if !k.hold {
		k.body.free()
	}
	k.cluster.balancer.leave(k.target)
	if !reusable || leftover || !intact || c.served >= k.cluster.pools.set.MaxRequests {
		c.close()
		c.rest(k.cluster.pools)
		return
	}
	c.r, c.w = 0, 0
	c.stack.put(c, k.now) // after the last byte came, the clock was looked at
}
