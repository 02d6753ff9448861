package upstream

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Inputs is what Build compiles from.
type Inputs struct {
	Doc   *spec.Document
	Pools *Pools // of the node; the same one for every Build

	// ClientCertificate answers the pair to show to an origin, by id of the
	// certificate entity. An error closes the services that need it.
	ClientCertificate func(id string) (*certs.Bundle, error)
	// ServiceCertificate answers the pair of a service's own credential, by the
	// service's id, nil for none. It comes before ClientCertificate; nil for never.
	ServiceCertificate func(id string) *certs.Bundle
	// Unchanged says that all three answer what they answered when the previous Set was made.
	Unchanged bool
	// Roots answers a pool of CA certificates by ids of the entities, and a
	// fingerprint that changes with its content. No ids ask for the node's
	// trusted bundle; a nil pool is the system's.
	Roots func(ids []string) (*x509.CertPool, string, error)
}

// Set is the compiled way out of one document. Immutable but for positions and
// health inside; safe for concurrent use.
type Set struct {
	clusters map[string]*Cluster  // by id of the service
	named    map[string]*balancer // by id of the upstream
	direct   map[string]*balancer // by host:port, of services without an upstream
	sorted   []*balancer          // of named, by name
	pools    *Pools
	warnings []string
}

// Cluster is where the requests of one service go. Immutable, safe for concurrent use.
type Cluster struct {
	of       *spec.Service  // nil where it has to be compiled each time
	up       *spec.Upstream // that its host names, nil for none
	name     string         // of the service, for messages
	protocol string         // of the service
	closed   error          // why no request can be served, nil when it can
	sealed   error          // why no stream can be, likewise
	pools    *Pools
	balancer *balancer
	tls      *transport // nil in clear
	proto    string     // "h2" for HTTP/2, "" for HTTP/1.1
	grpc     bool       // all its requests are gRPC's
	retries  int
	retry    Retrying
	connect  time.Duration
	read     time.Duration
	write    time.Duration
}

// Build compiles a document. Positions, health and load of targets that prev
// has too are carried over; prev may be nil. The Set is usable whatever the
// problems: a service that has one is closed and answers 503.
func Build(prev *Set, in Inputs) (*Set, spec.Problems) {
	s := &Set{
		clusters: make(map[string]*Cluster, len(in.Doc.Services)),
		named:    make(map[string]*balancer, len(in.Doc.Upstreams)),
		direct:   make(map[string]*balancer),
		pools:    in.Pools,
	}
	if prev == nil {
		prev = &Set{}
	}
	var problems spec.Problems
	byName := make(map[string]*spec.Upstream, len(in.Doc.Upstreams))
	targets := byUpstream(in.Doc)
	for _, u := range in.Doc.Upstreams {
		byName[strings.ToLower(u.Name)] = u
		b, bad := s.compile(prev.named[u.ID], &in, u, targets[u.ID])
		problems = append(problems, bad...)
		s.named[u.ID] = b
		s.sorted = append(s.sorted, b)
	}
	if by := func(a, b *balancer) int { return cmp.Compare(a.name, b.name) }; !slices.IsSortedFunc(s.sorted, by) {
		slices.SortFunc(s.sorted, by)
	}
	for _, svc := range in.Doc.Services {
		c, bad := s.cluster(prev, &in, svc, byName[strings.ToLower(svc.Host)])
		if bad != nil {
			problems = append(problems, bad)
		}
		s.clusters[svc.ID] = c
	}
	return s, problems
}

// byUpstream are the targets of each upstream, by its id. Mostly they stand together, and
// are a part of the document's list.
func byUpstream(doc *spec.Document) map[string][]*spec.Target {
	targets := make(map[string][]*spec.Target, len(doc.Upstreams))
	for list := doc.Targets; len(list) > 0; {
		of := list[0].Upstream
		n := 1
		for n < len(list) && list[n].Upstream == of {
			n++
		}
		if before := targets[of]; before == nil {
			targets[of] = list[:n:n]
		} else {
			targets[of] = slices.Concat(before, list[:n])
		}
		list = list[n:]
	}
	return targets
}

// Renewed yields the clusters of prev that a Set has others in place of.
func (s *Set) Renewed(prev *Set) iter.Seq2[*Cluster, *Cluster] {
	return func(yield func(was, is *Cluster) bool) {
		for id, was := range prev.clusters {
			if is := s.clusters[id]; is != was && !yield(was, is) {
				return
			}
		}
	}
}

// Cluster answers where a service's requests go, nil for an unknown id.
func (s *Set) Cluster(serviceID string) *Cluster { return s.clusters[serviceID] }

// Warnings lists what the document asks for and this node does otherwise, in
// words for the operator, each naming its object.
func (s *Set) Warnings() []string { return s.warnings }

// cluster compiles a service; up is the upstream its host names, or nil.
func (s *Set) cluster(prev *Set, in *Inputs, svc *spec.Service, up *spec.Upstream) (*Cluster, *spec.Problem) {
	var b *balancer
	if up != nil {
		b = s.named[up.ID]
	} else {
		b = s.single(prev, svc)
	}
	if was := prev.clusters[svc.ID]; was != nil && was.of == svc && was.up == up && was.balancer == b && was.pools == in.Pools && (was.tls == nil || in.Unchanged) {
		return was, nil
	}
	c := &Cluster{
		name:     cmp.Or(svc.Name, svc.ID),
		protocol: svc.Protocol,
		pools:    in.Pools,
		balancer: b,
		retries:  svc.Retries,
		retry:    newRetrying(svc.Retry, svc.Retries),
		connect:  time.Duration(svc.ConnectTimeout) * time.Millisecond,
		read:     time.Duration(svc.ReadTimeout) * time.Millisecond,
		write:    time.Duration(svc.WriteTimeout) * time.Millisecond,
	}
	c.sealed = fmt.Errorf("service %q: protocol %s takes requests, not streams; expected tcp, tls, tls_passthrough or udp", c.name, svc.Protocol)
	switch svc.Protocol {
	case "http", "https":
		if p := svc.UpstreamProtocol; p == "h2" || p == "h2c" {
			c.proto = "h2"
		}
	case "grpc", "grpcs":
		c.proto, c.grpc = "h2", true
	case "tcp", "tls", "tls_passthrough", "udp":
		c.sealed = nil
		c.closed = fmt.Errorf("service %q: protocol %s takes streams, not requests; expected http, https, grpc or grpcs", c.name, svc.Protocol)
	default:
		c.closed = fmt.Errorf("service %q: protocol %s is not served yet; expected http, https, grpc or grpcs", c.name, svc.Protocol)
		s.warnings = append(s.warnings, c.closed.Error())
		return c, nil
	}
	var err error
	if c.tls, err = in.transport(svc, up); err != nil {
		c.closed = fmt.Errorf("service %q: %w", c.name, err)
		c.sealed = c.closed
		field, _, _ := strings.Cut(err.Error(), ":")
		return c, &spec.Problem{
			Pos: svc.Pos, Entity: "services", ID: svc.ID, Name: svc.Name,
			Field: field, Reason: spec.ReasonCredential, Message: err.Error(),
		}
	}
	c.of, c.up = svc, up
	return c, nil
}

// single is the balancer of a service whose host is a name or an address.
func (s *Set) single(prev *Set, svc *spec.Service) *balancer {
	name := net.JoinHostPort(strings.Trim(svc.Host, "[]"), strconv.Itoa(svc.Port))
	if b := s.direct[name]; b != nil {
		return b
	}
	b := prev.direct[name]
	if b == nil {
		t := newTarget(name, svc.Host, uint16(svc.Port), 1)
		t.vitals, t.family = &vitals{}, newFamily()
		b = &balancer{name: name, targets: []*target{t}, epoch: new(atomic.Uint64), mean: &average{}, traits: traits{Balancing: spec.DefaultBalancing()}}
		b.budget, b.tally = newBudget(b.traits.RetryBudget), &tally{}
		b.resolve(s.pools.names)
		b.respin()
	}
	s.direct[name] = b
	return b
}

// compile makes the balancer of an upstream, or answers was, the previous one,
// when nothing about it changed.
func (s *Set) compile(was *balancer, in *Inputs, u *spec.Upstream, list []*spec.Target) (*balancer, spec.Problems) {
	if was != nil && was.of == u && slices.Equal(was.from, list) {
		return was, nil
	}
	b := &balancer{
		name: u.Name, id: u.ID, named: true,
		method: methodOf(u.Algorithm), hash: hashingOf(u), sticky: stickyOf(u), hostField: u.HostHeader,
		srvName: u.UseSRVName,
		rules:   newRules(&u.Healthchecks),
		traits:  traits{Balancing: spec.DefaultBalancing(), slots: u.Slots, zone: s.pools.set.Zone, node: s.pools.set.Node},
	}
	if u.Balancing != nil {
		b.traits.Balancing = *u.Balancing
	}
	var problems spec.Problems
	if bad := in.probing(b.rules, u); bad != nil {
		problems = append(problems, bad)
	}
	for _, t := range list {
		host, port, err := splitTarget(t.Target)
		if err == nil && len(b.targets) == maxTargets {
			err = fmt.Errorf("expected at most %d targets in one upstream", maxTargets)
		}
		if err != nil {
			problems = append(problems, &spec.Problem{
				Pos: t.Pos, Entity: "targets", ID: t.ID, Name: t.Target,
				Field: "target", Reason: spec.ReasonValue, Message: err.Error(),
			})
			continue
		}
		x := newTarget(net.JoinHostPort(host, strconv.Itoa(int(port))), host, port, t.Weight)
		x.zone, x.srv, x.token = t.Zone, true, b.sticky.token(x.label)
		b.targets = append(b.targets, x)
	}
	if len(problems) == 0 && (b.rules == nil || b.rules.active == nil || b.rules.active.tls == nil) {
		b.of, b.from = u, slices.Clone(list) // or it would keep the whole document's
	}
	if was != nil && was.sameAs(b) {
		was.of, was.from = b.of, b.from
		return was, problems
	}
	b.inherit(was, time.Now())
	b.resolve(s.pools.names)
	b.respin()
	return b, problems
}

// inherit takes over what is known of targets that were there before. Targets that
// join an upstream which serves already warm up.
func (b *balancer) inherit(was *balancer, now time.Time) {
	known := make(map[string]*target)
	b.epoch, b.mean, b.tally, b.budget = new(atomic.Uint64), &average{}, &tally{}, newBudget(b.traits.RetryBudget)
	if was != nil {
		b.epoch, b.mean, b.tally = was.epoch, was.mean, was.tally
		if b.traits.RetryBudget == was.traits.RetryBudget {
			b.budget = was.budget
		}
		b.turn.Store(was.turn.Load())
		for _, t := range was.targets {
			known[t.name] = t
		}
	}
	for _, t := range b.targets {
		if old := known[t.name]; old != nil {
			t.vitals, t.family = old.vitals, old.family
		} else {
			t.vitals, t.family = &vitals{}, newFamily()
			if len(known) > 0 {
				t.vitals.since.Store(now.UnixNano())
			}
		}
		// An ejection by rules that are gone must not stay: nothing would end it.
		if b.rules == nil && was != nil && was.rules != nil {
			t.vitals.absolve()
			t.family.absolve()
		}
	}
}

// sameAs compares what was compiled, not what happened since.
func (b *balancer) sameAs(o *balancer) bool {
	return b.name == o.name && b.method == o.method && b.hash == o.hash && b.sticky == o.sticky && b.traits == o.traits &&
		b.hostField == o.hostField && b.srvName == o.srvName && b.rules.equal(o.rules) &&
		slices.EqualFunc(b.targets, o.targets, func(x, y *target) bool {
			return x.name == y.name && x.weight == y.weight && x.zone == y.zone
		})
}

// splitTarget reads host[:port]; without a port it is 8000.
func splitTarget(s string) (host string, port uint16, err error) {
	host, digits, err := net.SplitHostPort(s)
	if err != nil {
		return strings.Trim(s, "[]"), 8000, nil
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || host == "" {
		return "", 0, fmt.Errorf("expected host[:port], got %q", s)
	}
	return host, uint16(n), nil
}

// newTarget makes a target without vitals.
func newTarget(name, host string, port uint16, weight int) *target {
	t := &target{name: name, host: strings.Trim(host, "[]"), port: port, weight: weight, label: name, plain: name, secure: name}
	bare := t.host
	if strings.Contains(bare, ":") {
		bare = "[" + bare + "]"
	}
	switch port {
	case 80:
		t.plain = bare
	case 443:
		t.secure = bare
	}
	if a, err := netip.ParseAddr(t.host); err == nil {
		t.addr = netip.AddrPortFrom(a.Unmap(), port)
	}
	return t
}
