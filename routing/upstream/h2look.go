package upstream

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// lookFor is how long a request waits for a connection's reader to catch up. One that
// takes longer is busy with responses: the connection lives.
const lookFor = 100 * time.Millisecond

// tap tells how far the reader of a shared connection is.
type tap struct {
	waiting atomic.Bool // everything that came was handled, and nothing more was there

	mu   sync.Mutex
	next chan struct{} // closed when the reader waits the next time or has ended, nil while nobody asks
}

// rest notes that the reader has handled everything and waits.
func (t *tap) rest() {
	t.waiting.Store(true)
	t.tell()
}

// tell wakes those who wait for the reader.
func (t *tap) tell() {
	t.mu.Lock()
	if t.next != nil {
		close(t.next)
		t.next = nil
	}
	t.mu.Unlock()
}

// upcoming is closed when the reader waits the next time, or has ended.
func (t *tap) upcoming() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next == nil {
		t.next = make(chan struct{})
	}
	return t.next
}

// look says whether a request that can be sent only once may go by this connection: what the
// target has said until now is handled, and it was no end. Whatever comes later may cross
// the request on its way; then GOAWAY tells whether the target has looked at it.
func (c *h2conn) look(ctx context.Context) bool {
	if c.sock == nil {
		return true
	}
	next := c.sock.tap.upcoming() // before looking, so that no turn of the reader is missed
	some, err := c.sock.peek()
	switch {
	case err != nil:
		c.drain() // the reader will find the same
		return false
	case some || !c.sock.tap.waiting.Load():
		timer := time.NewTimer(lookFor)
		defer timer.Stop()
		select {
		case <-next:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.gone && c.dead == nil
}
