package integration

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// origin is an HTTP server of a test and its address.
func origin(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return originOn(t, l, h)
}

// originOn is an origin on a socket of the test's.
func originOn(t testing.TB, l net.Listener, h http.HandlerFunc) string {
	t.Helper()
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	return ends(t, s)
}

// secureOrigin runs an origin over TLS and answers its address.
func secureOrigin(t testing.TB, c *tls.Config, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = c
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	return ends(t, s)
}

// ends has an origin end with the test, and answers its address.
func ends(t testing.TB, s *httptest.Server) string {
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.Listener.Addr().String()
}

// saying is an origin that says who it is, and what it got.
func saying(t testing.TB, name string) string {
	return origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, name+" "+r.URL.Path+" for "+r.Header.Get("X-Consumer-Username"))
	})
}

// fast is an origin that takes what comes and says nothing.
func fast(t testing.TB) string {
	return origin(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
}

// accepting is a server that hands each connection to serve, on a goroutine of its own, and
// closes it when that returns. It ends with the test.
func accepting(t testing.TB, address string, serve func(c net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				serve(c)
			}()
		}
	}()
	return l
}

// tcpEcho is a server that says its name and then whatever it is told.
func tcpEcho(t testing.TB, name string) net.Listener {
	t.Helper()
	return accepting(t, "127.0.0.1:0", func(c net.Conn) {
		_, _ = io.WriteString(c, name)
		_, _ = io.Copy(c, c)
	})
}

// tlsEcho is as tcpEcho, over TLS, and calls itself "own ".
func tlsEcho(t testing.TB, cert, key string) string {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return accepting(t, "127.0.0.1:0", func(raw net.Conn) {
		c := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{pair}})
		_, _ = io.WriteString(c, "own ")
		_, _ = io.Copy(c, c)
	}).Addr().String()
}
