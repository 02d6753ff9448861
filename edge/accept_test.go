package edge

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// exhausted is a listener of a process that has no descriptors left.
type exhausted struct{ tries atomic.Int64 }

func (l *exhausted) Accept() (net.Conn, error) {
	l.tries.Add(1)
	return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
}
func (l *exhausted) Close() error   { return nil }
func (l *exhausted) Addr() net.Addr { return nil }

// TestAcceptBacksOff: without descriptors a listener tries again, soon at first, and
// never spins.
func TestAcceptBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s, l := &Server{Log: silent()}, &exhausted{}
		p := &port{l: l}
		p.gate.Store(&gate{Endpoint{Name: "proxy"}, &tenure{}})
		done := make(chan struct{})
		go func() {
			s.accept(ctx, ctx, p)
			close(done)
		}()
		time.Sleep(time.Second)
		soon := l.tries.Load()
		time.Sleep(time.Minute)
		if later := l.tries.Load() - soon; soon < 5 || soon > 10 || later < 59 || later > 61 {
			t.Errorf("%d tries in the first second, %d in the minute after", soon, later)
		}
		cancel()
		<-done
	})
}
