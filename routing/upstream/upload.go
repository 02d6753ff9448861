package upstream

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// upload sends a body that is not sent along with the head. It has the second
// goroutine of an exchange, which reads the client's body and writes to the
// target while the first one reads the target's answer.
type upload struct {
	conn     *conn
	body     *payload
	write    time.Duration
	stopping atomic.Bool
	last     atomic.Bool // the last bytes are being written: the target may have it all
	done     chan struct{}
	f        *fault // valid once done is closed: why the body did not arrive whole
}

// start begins an upload on a connection whose head is sent.
func (k *call) start() {
	k.upload = &upload{conn: k.conn, body: &k.body, write: k.cluster.write, done: make(chan struct{})}
	go k.upload.run()
}

// over says that nothing is uploaded any more.
func (u *upload) over() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// ended says the same of a moment when the target answers. A target that has
// the whole request may do so before the write of its last bytes has returned
// here: that is waited for.
func (u *upload) ended() bool {
	if !u.over() && u.last.Load() {
		select {
		case <-u.done:
		case <-time.After(patience):
		}
	}
	return u.over()
}

// run sends the body. When it can't, it closes the connection, unless the
// target may still be saying why it takes no more.
func (u *upload) run() {
	defer close(u.done)
	u.f = u.send()
	if u.f != nil && (u.f.kind == faultClient || u.f.timeout) {
		u.conn.close()
	}
}

// send copies the body in pieces as large as a buffer. The buffer has room in
// front and behind for the marks of a chunk.
func (u *upload) send() *fault {
	const front, back = 8, 2
	b := u.body
	buf := b.pools.buffer()
	defer b.pools.giveBack(buf)
	src, sent := b.source(), int64(0)
	chunked := b.length < 0
	for {
		if u.stopping.Load() {
			return stopped()
		}
		b.touched = true
		n, err := src.Read(buf[front : len(buf)-back])
		piece := buf[front : front+n]
		sent += int64(n)
		if !chunked && sent > b.length {
			return u.clientFault(fmt.Errorf("%w: more than the announced %d bytes came", errBodyLength, b.length))
		}
		if n > 0 {
			if chunked {
				piece = chunk(buf, front, n)
			} else if sent == b.length {
				u.last.Store(true)
			}
			if f := u.conn.writeAll(piece, u.write, time.Now()); f != nil {
				f.sent = true
				return f
			}
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) {
			if u.stopping.Load() {
				return stopped() // the read failed because it was told to
			}
			return u.clientFault(err)
		}
		if !chunked && sent < b.length {
			return u.clientFault(fmt.Errorf("%w: announced %d, got %d", errBodyLength, b.length, sent))
		}
		return u.finish(buf[:0], chunked)
	}
}

func stopped() *fault { return &fault{kind: faultBroken, err: errStopped, sent: true} }

var errStopped = errors.New("the exchange was over before the request was sent")

// finish sends what ends a chunked body.
func (u *upload) finish(buf []byte, chunked bool) *fault {
	if !chunked {
		return nil
	}
	end, err := wire.AppendLastChunk(buf, u.body.trailers)
	if err != nil {
		return u.clientFault(err)
	}
	u.last.Store(true)
	f := u.conn.writeAll(end, u.write, time.Now())
	if f != nil {
		f.sent = true
	}
	return f
}

// clientFault blames the client for a body that did not come as it should,
// except for the file that this node keeps itself.
func (u *upload) clientFault(err error) *fault {
	if u.body.stream == nil {
		return &fault{kind: faultHere, err: fmt.Errorf("reading a spooled request body: %w", err), sent: true}
	}
	return &fault{kind: faultClient, err: blame(err), sent: true}
}

// stop ends an upload that is still going, and waits for it. The connection is
// not usable afterwards.
func (u *upload) stop(r *exchange.Request) {
	if u.ended() {
		return
	}
	u.stopping.Store(true)
	u.conn.close()
	if u.body.stream != nil && r.StopBody != nil {
		r.StopBody()
	}
	<-u.done
}

// chunk writes the marks of a chunk around buf[front:front+n] and answers the whole.
func chunk(buf []byte, front, n int) []byte {
	const digits = "0123456789abcdef"
	end := front + n
	buf[end], buf[end+1] = '\r', '\n'
	i := front - 1
	buf[i] = '\n'
	i--
	buf[i] = '\r'
	for ; n > 0; n >>= 4 {
		i--
		buf[i] = digits[n&15]
	}
	return buf[i : end+2]
}
