package edge

import (
	"maps"

	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
)

// part is one step of a build. keep has the next snapshot share what the one before has,
// where nothing differs that the step looks at, and answers whether it did: most documents
// differ from the one before in a route or a few targets. What was a problem is told again.
type part struct {
	make func()
	keep func() bool // nil for never
}

// parts are the steps in the order in which they need each other.
func (w *build) parts() [partsOfBuild]part {
	return [...]part{
		{w.certificates, w.keepCertificates},
		{w.tlsPolicies, w.keepTLSPolicies},
		{w.listeners, w.keepListeners},
		{w.index, w.keepIndex},
		{w.auths, w.keepAuths},
		{w.upstreams, nil},
		{w.routes, w.keepRoutes},
		{w.plugins, w.keepPlugins},
		{w.bindAll, w.keepBindings},
		{w.streams, w.keepStreams},
		{w.compare, nil},
	}
}

const partsOfBuild = 11

// look finds out what differs from the build before. sameRefs says that it is another
// document that has the same entities of all kinds that credentials have to do with, and
// that the set of credentials is the same: then nothing that decides about certificates
// and plugins differs. What time, rulings and orders change is looked at by builds of the
// document in force, which follow each of them. onlyTargets says that the document differs
// in nothing but targets.
func (w *build) look() {
	prev, in := w.prev, w.in
	w.sameRefs = prev != nil && prev.Document != in.Document && prev.Set == in.Set && in.Order == nil && in.Document.SharesRefs(prev.Document)
	w.onlyTargets = w.sameRefs && in.Document.SharesAllBut("targets", prev.Document)
	if w.sameRefs {
		w.next.refusals = maps.Clone(prev.refusals)
	}
}

func (w *build) keepCertificates() bool {
	if w.sameRefs {
		w.next.slots, w.next.def, w.next.sameSlots = w.prev.slots, w.prev.def, true
	}
	return w.sameRefs
}

func (w *build) keepTLSPolicies() bool {
	if w.sameRefs {
		w.next.policies = w.prev.policies
	}
	return w.sameRefs
}

func (w *build) keepListeners() bool {
	if w.sameRefs {
		w.next.listens, w.next.fallback, w.next.hostnames = w.prev.listens, w.prev.fallback, w.prev.hostnames
	}
	return w.sameRefs
}

// keepIndex looks at routes too: in development their hosts get certificates.
func (w *build) keepIndex() bool {
	same := w.onlyTargets || w.sameRefs && !w.Config.Development
	if same {
		w.next.Certs, w.next.devNames = w.prev.Certs, w.prev.devNames
	}
	return same
}

func (w *build) keepAuths() bool {
	if w.sameRefs {
		w.next.auths, w.next.pairs = w.prev.auths, w.prev.pairs
	}
	return w.sameRefs
}

func (w *build) keepRoutes() bool {
	if w.onlyTargets {
		w.next.Table = w.prev.Table
	}
	return w.onlyTargets
}

// keepPlugins has plugins compiled again, where one of them is a problem, for other routes:
// what is wrong may be so for routes that are gone.
func (w *build) keepPlugins() bool {
	same := w.onlyTargets || w.sameRefs && len(w.prev.compiler.Problems()) == 0
	if same {
		w.next.Directory, w.next.compiler, w.next.global = w.prev.Directory, w.prev.compiler, w.prev.global
	}
	return same
}

// keepBindings is for where routes lead to the very clusters that they led to.
func (w *build) keepBindings() bool {
	if !w.onlyTargets {
		return false
	}
	w.next.bindings, w.next.limits = w.prev.bindings, w.prev.limits
	for range w.next.Upstreams.Renewed(w.prev.Upstreams) {
		return false
	}
	return true
}

// kept answers what binds a route, if it is what bound it before but for the cluster; nil if
// it has to be bound anew.
func (w *build) kept() func(*routing.Route) *binding {
	if !w.sameRefs || w.next.compiler != w.prev.compiler {
		return func(*routing.Route) *binding { return nil }
	}
	renewed := make(map[*upstream.Cluster]*upstream.Cluster)
	for was, is := range w.next.Upstreams.Renewed(w.prev.Upstreams) {
		renewed[was] = is
	}
	var b binding
	return func(r *routing.Route) *binding {
		if r.Index >= len(w.prev.bindings) || w.prev.bindings[r.Index].route != r {
			return nil
		}
		if b = w.prev.bindings[r.Index]; b.split != nil || b.terms != nil { // which hold clusters of their own
			return nil
		}
		if is := renewed[b.cluster]; is != nil {
			b.cluster = is
		}
		return &b
	}
}

func (w *build) keepStreams() bool {
	if !w.onlyTargets || w.prev.streams.Len() > 0 {
		return false
	}
	w.next.streams, w.next.streamBindings = w.prev.streams, w.prev.streamBindings
	return true
}

// service answers a service of the document by its id, nil for none.
func (w *build) service(id string) *spec.Service {
	if w.services == nil {
		w.services = make(map[string]*spec.Service, len(w.in.Document.Services))
		for _, s := range w.in.Document.Services {
			w.services[s.ID] = s
		}
	}
	return w.services[id]
}
