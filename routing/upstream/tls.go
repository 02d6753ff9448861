package upstream

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/routing/spec"
)

// transport is how a cluster speaks TLS, apart from the server's name.
// Immutable; nil stands for a cluster in clear.
type transport struct {
	verify bool
	depth  int            // most intermediate certificates, -1 for any number
	roots  *x509.CertPool // nil for the system's
	client *tls.Certificate

	name     string   // that is asked for and verified, "" for the host's
	subjects []string // of which a certificate has to have one in place of the name; none for the name
	dnsNames []string // of which one does as well
	uris     []string // of which one does as well, as uriText writes them

	trustPrint  string
	clientPrint string
}

// transport compiles a service's TLS. up is its upstream entity or nil.
func (in *Inputs) transport(s *spec.Service, up *spec.Upstream) (*transport, error) {
	if s.Protocol != "https" && s.Protocol != "grpcs" && s.Protocol != "tls" {
		return nil, nil
	}
	t := &transport{verify: in.Pools.set.VerifyDefault, depth: -1, name: s.TLSName, subjects: s.TLSSubjects, dnsNames: s.TLSSANs.DNSNames}
	for _, text := range s.TLSSANs.URIs {
		if u, err := url.Parse(text); err == nil { // what is no URI is on no certificate
			t.uris = append(t.uris, uriText(u))
		}
	}
	if s.TLSVerify != nil {
		t.verify = *s.TLSVerify
	}
	if s.TLSVerifyDepth != nil {
		t.depth = *s.TLSVerifyDepth
	}
	t.trustPrint = "unverified"
	if t.verify {
		print := "system"
		if in.Roots != nil {
			var err error
			if t.roots, print, err = in.Roots(s.CACertificates); err != nil {
				return nil, fmt.Errorf("ca_certificates: %w", err)
			}
		} else if len(s.CACertificates) > 0 {
			return nil, fmt.Errorf("ca_certificates: no certificates are available here")
		}
		t.trustPrint = print + "/" + strconv.Itoa(t.depth)
		for _, subject := range t.subjects {
			t.trustPrint += " " + strconv.Quote(subject)
		}
		for _, name := range t.dnsNames {
			t.trustPrint += " dns:" + strconv.Quote(name)
		}
		for _, uri := range t.uris {
			t.trustPrint += " uri:" + strconv.Quote(uri)
		}
	}
	bundle, err := in.bundle(s, up)
	if err == nil {
		err = t.show(bundle)
	}
	if err != nil {
		return nil, fmt.Errorf("client_certificate: %w", err)
	}
	return t, nil
}

// show makes the transport show a pair, nil for none.
func (t *transport) show(bundle *certs.Bundle) error {
	if bundle == nil {
		return nil
	}
	var err error
	if t.client, err = bundle.TLS(); err != nil {
		return err
	}
	sum := sha256.New()
	for _, der := range t.client.Certificate {
		sum.Write(der)
	}
	t.clientPrint = hex.EncodeToString(sum.Sum(nil))
	return nil
}

// probing gives the active checks of an upstream their TLS. Without it targets
// keep the health they have: nothing is probed.
func (in *Inputs) probing(r *rules, u *spec.Upstream) *spec.Problem {
	if r == nil || r.active == nil || u.Healthchecks.Active.Type != "https" && u.Healthchecks.Active.Type != "grpcs" {
		return nil
	}
	t := &transport{verify: u.Healthchecks.Active.HTTPSVerifyCertificate, depth: -1}
	var err error
	if t.verify && in.Roots != nil {
		if t.roots, t.trustPrint, err = in.Roots(nil); err != nil {
			err = fmt.Errorf("ca_certificates: %w", err)
		}
	}
	if err == nil && u.ClientCertificate != "" && in.ClientCertificate != nil {
		var bundle *certs.Bundle
		if bundle, err = in.ClientCertificate(u.ClientCertificate); err == nil {
			err = t.show(bundle)
		}
	}
	if err != nil {
		r.active = nil
		return &spec.Problem{
			Pos: u.Pos, Entity: "upstreams", ID: u.ID, Name: u.Name, Field: "healthchecks.active",
			Reason: spec.ReasonCredential, Message: "targets are not probed: " + err.Error(),
		}
	}
	r.active.tls = t
	return nil
}

// bundle answers the pair that a service's connections show, nil for none.
func (in *Inputs) bundle(s *spec.Service, up *spec.Upstream) (*certs.Bundle, error) {
	if in.ServiceCertificate != nil {
		if b := in.ServiceCertificate(s.ID); b != nil {
			return b, nil
		}
	}
	id := s.ClientCertificate
	if id == "" && up != nil {
		id = up.ClientCertificate
	}
	if id == "" {
		return nil, nil
	}
	if in.ClientCertificate == nil {
		return nil, errors.New("no certificates are available here")
	}
	return in.ClientCertificate(id)
}

// config is the TLS configuration of one identity, made once and never changed.
func (t *transport) config(s *stack) *tls.Config {
	c := &tls.Config{
		ServerName:         s.id.server,
		RootCAs:            t.roots,
		InsecureSkipVerify: !t.verify, //nolint:gosec // the service's tls_verify says so
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{cmp.Or(s.id.proto, "http/1.1")},
		ClientSessionCache: sessions{s.pools.sessions, s.id.key()},
	}
	if t.client != nil {
		// The certificate is shown to whoever asks for one: the default choice by
		// the server's list of names would send none where the list is incomplete.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.client, nil }
	}
	if t.verify && len(t.subjects)+len(t.dnsNames)+len(t.uris) > 0 {
		name := s.id.server
		c.InsecureSkipVerify = true //nolint:gosec // it is verified here, by other names than the one asked for
		c.VerifyConnection = func(st tls.ConnectionState) error { return t.verifyNames(st, name) }
	} else if t.verify && t.depth >= 0 {
		c.VerifyConnection = func(st tls.ConnectionState) error {
			return t.shallow(st.VerifiedChains)
		}
	}
	return c
}

// shallow says whether one of some chains is no longer than is wanted.
func (t *transport) shallow(chains [][]*x509.Certificate) error {
	for _, chain := range chains {
		if t.depth < 0 || len(chain)-2 <= t.depth {
			return nil
		}
	}
	return fmt.Errorf("tls_verify_depth: expected at most %d intermediate certificates; raise the depth or shorten the chain", t.depth)
}

// verifyNames verifies a certificate as crypto/tls does, but for its names: it has to have
// one of the subjects, which stand in for the name asked for, or one of the further names.
func (t *transport) verifyNames(st tls.ConnectionState, name string) error {
	if len(st.PeerCertificates) == 0 {
		return errors.New("expected a certificate of the server")
	}
	leaf, more := st.PeerCertificates[0], x509.NewCertPool()
	for _, c := range st.PeerCertificates[1:] {
		more.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: t.roots, Intermediates: more, CurrentTime: time.Now()})
	if err != nil {
		return fmt.Errorf("verifying the server's certificate: %w", err)
	}
	// The name may be what a client sent as Host: it is never read as a pattern.
	first, field, fits := []string{name}, "tls_sans", leaf.VerifyHostname(name) == nil
	if len(t.subjects) > 0 {
		first, field = t.subjects, "x_keyway_tls_subjects"
		fits = slices.ContainsFunc(first, func(subject string) bool { return hasSubject(leaf, subject) })
	}
	fits = fits || slices.ContainsFunc(t.dnsNames, func(name string) bool { return hasDNSName(leaf, name) }) || slices.ContainsFunc(leaf.URIs, t.wants)
	if fits {
		return t.shallow(chains)
	}
	return fmt.Errorf("%s: expected a certificate for one of %q; it is for %s", field, slices.Concat(first, t.dnsNames, t.uris), namesOf(leaf))
}

// wants says whether a URI of a certificate is one of the further names.
func (t *transport) wants(u *url.URL) bool { return slices.Contains(t.uris, uriText(u)) }

// uriText writes a URI so that equal ones are written alike: the case of a host says nothing.
func uriText(u *url.URL) string {
	same := *u
	same.Host = strings.ToLower(u.Host)
	return same.String()
}

// hasDNSName says whether a certificate is for a host, or has a wildcard as it is written.
func hasDNSName(c *x509.Certificate, name string) bool {
	if strings.HasPrefix(name, "*") {
		return slices.ContainsFunc(c.DNSNames, func(has string) bool { return strings.EqualFold(has, name) })
	}
	return c.VerifyHostname(name) == nil
}

// namesOf tells what a certificate is for, the first names of it: a target chooses how many there are.
func namesOf(c *x509.Certificate) string {
	const most = 20
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	if len(names) > most {
		return fmt.Sprintf("%q and %d more", names[:most], len(names)-most)
	}
	return fmt.Sprintf("%q", names)
}

// hasSubject says whether a certificate is for a host, for hosts below one, or for a URI.
func hasSubject(c *x509.Certificate, subject string) bool {
	if strings.Contains(subject, "://") {
		for _, u := range c.URIs {
			if u.String() == subject {
				return true
			}
		}
		return false
	}
	if rest, wild := strings.CutPrefix(strings.ToLower(subject), "*"); wild {
		for _, name := range c.DNSNames {
			if strings.HasSuffix(strings.ToLower(name), rest) {
				return true
			}
		}
		return false
	}
	return c.VerifyHostname(subject) == nil
}

// key writes an identity so that no two are written alike.
func (id identity) key() string {
	return fmt.Sprintf("%v %q %q %q %q ", id.addr, id.proto, id.server, id.trust, id.client)
}

// sessions keeps TLS sessions of one identity apart from all others: a session
// carries what was verified when it was made.
type sessions struct {
	all      tls.ClientSessionCache
	identity string
}

// Get answers the session of a server of this identity.
func (s sessions) Get(key string) (*tls.ClientSessionState, bool) { return s.all.Get(s.identity + key) }

// Put keeps a session, nil to forget it.
func (s sessions) Put(key string, st *tls.ClientSessionState) { s.all.Put(s.identity+key, st) }

// serverName is the name in host, which may carry a port.
func serverName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		return host[1 : len(host)-1]
	}
	return host
}
