package routing

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/routing/expr"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Protocols of streams.
const (
	TCP         = "tcp"
	TLS         = "tls"             // terminated here
	Passthrough = "tls_passthrough" // only looked at
	UDP         = "udp"
)

// StreamRoute is one route of a Streams. Immutable.
type StreamRoute struct {
	Spec  *spec.Route
	Index int // its place, from 0 to Len()-1, for tables beside it

	priority uint64
	expr     *expr.Expr // says it all; nil for none
	snis     []nameTest
	except   []nameTest // that it is not for
	sources  []addressTest
	dests    []addressTest
}

// Streams is the compiled stream routes of one document. Immutable, safe for
// concurrent use.
type Streams struct {
	routes []*StreamRoute // by rank
	named  map[string][]int32
	others []int32 // ranks of routes that a whole server name does not lead to
}

// StreamQuery is what of a connection decides about its route.
type StreamQuery struct {
	Protocol            string         // as of StreamRoute.Spec.Protocols
	ServerName          string         // of the ClientHello, "" for none
	Source, Destination netip.AddrPort // the client, and where it connected to
}

// addressTest is an address or range, a port, or both.
type addressTest struct {
	within netip.Prefix // not valid for any
	port   uint16       // 0 for any
}

func (t addressTest) matches(a netip.AddrPort) bool {
	return (t.port == 0 || t.port == a.Port()) && (!t.within.IsValid() || t.within.Contains(a.Addr()))
}

// CompileStreams makes the table of a document's routes for streams, but for those
// of disabled services.
func CompileStreams(doc *spec.Document) *Streams {
	disabled := map[string]bool{}
	for _, s := range doc.Services {
		if !s.Enabled {
			disabled[s.ID] = true
		}
	}
	t := &Streams{named: map[string][]int32{}}
	for _, s := range doc.Routes {
		if len(s.Protocols) == 0 || forHTTP(s) || disabled[s.Service] {
			continue
		}
		r := &StreamRoute{Spec: s, Index: len(t.routes), sources: addressTests(s.Sources), dests: addressTests(s.Destinations)}
		for _, name := range s.SNIs {
			r.snis = append(r.snis, newNameTest(strings.ToLower(strings.TrimSuffix(name, "."))))
		}
		for _, name := range s.ExceptSNIs {
			r.except = append(r.except, newNameTest(strings.ToLower(strings.TrimSuffix(name, "."))))
		}
		r.priority = streamPriority(s)
		if s.Expression != "" {
			e, err := expr.Parse(s.Expression)
			if err != nil {
				continue // documents are checked when they are read
			}
			if r.expr, r.priority = e, 0; s.Priority != nil {
				r.priority = uint64(*s.Priority) //nolint:gosec // documents are checked when they are read
			}
		}
		t.routes = append(t.routes, r)
	}
	slices.SortFunc(t.routes, func(a, b *StreamRoute) int {
		if x := a.expr != nil; x != (b.expr != nil) { // expressions come before everything else
			if x {
				return -1
			}
			return 1
		}
		if a.priority != b.priority {
			return cmp.Compare(b.priority, a.priority)
		}
		return strings.Compare(b.Spec.ID, a.Spec.ID)
	})
	t.index()
	return t
}

// index files routes under their server names, so that of thousands of names only a
// few are compared.
func (t *Streams) index() {
	for i, r := range t.routes {
		rank := int32(i) //nolint:gosec // a table has fewer routes than 2^31
		// In clear names are not looked at: such a route is not led to by them alone.
		rest := len(r.snis) == 0 || slices.Contains(r.Spec.Protocols, TCP) || slices.Contains(r.Spec.Protocols, UDP)
		for _, name := range r.snis {
			if name.kind == whole {
				t.named[name.text] = append(t.named[name.text], rank)
			} else {
				rest = true
			}
		}
		if rest {
			t.others = append(t.others, rank)
		}
	}
}

// Bits of a priority for what an address of a route says, as the format's own router
// weighs them.
const (
	bitRange   = 1
	bitPort    = 4
	bitAddress = 8
)

// streamPriority orders routes: names and a pair of source and destination count one
// each, then how narrow sources are, then destinations.
func streamPriority(r *spec.Route) uint64 {
	var kinds uint64
	if len(r.SNIs) > 0 {
		kinds++
	}
	if len(r.Sources) > 0 && len(r.Destinations) > 0 {
		kinds++
	}
	return kinds<<61 | narrowness(r.Sources)<<4 | narrowness(r.Destinations)
}

func narrowness(list []spec.Endpoint) (bits uint64) {
	for _, e := range list {
		switch {
		case strings.Contains(e.IP, "/"):
			bits |= bitRange
		case e.IP != "":
			bits |= bitAddress
		}
		if e.Port != 0 {
			bits |= bitPort
		}
	}
	return bits
}

func addressTests(list []spec.Endpoint) []addressTest {
	tests := make([]addressTest, 0, len(list))
	for _, e := range list {
		t := addressTest{port: uint16(e.Port)} //nolint:gosec // documents are checked: 0 to 65535
		switch p, err := netip.ParsePrefix(e.IP); {
		case e.IP == "":
		case err == nil:
			t.within = p.Masked()
		default:
			a, err := netip.ParseAddr(e.IP)
			if err != nil {
				continue // documents are checked: it cannot be
			}
			t.within = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		}
		tests = append(tests, t)
	}
	return tests
}

// Len is the number of routes.
func (t *Streams) Len() int { return len(t.routes) }

// Routes are the routes in the order in which they are tried. The list is not to be changed.
func (t *Streams) Routes() []*StreamRoute { return t.routes }

// Find answers the route of a connection, nil for none. In clear, server names are
// not looked at.
func (t *Streams) Find(q *StreamQuery) *StreamRoute {
	p := *q
	p.ServerName = strings.ToLower(q.ServerName)
	p.Source, p.Destination = unmapped(q.Source), unmapped(q.Destination)
	best := int32(math.MaxInt32)
	look := func(ranks []int32) {
		for _, rank := range ranks {
			if rank >= best {
				return
			}
			if t.routes[rank].matches(&p) {
				best = rank
			}
		}
	}
	look(t.named[p.ServerName])
	look(t.others)
	if best == math.MaxInt32 {
		return nil
	}
	return t.routes[best]
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

func (r *StreamRoute) matches(q *StreamQuery) bool {
	if !slices.Contains(r.Spec.Protocols, q.Protocol) {
		return false
	}
	if r.expr != nil {
		return r.expr.Match(&expr.Request{Protocol: q.Protocol, SNI: q.ServerName, Src: q.Source, Dst: q.Destination}, nil)
	}
	if q.Protocol == TLS || q.Protocol == Passthrough {
		if len(r.snis) > 0 && !named(r.snis, q.ServerName) || named(r.except, q.ServerName) {
			return false
		}
	}
	return anyAddress(r.sources, q.Source) && anyAddress(r.dests, q.Destination)
}

func named(tests []nameTest, name string) bool {
	return name != "" && slices.ContainsFunc(tests, func(t nameTest) bool { return t.matches(name) })
}

func anyAddress(tests []addressTest, a netip.AddrPort) bool {
	return len(tests) == 0 || slices.ContainsFunc(tests, func(t addressTest) bool { return t.matches(a) })
}
