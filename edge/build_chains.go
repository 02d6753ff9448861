package edge

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
	"github.com/keyway-edge/keyway/secrets"
)

// upstreams builds the clusters.
func (w *build) upstreams() {
	var prev *upstream.Set
	if w.prev != nil {
		prev = w.prev.Upstreams
	}
	set, problems := upstream.Build(prev, upstream.Inputs{
		Doc:                w.in.Document,
		Pools:              w.Pools,
		ClientCertificate:  w.clientCertificate,
		ServiceCertificate: func(id string) *certs.Bundle { return w.next.pairs[id] },
		Roots:              w.roots,
		Unchanged:          w.sameRefs,
	})
	w.next.Upstreams = set
	w.problem(problems...)
	for _, text := range set.Warnings() {
		w.problem(&spec.Problem{Entity: "upstreams", Reason: spec.ReasonCompile, Message: text})
	}
}

// clientCertificate answers the active pair of a certificate, for upstreams that ask for one.
func (w *build) clientCertificate(id string) (*certs.Bundle, error) {
	s := w.next.slots[id]
	if s == nil || len(s.Active) == 0 {
		return nil, fmt.Errorf("client certificate %s has no version in use", id)
	}
	return s.Active[0], nil
}

// roots answers the pool of the CAs named, with a fingerprint of the whole; nil
// ids mean the system's pool.
func (w *build) roots(ids []string) (*x509.CertPool, string, error) {
	if len(ids) == 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, "", fmt.Errorf("loading the system's trusted CAs: %w", err)
		}
		return pool, "system", nil
	}
	pool, sum := x509.NewCertPool(), sha256.New()
	for _, id := range ids {
		ders, why := w.caDER(id)
		if why != "" {
			return nil, "", errors.New(why)
		}
		for _, der := range ders {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, "", fmt.Errorf("parsing ca_certificate %s: %w", id, err)
			}
			pool.AddCert(c)
			sum.Write(der)
		}
	}
	return pool, hex.EncodeToString(sum.Sum(nil)[:8]), nil
}

// plugins compiles who consumers are, and the plugins.
func (w *build) plugins() {
	w.next.Directory = policy.NewDirectory(w.in.Document, w.in.Set)
	w.problem(w.next.Directory.Problems()...)
	env := w.Env
	env.Directory = w.next.Directory
	set := w.in.Set // not the build: plugins live longer than it
	env.Secret = func(text string) (secrets.Value, error) {
		if !secrets.IsRef(text) {
			return secrets.NewValue([]byte(text)), nil
		}
		ref, err := secrets.ParseRef(text)
		if err != nil {
			return secrets.Value{}, err
		}
		v, _, why := valueOf(set, spec.Secret{Ref: ref})
		if why != "" {
			return secrets.Value{}, errors.New(why)
		}
		return v, nil
	}
	var prev *policy.Compiler
	if w.prev != nil {
		prev = w.prev.compiler
	}
	w.next.compiler = policy.NewCompiler(prev, w.Kinds, &env, w.in.Document)
	w.next.global = w.next.compiler.Chain(nil, nil)
}

// bindAll binds every route to its service, cluster and plugin chain.
func (w *build) bindAll() {
	w.next.bindings = make([]binding, w.next.Table.Len())
	w.next.limits = w.routeLimits()
	kept := w.kept()
	for r := range w.next.Table.Routes() {
		if r.Index%512 == 511 {
			w.pause()
		}
		if b := kept(r); b != nil {
			w.next.bindings[r.Index] = *b
		} else {
			w.rebind(r)
		}
	}
}

// rebind makes the binding of a route.
func (w *build) rebind(r *routing.Route) {
	b := &w.next.bindings[r.Index]
	*b = w.bind(r, w.service(r.Spec.Service))
	if len(r.Spec.Split) > 0 {
		b.split = w.split(r)
	}
}

// bind binds a route to a service, nil for none.
func (w *build) bind(r *routing.Route, service *spec.Service) binding {
	b := binding{route: r, service: service, closed: r.Broken, limit: w.next.limits[r.Spec.ID]}
	if service != nil {
		b.cluster, b.auth = w.next.Upstreams.Cluster(service.ID), w.next.auths[service.ID]
	}
	b.terms = w.terms(r, &b)
	b.chain = w.next.compiler.Chain(r.Spec, service)
	if b.closed == nil {
		b.closed = b.chain.Closed()
	}
	if b.closed == nil && b.auth != nil {
		b.closed = b.auth.closed
	}
	return b
}
