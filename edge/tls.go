package edge

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/policy"
)

// tlsFacts is what a handshake chose, kept with its connection.
type tlsFacts struct {
	at      *gate     // what the connection came to, nil beside the proxy
	snap    *Snapshot // pinned at the ClientHello: policy and certificate are of one generation; nil after the handshake
	policy  *certs.Policy
	slot    *certs.Slot
	bundle  *certs.Bundle // what the client was shown; of a resumed session nil, or what it would be shown
	resumed bool
	stream  bool // what is spoken inside is not for this node to agree on

	verified atomic.Pointer[certs.Policy] // that the client was last held against, nil for policy
}

// verify says why a connection must not go on under a policy with the rules of its own:
// one with other revocation lists, or that one after its lists have changed.
func (f *tlsFacts) verify(want *certs.Policy, state *tls.ConnectionState) error {
	last := f.verified.Load()
	if last == want || last == nil && f.policy == want {
		return nil
	}
	if err := want.Verify(*state); err != nil {
		return fmt.Errorf("holding the connection against TLS policy %s: %w", want.Name, err)
	}
	f.verified.Store(want)
	return nil
}

// DevIssuer issues certificates in development mode.
type DevIssuer interface {
	Issue(name string, now time.Time) (certs.Pair, error)
}

// Terminator answers the callbacks of TLS handshakes from the current snapshot.
// No callback does I/O or takes a lock (but for the development CA's).
type Terminator struct {
	publisher  *Publisher
	config     *Config
	dev        DevIssuer         // nil outside development mode
	challenges Challenges        // nil for none
	demand     func(name string) // told of names without a certificate; nil for nobody
	base       certs.Base
	root, quic *tls.Config // of TCP, of QUIC
}

// NewTerminator makes a Terminator. base is the Builder's; dev may be nil.
func NewTerminator(p *Publisher, config *Config, base certs.Base, dev DevIssuer) *Terminator {
	t := &Terminator{publisher: p, config: config, dev: dev}
	base.GetCertificate = t.certificate
	t.base = base
	t.root = &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         base.NextProtos,
		GetConfigForClient: t.configFor,
		// Handshakes before the first snapshot end here, with unrecognized_name.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil },
	}
	if base.ECH != nil {
		t.root.GetEncryptedClientHelloKeys = base.ECH.Keys
	}
	t.quic = t.root.Clone()
	t.quic.MinVersion, t.quic.NextProtos, t.quic.GetConfigForClient = tls.VersionTLS13, []string{"h3"}, t.quicConfigFor
	return t
}

// quicConfigFor is configFor with the one protocol that is spoken over QUIC.
func (t *Terminator) quicConfigFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	c, err := t.configFor(hello)
	if err != nil {
		return nil, err
	}
	c = c.Clone()
	c.MinVersion, c.NextProtos = t.quic.MinVersion, t.quic.NextProtos
	return c, nil
}

// Config is the configuration to listen with.
func (t *Terminator) Config() *tls.Config { return t.root }

var errNotReady = errors.New("no configuration is loaded yet")

// configFor pins the snapshot to the connection and answers the configuration of
// the TLS policy that the server name is bound to.
func (t *Terminator) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	facts := factsOf(hello)
	if facts == nil {
		return nil, errNotReady
	}
	snap := facts.snap // of a stream, whose route was found by it
	if snap == nil {
		if snap = t.publisher.Current(); snap == nil {
			return nil, errNotReady
		}
	}
	facts.snap = snap
	if c := t.challengeConfig(hello); c != nil {
		return c, nil
	}
	m := snap.Certs.Find(hostName(hello.ServerName))
	facts.slot, facts.policy = m.Slot, snap.policyFor(m.Policy, facts.at)
	c := facts.policy.Config(t.base)
	if facts.stream {
		c = c.Clone()
		c.NextProtos = nil
	}
	return c, nil
}

// hostName answers a server name, or "" for one that no host can have: whatever a
// wildcard would make of it, it is an unknown name (RFC 6066, section 3).
func hostName(name string) string {
	if len(name) > 253 {
		return ""
	}
	label := 0
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c == '.':
			label = 0
			continue
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return ""
		}
		if label++; label > 63 {
			return ""
		}
	}
	return name
}

// certificate answers the certificate of the slot that configFor found, by what
// the client supports; (nil, nil) makes crypto/tls send unrecognized_name.
func (t *Terminator) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	facts := factsOf(hello)
	if facts == nil || facts.snap == nil {
		return nil, errNotReady
	}
	if t.dev != nil && (facts.slot == nil || facts.slot == facts.snap.def || len(facts.slot.Active) == 0) {
		if c, ok := t.development(facts, hello); ok {
			return c, nil
		}
	}
	if t.demand != nil && (facts.slot == nil || facts.slot == facts.snap.def) && hello.ServerName != "" {
		t.demand(hostName(hello.ServerName))
	}
	if facts.slot == nil {
		return nil, nil
	}
	cert, bundle, err := facts.slot.Certificate(hello)
	facts.bundle = bundle
	return cert, err
}

// development issues a leaf for localhost and for configured names. A hello
// without a server name, as for an address, gets localhost's.
func (t *Terminator) development(facts *tlsFacts, hello *tls.ClientHelloInfo) (*tls.Certificate, bool) {
	name := hostOnly(hello.ServerName)
	if name == "" {
		if facts.snap.def != nil {
			return nil, false
		}
		name = "localhost"
	}
	if !facts.snap.devNames[name] {
		return nil, false
	}
	pair, err := t.dev.Issue(name, time.Now())
	if err != nil {
		return nil, false
	}
	bundle, refusal := certs.ParseBundle(pair)
	if refusal != nil {
		return nil, false
	}
	cert, err := bundle.TLS()
	if err != nil {
		return nil, false
	}
	facts.bundle = bundle
	return cert, true
}

// factsOf finds the facts of the connection that a handshake runs on.
func factsOf(hello *tls.ClientHelloInfo) *tlsFacts {
	switch c := hello.Conn.(type) {
	case *trackedConn:
		return &c.facts
	case *clearConn:
		return &c.facts
	}
	ctx := hello.Context()
	if ctx == nil { // of a hello that no handshake made
		return nil
	}
	if g, ok := ctx.Value(guestKey{}).(*guest); ok {
		return &g.tc.facts
	}
	return nil
}

// certVersion names the version of the certificate shown, for the access log.
func (f *tlsFacts) certVersion() string {
	switch {
	case f.slot != nil && f.bundle != nil:
		return f.slot.Name + "@" + strconv.Itoa(f.slot.Version)
	case f.bundle != nil:
		return "development@" + f.bundle.Serial
	}
	return ""
}

// misdirected answers 421 when the name in Host has another TLS policy than the
// one that this connection was made under: a client certificate asked of one name
// can't be walked around by naming another in the handshake (RFC 9110, 15.5.20). A
// client certificate that was revoked since then is asked for anew too. Where the
// listener tells hostnames apart, a connection is for the one that it was made for.
func (h *Handler) misdirected(r *request) *policy.Reply {
	snap := r.snap
	if r.info.at != nil && r.x.Conn.TLS != nil && snap.hostnames[r.info.at.Address].astray(r.x.Conn.TLS.ServerName, r.x.Request.Host) {
		return &policy.Reply{Status: http.StatusMisdirectedRequest, Message: "Misdirected request"}
	}
	if len(snap.policies) == 1 && (r.info.tls == nil || r.info.tls.policy.Fingerprint == snap.policies[""].Fingerprint) {
		return nil
	}
	want := snap.policyFor(snap.Certs.Find(hostOnly(r.x.Request.Host)).Policy, r.info.at)
	reply := &policy.Reply{Status: http.StatusMisdirectedRequest, Message: "Misdirected request"}
	switch f := r.info.tls; {
	case f == nil:
		if !want.NeedsTLS() {
			return nil
		}
	case f.policy.Fingerprint == want.Fingerprint:
		if reply.Err = f.verify(want, r.x.Conn.TLS); reply.Err == nil {
			return nil
		}
	}
	return reply
}
