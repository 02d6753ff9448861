package http1

import (
	"errors"
	"os"
	"time"
)

// watch is the reader that notices a client going away while nothing is read
// from it. What it reads is the next request's.
type watch struct {
	done chan struct{} // closed when the reader has ended, nil when there is none
	n    int
	err  error
}

// watchClient starts the watch, once for each request and only when the body was
// read whole: before that, reading the body notices.
func (c *conn) watchClient() {
	if c.watch.done != nil || !c.body.finished() {
		return
	}
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		return // the client has sent so much ahead that it must be there
	}
	done := make(chan struct{})
	c.watch = watch{done: done}
	c.readBy = time.Time{}
	_ = c.nc.SetReadDeadline(time.Time{})
	space := c.buf[c.w:]
	go func() {
		defer close(done)
		c.watch.n, c.watch.err = c.nc.Read(space)
		if c.watch.n == 0 && !errors.Is(c.watch.err, os.ErrDeadlineExceeded) {
			c.cancel() // the client is gone
		}
	}()
}

// endWatch ends the watch and takes over what it read.
func (c *conn) endWatch() {
	if c.watch.done == nil {
		return
	}
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	<-c.watch.done
	c.readBy = time.Unix(1, 0)
	c.w += c.watch.n
	if c.watch.n == 0 && !errors.Is(c.watch.err, os.ErrDeadlineExceeded) {
		c.framing.Close = true
	}
	c.watch.done = nil
}
