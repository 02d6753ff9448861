package edge

import (
	"crypto/tls"
	"net/http"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/policy"
)

// Challenges answers certificate authorities that ask whether a name leads here. It
// knows the challenges that are in progress, and answers from memory: it is asked in
// handshakes and at the head of requests.
type Challenges interface {
	// HTTP answers the body for a token of HTTP-01 (RFC 8555, section 8.3).
	HTTP(host, token string) (keyAuth string, ok bool)
	// ALPN answers the certificate for a name of TLS-ALPN-01 (RFC 8737).
	ALPN(name string) (*tls.Certificate, bool)
}

// Demand tells want of each name that a handshake asks for and that has no certificate
// of its own. It is called in the handshake and must not wait. Call it before the
// first handshake.
func (t *Terminator) Demand(want func(name string)) { t.demand = want }

const (
	challengePath = "/.well-known/acme-challenge/"
	challengeALPN = "acme-tls/1"
)

// Challenges makes the handler answer HTTP-01. Call it before the first exchange.
func (h *Handler) Challenges(c Challenges) { h.challenges = c }

// Challenges makes the terminator answer TLS-ALPN-01. Call it before the first handshake.
func (t *Terminator) Challenges(c Challenges) { t.challenges = c }

// challenge answers a challenge in progress, before policies of connections, routes
// and redirects: the authority comes by a name that may have none of them yet.
// Anything else under its path is a request like others.
func (h *Handler) challenge(r *request) *policy.Reply {
	if h.challenges == nil {
		return nil
	}
	token, ok := strings.CutPrefix(r.x.Request.Path, challengePath)
	if !ok || r.x.Request.Method != http.MethodGet && r.x.Request.Method != http.MethodHead {
		return nil
	}
	keyAuth, ok := h.challenges.HTTP(r.host, token)
	if !ok {
		return nil
	}
	r.chain = nil // no plugin of other requests has a say in it
	return &policy.Reply{Status: http.StatusOK, ContentType: "application/octet-stream", Body: []byte(keyAuth)}
}

// challengeConfig answers the configuration of a handshake that validates a name,
// nil for any other. Such a connection carries nothing: see Server.serve.
func (t *Terminator) challengeConfig(hello *tls.ClientHelloInfo) *tls.Config {
	if t.challenges == nil || !slices.Equal(hello.SupportedProtos, []string{challengeALPN}) {
		return nil
	}
	cert, ok := t.challenges.ALPN(hello.ServerName)
	if !ok {
		return nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{challengeALPN}, Certificates: []tls.Certificate{*cert}, SessionTicketsDisabled: true}
}
