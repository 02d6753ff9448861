package edge

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

// TrackListener wraps a listener of a side service so that its connections can
// be handshaken by a Terminator.
func TrackListener(l net.Listener) net.Listener { return trackListener{l} }

type trackListener struct{ net.Listener }

func (l trackListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &trackedConn{Conn: c}, nil
}

// Side has Leave end the connections of a service beside the proxy too. The service's
// listener is one of crypto/tls over a TrackListener. Call it before srv serves.
func (s *Server) Side(srv *http.Server) {
	h := srv.Handler
	srv.ConnState = s.sideState
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, sideKey{}, tracked(c))
	}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, _ := r.Context().Value(sideKey{}).(*trackedConn); c != nil && s.revoked.has(&c.facts) {
			w.Header().Set("Connection", "close") // GOAWAY, over HTTP/2
		}
		h.ServeHTTP(w, r)
	})
}

// sideKey is where a request of a side service has its connection.
type sideKey struct{}

// tracked finds the connection beneath that of crypto/tls, nil for another one.
func tracked(c net.Conn) *trackedConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	t, _ := c.(*trackedConn)
	return t
}

// sideState is http.Server.ConnState of side services. Until the first byte after the
// handshake a connection is new, which the service's own limits end soon.
func (s *Server) sideState(conn net.Conn, state http.ConnState) {
	c := tracked(conn)
	if c == nil {
		return
	}
	switch state {
	case http.StateNew:
		s.mu.Lock()
		if s.side == nil {
			s.side = map[*trackedConn]struct{}{}
		}
		s.side[c] = struct{}{}
		s.mu.Unlock()
	case http.StateActive, http.StateIdle:
		if !c.shook.Load() {
			c.facts.snap = nil
			c.shook.Store(true)
		}
		c.idle.Store(state == http.StateIdle)
	case http.StateHijacked, http.StateClosed:
		s.mu.Lock()
		delete(s.side, c)
		s.mu.Unlock()
	}
}

// leavers are the connections that were shown what is revoked. Those of side services
// that wait for a request are ended at once, which the proxy's engines do themselves.
func (s *Server) leavers() []*trackedConn {
	var left []*trackedConn
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.shook.Load() && s.revoked.has(&c.facts) {
			left = append(left, c)
		}
	}
	for c := range s.side {
		if !c.shook.Load() || !s.revoked.has(&c.facts) {
			continue
		}
		if left = append(left, c); c.idle.Load() {
			_ = c.SetDeadline(time.Unix(1, 0)) // its owner closes it
		}
	}
	return left
}
