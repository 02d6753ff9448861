package upstream

import (
	"errors"
	"fmt"
	"io"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// maxInterim bounds the interim responses before a final one.
const maxInterim = 16

// limits of a response head.
var limits = wire.Limits{Head: 64 << 10, Line: 32 << 10, Fields: 256}

// receive reads the final response head and makes x.Response of it.
func (k *call) receive() *fault {
	c := k.conn
	if c.buf == nil {
		c.buf, c.r, c.w = k.cluster.pools.buffer(), 0, 0
	}
	for range maxInterim {
		head, f := k.readHead()
		if f != nil {
			return f
		}
		if interim(head) {
			if f := k.passOn(head); f != nil {
				return f
			}
			continue
		}
		return k.accept(head)
	}
	return k.invalid(fmt.Errorf("more than %d interim responses came", maxInterim))
}

// interim says whether a head is of a 1xx response that a final one follows.
func interim(head string) bool {
	const at = len("HTTP/1.1 ")
	return len(head) > at+3 && head[at] == '1' && head[at:at+3] != "101"
}

// readHead answers the next head, up to and with its empty line, as one string
// that everything parsed from it shares.
func (k *call) readHead() (string, *fault) {
	c := k.conn
	from := 0
	for {
		if end := wire.HeadEnd(c.buf[c.r:c.w], from); end >= 0 {
			head := c.heads.Of(c.buf[c.r : c.r+end])
			c.r += end
			return head, nil
		}
		from = c.w - c.r
		if from >= limits.Head {
			return "", k.invalid(fmt.Errorf("the response head is longer than %d bytes", limits.Head))
		}
		if f := k.more(); f != nil {
			return "", f
		}
	}
}

// more reads once into the buffer, which grows beyond its usual size for a long head only.
func (k *call) more() *fault {
	c := k.conn
	if c.w == len(c.buf) {
		whole := c.buf
		if c.r == 0 {
			whole = make([]byte, 2*len(c.buf))
		}
		c.w = copy(whole, c.buf[c.r:c.w])
		c.r = 0
		if len(whole) != len(c.buf) {
			k.cluster.pools.giveBack(c.buf)
			c.buf = whole
		}
	}
	if k.ended != nil {
		return k.lost(k.ended)
	}
	n, err := k.read(c.buf[c.w:])
	c.w += n
	if n > 0 || err == nil {
		return nil
	}
	return k.lost(err)
}

// lost is the fault of a connection that ended before the response head. What
// the upload or the write of the head failed of is nearer to the cause.
func (k *call) lost(err error) *fault {
	if k.upload != nil {
		k.conn.close()
		k.upload.stop(&k.x.Request)
		if f := k.upload.f; f != nil && (f.kind != faultBroken || f.timeout) {
			return f
		}
	}
	if k.broken != nil {
		return k.broken
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("reading from %s: %w", k.conn.address, errClosedEarly)
	}
	return &fault{kind: faultBroken, err: err, sent: true, timeout: errors.Is(err, errTimeout)}
}

// invalid is the fault of an answer that is not good HTTP.
func (k *call) invalid(err error) *fault {
	return &fault{kind: faultInvalid, err: fmt.Errorf("reading the response of %s: %w", k.conn.address, err), sent: true}
}

// passOn sends an interim response on to the client. A 100 is not: the request
// was sent without asking for one, and the engine has its own way of it.
func (k *call) passOn(head string) *fault {
	var r exchange.Response
	var framing wire.Framing
	if e := wire.ParseResponse(head, k.x.Request.Method, limits, &r, &framing); e != nil {
		return k.invalid(e)
	}
	if r.Status == 100 || k.x.Interim == nil {
		return nil
	}
	if err := k.x.Interim(r.Status, &r.Fields); err != nil {
		return &fault{kind: faultClient, err: fmt.Errorf("sending an interim response: %w", err), sent: true}
	}
	return nil
}

// accept makes x.Response of the final head.
func (k *call) accept(head string) *fault {
	x, r := k.x, &k.x.Response
	if e := wire.ParseResponse(head, x.Request.Method, limits, r, &k.framing); e != nil {
		forget(r)
		return k.invalid(e)
	}
	k.now = x.Now()
	x.UpstreamHead, k.tryBy = k.now, k.wholeBy
	if r.Status == 101 {
		if x.Request.Upgrade == "" || !k.framing.Upgrade {
			forget(r)
			return k.invalid(errors.New("it switches protocols and was not asked to"))
		}
		r.FromUpstream = true
		k.switchOver()
		return nil
	}
	r.FromUpstream = true
	if k.upload != nil && !k.upload.ended() {
		r.Close = true // the client's body may never be read to its end
	}
	// After an upgrade was asked for, either side may have gone on in the other protocol.
	k.reusable = !k.framing.Close && x.Request.Upgrade == "" && k.broken == nil
	k.left = k.framing.Length
	if k.framing.Chunked {
		k.chunks.Reset(k, &k.framing, &r.Trailer)
	} else if k.left == 0 {
		r.Body = nil
		k.release(k.reusable)
		return nil
	}
	r.Body = k
	return nil
}

// forget takes out what a refused head left in a response.
func forget(r *exchange.Response) {
	fields, trailer := r.Fields, r.Trailer
	fields.Reset()
	trailer.Reset()
	*r = exchange.Response{Fields: fields, Trailer: trailer}
}
