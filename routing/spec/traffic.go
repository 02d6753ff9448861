package spec

import (
	"net/netip"
	"slices"
	"strings"
)

// Share is one service of a route's x_keyway_split and its part of the requests.
type Share struct {
	Service string // id, "" for null: requests of this share are answered 500
	Weight  int    // of the sum of all weights
}

// Mirror is a service that gets a copy of a part of a route's requests.
type Mirror struct {
	Service     string // id
	Numerator   int    // so many of each Denominator requests
	Denominator int
}

// Timeouts (x_keyway_timeouts) are a route's own limits of time, in milliseconds; 0 for none.
type Timeouts struct {
	Request int // from the head of the request to the end of the response
	Attempt int // of each try on a target, to the end of its response
}

// Listener (x_keyway_listeners) is a port that is open while a document has it.
type Listener struct {
	Meta
	Name      string
	Protocol  string // http https tls tcp udp
	Port      int
	Address   string   // an IP address, "" for all
	TLSPolicy string   // id of a TLSPolicy, "" for none
	Hostnames []string // that it tells apart; none for all as one
}

// shares and mirrors are the lists of these records as fields see them.
type (
	shares  []Share
	mirrors []Mirror
)

func (l *shares) count() int { return len(*l) }

func (l *shares) begin(n int) { *l = repeated(Share{Weight: 1}, n) }

func (l *shares) fields(i int, visit func(field)) {
	s := &(*l)[i]
	visit(field{"service", &s.Service, shareService})
	visit(field{"weight", &s.Weight, shareWeight})
}

func (l *mirrors) count() int { return len(*l) }

func (l *mirrors) begin(n int) { *l = repeated(Mirror{Numerator: 1, Denominator: 1}, n) }

// repeated is a list of so many of v; an empty list is null, as everywhere.
func repeated[T any](v T, n int) []T {
	if n == 0 {
		return nil
	}
	return slices.Repeat([]T{v}, n)
}

func (l *mirrors) fields(i int, visit func(field)) {
	m := &(*l)[i]
	visit(field{"service", &m.Service, mirrorService})
	visit(field{"numerator", &m.Numerator, mirrorPart})
	visit(field{"denominator", &m.Denominator, mirrorWhole})
}

func (t *Timeouts) fields(visit func(field)) {
	visit(field{"request", &t.Request, retryTimeout})
	visit(field{"attempt", &t.Attempt, retryTimeout})
}

func (l *Listener) fields(visit func(field)) {
	visit(field{"name", &l.Name, policyName})
	visit(field{"protocol", &l.Protocol, listenerProtocol})
	visit(field{"port", &l.Port, listenerPort})
	visit(field{"address", &l.Address, listenerAddress})
	visit(field{"tls_policy", &l.TLSPolicy, sniPolicy})
	visit(field{"hostnames", &l.Hostnames, listenerHostnames})
}

// places are what two listeners cannot both have, none while that is not known. Requests
// over TLS and streams over TLS can have one port.
func (l *Listener) places() []string {
	if l.Port == 0 {
		return nil
	}
	address := l.Address
	if a, err := netip.ParseAddr(address); err == nil {
		address = a.Unmap().String()
	}
	at := " " + address + ":" + itoa(l.Port)
	switch l.Protocol {
	case "udp":
		return []string{"udp" + at}
	case "https":
		return []string{"requests" + at}
	case "tls":
		return []string{"streams" + at}
	}
	return []string{"requests" + at, "streams" + at}
}

// Services yields the ids of all services that a route may send requests to, without
// those of its mirrors; an id may come twice.
func (r *Route) Services(yield func(id string) bool) {
	if r.Service != "" && !yield(r.Service) {
		return
	}
	for _, s := range r.Split {
		if s.Service != "" && !yield(s.Service) {
			return
		}
	}
}

func (o *object) records(v *node, name string, list records) {
	items, ok := o.items(v, name, noRule)
	if !ok {
		return
	}
	list.begin(len(items))
	for i, item := range items {
		at := name + "." + itoa(i+1)
		if item.shape != shapeObject {
			o.bad(item, at, ReasonType, "expected a record")
			continue
		}
		inner := newObject(o.l, o.e, item, o.prefix+at+".") // whole, also among defaults
		list.fields(i, inner.field)
		inner.rest()
	}
}

func (w *encoder) records(depth int, name string, list records) {
	if list.count() == 0 {
		return
	}
	w.key(depth, name)
	w.WriteByte('\n')
	for i := range list.count() {
		w.indent(depth)
		w.WriteString("-\n")
		list.fields(i, func(f field) {
			if text, ok := f.at.(*string); ok && *text == "" && f.rule.written {
				w.key(depth+1, f.name)
				w.scalar("null")
				return
			}
			w.member(depth+1, f.name, f.at)
		})
	}
}

// judgeTraffic holds what a route says of sharing, copying and timing requests to its
// protocols, of which set is the first one's kind.
func (o *object) judgeTraffic(r *Route, set string) {
	if len(r.Split) > 0 && r.Service != "" {
		where := "service"
		if o.through == where {
			where = "x_keyway_split" // it is nested in the service
		}
		o.conflict(where, "a route has either a 'service' or an 'x_keyway_split' that chooses it; remove one of the two")
	}
	for i, m := range r.Mirrors {
		if m.Numerator > m.Denominator {
			o.bad(o.at("x_keyway_mirrors"), "x_keyway_mirrors."+itoa(i+1)+".numerator", ReasonConflict, "expected at most the denominator, "+itoa(m.Denominator))
		}
	}
	if len(r.ExceptSNIs) > 0 && !slices.Contains(r.Protocols, "tls") && !slices.Contains(r.Protocols, "tls_passthrough") {
		o.conflict("x_keyway_except_snis", "'x_keyway_except_snis' can only be set when 'protocols' is 'tls' or 'tls_passthrough'")
	}
	if set == "http" || set == "grpc" {
		return
	}
	for _, name := range []string{"x_keyway_mirrors", "x_keyway_timeouts", "x_keyway_retry"} {
		if v := o.n.get(name); v != nil && len(v.items) > 0 {
			o.conflict(name, "cannot set '"+name+"' when 'protocols' is 'tcp', 'tls', 'tls_passthrough' or 'udp': it is of requests")
		}
	}
}

func (o *object) judgeListener(l *Listener) {
	if l.TLSPolicy != "" && l.Protocol != "https" && l.Protocol != "tls" {
		o.conflict("tls_policy", "expected nothing, since 'protocol' is '"+l.Protocol+"'; TLS is ended on listeners of protocol https and tls")
	}
	if len(l.Hostnames) > 0 && l.Protocol != "https" && l.Protocol != "tls" {
		o.conflict("hostnames", "expected nothing, since 'protocol' is '"+l.Protocol+"'; clients name a host before anything else on listeners of protocol https and tls")
	}
}

// checkHostname takes a name, *.example.com for all that end so, and * for all others.
func checkHostname(s string) string {
	if strings.HasSuffix(s, ".*") {
		return "wildcard must be leftmost label"
	}
	return checkSNI(s)
}

func checkAddress(s string) string {
	if _, err := netip.ParseAddr(s); err != nil || strings.Contains(s, "%") {
		return "invalid value '" + s + "': expected an IP address, or nothing for all addresses"
	}
	return ""
}
