package handover

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// ServeHTTP serves a listener until ctx ends, then stops to accept, and lets those who came
// finish for as long as finish. It answers nil where ctx was why it ended. The server's ConnState
// is called as before.
//
// The server's own Shutdown is not enough for a socket that another process serves too:
// once it has begun, whoever came before and whose first request is read after is cut off
// without an answer, though the other process would have given one.
func ServeHTTP(ctx context.Context, srv *http.Server, l net.Listener, finish time.Duration) error {
	c := &clients{busy: map[net.Conn]struct{}{}, next: srv.ConnState}
	srv.ConnState = c.state
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		if ctx.Err() == nil {
			return fmt.Errorf("serving %s: %w", l.Addr(), err)
		}
	case <-ctx.Done():
		_ = l.Close()
		<-done
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), finish)
	defer cancel()
	srv.SetKeepAlivesEnabled(false)
	c.wait(grace)
	if srv.Shutdown(grace) != nil {
		_ = srv.Close()
	}
	return nil
}

// clients are the connections of a server that are owed an answer.
type clients struct {
	mu   sync.Mutex
	busy map[net.Conn]struct{} // that have asked, or have not yet asked for the first time
	none chan struct{}         // closed when busy is empty, nil while nobody waits
	next func(net.Conn, http.ConnState)
}

func (c *clients) state(conn net.Conn, s http.ConnState) {
	if c.next != nil {
		defer c.next(conn, s)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s {
	case http.StateNew, http.StateActive:
		c.busy[conn] = struct{}{}
	case http.StateIdle, http.StateHijacked, http.StateClosed:
		delete(c.busy, conn)
		if c.none != nil && len(c.busy) == 0 {
			close(c.none)
			c.none = nil
		}
	}
}

// wait waits until nobody is owed an answer, or the end of ctx.
func (c *clients) wait(ctx context.Context) {
	c.mu.Lock()
	if len(c.busy) == 0 {
		c.mu.Unlock()
		return
	}
	none := make(chan struct{})
	c.none = none
	c.mu.Unlock()
	select {
	case <-none:
	case <-ctx.Done():
	}
}
