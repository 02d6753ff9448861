package upstream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// probe asks a target once. judged is false when the answer says nothing: a
// status that is in neither list, this node's own end, or want of descriptors.
func probe(ctx context.Context, b *balancer, t *target, n *names) (e event, judged bool, err error) {
	a := b.rules.active
	within, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	addr, err := probeAddress(within, t, n)
	if err != nil {
		return eventTCP, ctx.Err() == nil, err
	}
	status := 0
	switch a.source.Type {
	case "tcp":
		err = a.probeTCP(within, addr)
	case "grpc", "grpcs":
		status, err = a.probeGRPC(within, t, addr)
	default:
		status, err = a.probeHTTP(within, t, addr)
	}
	switch {
	case ctx.Err() != nil:
		return eventTCP, false, err
	case err != nil && (isTimeout(err) || within.Err() != nil):
		return eventTimeout, true, err
	case err != nil && unconnected(err).kind == faultHere:
		return eventTCP, false, err
	case err != nil:
		return eventTCP, true, err
	case status == 0, b.rules.sides[byProbe].good.has(status):
		return eventSuccess, true, nil
	case b.rules.sides[byProbe].bad.has(status):
		return eventStatus, true, fmt.Errorf("probing %s: status %d", addr, status)
	}
	return eventSuccess, false, nil
}

// connect opens a connection for a probe, with TLS where the check says so.
func (a *active) connect(ctx context.Context, t *target, addr netip.AddrPort, protos ...string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", addr, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	if a.tls == nil {
		return c, nil
	}
	name := a.source.HTTPSSNI
	if name == "" {
		name = t.host
	}
	conf := a.tls.bare(name)
	conf.NextProtos = protos
	tc := tls.Client(c, conf)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("shaking hands with %s as %q: %w", addr, name, err)
	}
	return tc, nil
}

// probeTCP is well when a connection comes to be.
func (a *active) probeTCP(ctx context.Context, addr netip.AddrPort) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", addr, err)
	}
	return c.Close()
}

// probeHTTP sends a GET in HTTP/1.0, so that the target closes by itself, and
// answers the status.
func (a *active) probeHTTP(ctx context.Context, t *target, addr netip.AddrPort) (int, error) {
	c, err := a.connect(ctx, t, addr, "http/1.1")
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if _, err := c.Write(a.request(t)); err != nil {
		return 0, fmt.Errorf("writing to %s: %w", addr, err)
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(io.LimitReader(c, 64<<10), 4<<10), nil)
	if err != nil {
		return 0, fmt.Errorf("reading from %s: %w", addr, err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode, nil
}

// request is what an HTTP probe sends.
func (a *active) request(t *target) []byte {
	var w bytes.Buffer
	w.WriteString("GET " + a.source.HTTPPath + " HTTP/1.0\r\n")
	host := t.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	for _, name := range sorted(a.source.Headers) {
		if strings.EqualFold(name, "Host") && len(a.source.Headers[name]) > 0 {
			host = a.source.Headers[name][0]
			continue
		}
		for _, v := range a.source.Headers[name] {
			w.WriteString(name + ": " + oneLine(v) + "\r\n")
		}
	}
	w.WriteString("Host: " + oneLine(host) + "\r\n\r\n")
	return w.Bytes()
}

// oneLine keeps a value from being more than a value.
func oneLine(v string) string {
	return strings.Map(func(r rune) rune {
		if r == '\r' || r == '\n' || r == 0 {
			return ' '
		}
		return r
	}, v)
}

func sorted(m map[string][]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// probeGRPC asks by the health protocol of gRPC whether the server as a whole
// serves. It answers 0 for yes, and a status for no.
func (a *active) probeGRPC(ctx context.Context, t *target, addr netip.AddrPort) (int, error) {
	var protocols http.Protocols
	scheme := "http"
	if a.tls != nil {
		scheme = "https"
		protocols.SetHTTP2(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return a.connect(ctx, t, addr, "h2") }
	transport := &http.Transport{Protocols: &protocols, DialContext: dial, DialTLSContext: dial, DisableCompression: true}
	defer transport.CloseIdleConnections()
	// One message: not compressed, of length 0: the service with the empty name.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+t.name+"/grpc.health.v1.Health/Check", bytes.NewReader(make([]byte, 5)))
	if err != nil {
		return 0, fmt.Errorf("asking %s for its health: %w", addr, err)
	}
	for name, values := range a.source.Headers {
		for _, v := range values {
			req.Header.Add(name, oneLine(v))
		}
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, fmt.Errorf("asking %s for its health: %w", addr, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return 0, fmt.Errorf("reading the health of %s: %w", addr, err)
	}
	code := resp.Trailer.Get("Grpc-Status")
	if code == "" {
		code = resp.Header.Get("Grpc-Status")
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		return resp.StatusCode, nil
	case code != "0" || !serving(body):
		return http.StatusServiceUnavailable, nil
	}
	return 0, nil
}

// serving reads HealthCheckResponse: field 1, a varint, is 1.
func serving(message []byte) bool {
	return len(message) >= 7 && message[0] == 0 && bytes.Equal(message[5:7], []byte{0x08, 1})
}

// sameAs compares what two transports do.
func (t *transport) sameAs(o *transport) bool {
	if t == nil || o == nil {
		return t == o
	}
	return t.verify == o.verify && t.depth == o.depth && t.trustPrint == o.trustPrint && t.clientPrint == o.clientPrint
}

// bare is a configuration for one connection by itself.
func (t *transport) bare(name string) *tls.Config {
	return t.config(&stack{pools: &Pools{sessions: noSessions{}}, id: identity{server: name}})
}

// noSessions keeps nothing.
type noSessions struct{}

// Get has none.
func (noSessions) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

// Put forgets it.
func (noSessions) Put(string, *tls.ClientSessionState) {}
