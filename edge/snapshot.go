package edge

import (
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
	"github.com/keyway-edge/keyway/secrets"
)

// Snapshot is everything that a connection or a request needs. Immutable after
// Build; the parts that move on their own (pools, counters, health) are shared
// by snapshots and guard themselves.
type Snapshot struct {
	Generation uint64
	Built      time.Time
	Document   *spec.Document
	Set        *secrets.Set
	Problems   spec.Problems               // what is quarantined or served with a remark
	told       [partsOfBuild]spec.Problems // those, by the part of the build that found them

	Table     *routing.Table
	Certs     *certs.Index
	Upstreams *upstream.Set
	Directory *policy.Directory

	slots    map[string]*certs.Slot   // by id of the certificate
	policies map[string]*certs.Policy // by id of the TLS policy; "" is the default one
	def      *certs.Slot              // default slot, nil without one
	// sameSlots says that both are those of the snapshot before.
	sameSlots bool
	compiler  *policy.Compiler
	bindings  []binding                // by routing.Route.Index
	limits    map[string]*routeLimit   // by route id
	global    *policy.Chain            // of requests that no route matched
	auths     map[string]*upstreamAuth // by id of the service
	refusals  map[string]bool          // references that a rule refused, with who uses them
	pairs     map[string]*certs.Bundle // shown to upstreams by x_keyway_upstream_auth, by id of the service
	devNames  map[string]bool

	streams        *routing.Streams
	streamBindings map[streamKey]Routed

	listens  []*Listen                // what documents want open
	fallback map[string]*certs.Policy // TLS policy of names that have none, by address of the listener

	hostnames map[string]*hostnames // that listeners tell apart, by address of the listener
}

// binding is what one route leads to. closed is why it answers 503 instead:
// a route whose plugin, credential or expression failed is never served without it.
type binding struct {
	route   *routing.Route
	service *spec.Service
	cluster *upstream.Cluster
	chain   *policy.Chain
	auth    *upstreamAuth // nil for none
	closed  *spec.Problem
	limit   *routeLimit // nil for none
	split   *split      // that chooses another binding for each request, nil for none
	terms   *terms      // nil for the service's alone
}

// Slot answers the slot of a certificate by the certificate's id.
func (s *Snapshot) Slot(id string) *certs.Slot { return s.slots[id] }

// Slots yields every certificate slot with its certificate's id, the default one as "default".
func (s *Snapshot) Slots(yield func(string, *certs.Slot) bool) {
	if s.def != nil && !yield("default", s.def) {
		return
	}
	for _, c := range s.Document.Certificates {
		if slot := s.slots[c.ID]; slot != nil && !yield(c.ID, slot) {
			return
		}
	}
}

// Unserved yields the certificates that never had a version, of which there is no slot
// therefore, and why.
func (s *Snapshot) Unserved(yield func(*spec.Certificate, string) bool) {
	if len(s.slots) == len(s.Document.Certificates) {
		return
	}
	why := map[string]string{}
	for _, p := range s.Problems {
		if p.Entity == "certificates" && why[p.ID] == "" {
			why[p.ID] = p.Field + ": " + p.Message
		}
	}
	for _, c := range s.Document.Certificates {
		if s.slots[c.ID] == nil && !yield(c, why[c.ID]) {
			return
		}
	}
}
