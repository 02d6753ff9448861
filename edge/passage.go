package edge

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// passage is the body of a copy on its way: what the client's request reads is put in and
// what the copy sends is taken out. Whoever puts in never waits.
type passage struct {
	held   *atomic.Int64     // bytes in all passages
	of     *exchange.Request // that has the body
	giveUp func()            // ends the copy, which may be waiting for its service to take more

	mu      sync.Mutex // guards what is below
	came    *sync.Cond
	buf     []byte // buf[at:] was not taken out yet
	at      int
	end     error            // after buf: io.EOF, or why there is no more; nil while more may come
	trailer []exchange.Field // of a body that ended well
	slow    bool             // it was given up since the service took it too slowly
}

var (
	errBehind    = errors.New("the service of the copy takes the request's body too slowly")
	errAbandoned = errors.New("the copy of the request is over")
)

func newPassage(held *atomic.Int64, of *exchange.Request, giveUp func()) *passage {
	p := &passage{held: held, of: of, giveUp: giveUp}
	p.came = sync.NewCond(&p.mu)
	return p
}

// put takes a part of the body in, and copies it.
func (p *passage) put(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end != nil || len(b) == 0 {
		return
	}
	if p.at == len(p.buf) {
		p.buf, p.at = p.buf[:0], 0
	}
	if len(p.buf)-p.at+len(b) > mirrorAhead || p.held.Add(int64(len(b))) > mirrorHeld {
		if len(p.buf)-p.at+len(b) <= mirrorAhead {
			p.held.Add(-int64(len(b)))
		}
		p.slow = true
		p.close(errBehind)
		p.giveUp()
		return
	}
	if len(p.buf)+len(b) > cap(p.buf) { // rather than grow by what was taken out
		p.buf = append(p.buf[:0], p.buf[p.at:]...)
		p.at = 0
	}
	p.buf = append(p.buf, b...)
	p.came.Signal()
}

// finish says that the body is whole, or why it will not be.
func (p *passage) finish(err error, trailer *exchange.Fields) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end != nil {
		return
	}
	if !errors.Is(err, io.EOF) {
		p.close(err)
		return
	}
	for f := range trailer.All() {
		p.trailer = append(p.trailer, f)
	}
	p.end = io.EOF
	p.came.Signal()
}

// close drops what was not taken out. p.mu is held.
func (p *passage) close(err error) {
	p.held.Add(-int64(len(p.buf) - p.at))
	p.buf, p.at, p.end, p.trailer = nil, 0, err, nil
	p.came.Signal()
}

// abandon ends the passage: nobody will take anything out any more, or put in.
func (p *passage) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end == nil || p.at < len(p.buf) {
		p.close(errAbandoned)
	}
}

// cut ends a passage whose body was not read to its end.
func (p *passage) cut() {
	p.finish(errAbandoned, nil)
}

// behind says that the service took the body too slowly.
func (p *passage) behind() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slow
}

// Read takes out what is there, and waits for it.
func (p *passage) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.at == len(p.buf) && p.end == nil {
		p.came.Wait()
	}
	if p.at == len(p.buf) {
		for _, f := range p.trailer {
			p.of.Trailer.Add(f.Name, f.Value)
		}
		p.trailer = nil
		return 0, p.end
	}
	n := copy(b, p.buf[p.at:])
	p.at += n
	p.held.Add(-int64(n))
	return n, nil
}

// tap is the body of a client's request of which a copy is made as it is read.
type tap struct {
	from    io.Reader
	trailer *exchange.Fields // complete at the body's end
	to      *passage
}

// Read reads for the client's own request.
func (t *tap) Read(b []byte) (int, error) {
	n, err := t.from.Read(b)
	t.to.put(b[:n])
	if err != nil {
		t.to.finish(err, t.trailer)
	}
	return n, err
}
