package edge

import (
	"errors"
	"math/bits"
	"math/rand/v2"
	"net/http"
	"sync/atomic"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
)

// turns is a way round a circle in steps that never fall on one another: of any run of
// them each arc gets the part that is its length, as nearly as whole steps can.
type turns struct{ at atomic.Uint64 }

// goldenStep is the circle, 2^64, divided by the golden ratio.
const goldenStep = 0x9e3779b97f4a7c15

// begin chooses where: nodes that began at one place would send their requests to one service together.
func (t *turns) begin() { t.at.Store(rand.Uint64()) } //nolint:gosec // nothing is kept secret by it

// next answers a number below whole, of which each comes as often as any other.
func (t *turns) next(whole uint64) uint64 {
	n, _ := bits.Mul64(t.at.Add(goldenStep), whole)
	return n
}

// chooser chooses a share of an x_keyway_split. Immutable but for its turns.
type chooser struct {
	turns turns
	ends  []uint64 // running sums of the weights
}

func newChooser(shares []spec.Share) *chooser {
	c := &chooser{ends: make([]uint64, len(shares))}
	c.turns.begin()
	sum := uint64(0)
	for i, s := range shares {
		sum += uint64(s.Weight)
		c.ends[i] = sum
	}
	return c
}

// choose answers the index of the share whose turn it is, -1 when no weight is more than 0.
func (c *chooser) choose() int {
	n := c.turns.next(c.ends[len(c.ends)-1])
	for i, end := range c.ends {
		if n < end {
			return i
		}
	}
	return -1
}

// split is the bindings of a route with x_keyway_split.
type split struct {
	chooser *chooser
	shares  []binding
	void    binding // of requests that fall on no share
}

func (s *split) choose() *binding {
	if i := s.chooser.choose(); i >= 0 {
		return &s.shares[i]
	}
	return &s.void
}

// split makes the bindings of a route.
func (w *build) split(r *routing.Route) *split {
	s := &split{chooser: newChooser(r.Spec.Split), void: w.bind(r, nil), shares: make([]binding, len(r.Spec.Split))}
	for i, one := range r.Spec.Split {
		s.shares[i] = w.bind(r, w.service(one.Service))
	}
	return s
}

var errNoShare = errors.New("the part of x_keyway_split that this request fell on has no service")

// nowhere answers a request for which there is no service.
func (b *binding) nowhere() *policy.Reply {
	if len(b.route.Spec.Split) == 0 {
		return &policy.Reply{Status: http.StatusServiceUnavailable, Message: "no Service found with those values"}
	}
	reply := policy.ErrorReply(http.StatusInternalServerError, "")
	reply.Err = errNoShare
	return reply
}

// splitStreams makes what the streams of a route lead to.
func (w *build) splitStreams(to *Routed, protocol string) {
	to.chooser = newChooser(to.Route.Split)
	for _, one := range to.Route.Split {
		s, bad := w.bindStream(to.Route, w.service(one.Service), protocol)
		if bad != nil && one.Service != "" {
			w.problem(bad)
		}
		to.Shares = append(to.Shares, RoutedShare{s, one.Weight})
	}
}

// Chosen answers where one stream goes: what the route leads to, or a share of it.
func (r *Routed) Chosen() Routed {
	if r.chooser == nil {
		return *r
	}
	if i := r.chooser.choose(); i >= 0 {
		return r.Shares[i].Routed
	}
	return *r
}

// RoutedShare is one part of a split.
type RoutedShare struct {
	Routed
	Weight int
}

// Routed is what the snapshot would do with a request, for explanations.
type Routed struct {
	Route   *spec.Route
	Service *spec.Service
	Cluster *upstream.Cluster
	Chain   *policy.Chain
	Closed  *spec.Problem
	// Shares are what the route leads to where it has an x_keyway_split, in its order.
	Shares []RoutedShare

	chooser *chooser // of a stream's share, nil for none
}

// Routed answers what a compiled route leads to.
func (s *Snapshot) Routed(r *routing.Route) Routed {
	b := &s.bindings[r.Index]
	to := b.routed()
	if b.split != nil {
		for i := range b.split.shares {
			to.Shares = append(to.Shares, RoutedShare{b.split.shares[i].routed(), r.Spec.Split[i].Weight})
		}
	}
	return to
}

func (b *binding) routed() Routed {
	return Routed{Route: b.route.Spec, Service: b.service, Cluster: b.cluster, Chain: b.chain, Closed: b.closed}
}
