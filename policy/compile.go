package policy

import (
	"slices"

	"github.com/keyway-edge/keyway/routing/spec"
)

// Compiler turns the plugins of one document into chains. It belongs to one
// snapshot and is used by the goroutine that builds it; the chains it answers
// are immutable and safe for concurrent use.
type Compiler struct {
	env      *Env
	units    map[string]*unit // by id of the plugin entity; kept for the next compiler
	families []*family        // those in use, in Order
	byRoute  map[string]bool  // routes that plugins name
	bySvc    map[string]bool  // services that plugins name without a route
	narrow   bool             // some plugin leaves out a protocol
	ordered  bool             // some plugin has an ordering
	shared   map[chainKey]*Chain
	global   *Chain
	problems spec.Problems
}

// family is every configured use of one plugin name.
type family struct {
	name  string
	names bool                       // it authenticates: it names the client
	plain map[place]*unit            // for everybody
	named map[place]map[string]*unit // by id of the consumer
	group map[place]map[string]*unit // by id of the consumer group
}

// place is a scope but for its consumer or consumer group: ids, "" for any.
type place struct{ route, service string }

// chainKey names chains that are the same for every route without plugins of its own.
type chainKey struct {
	service string
	grpc    bool
}

// NewCompiler compiles the enabled plugins of doc, each entity once. Those whose
// entity and secrets are as they were in prev, which may be nil, are taken over
// from it. It never fails: a plugin that does not compile is listed in Problems
// and closes what it serves.
func NewCompiler(prev *Compiler, kinds []Kind, env *Env, doc *spec.Document) *Compiler {
	c := &Compiler{
		env:     env,
		units:   make(map[string]*unit, len(doc.Plugins)),
		byRoute: make(map[string]bool),
		bySvc:   make(map[string]bool),
		shared:  make(map[chainKey]*Chain),
	}
	byName := make(map[string]*Kind, len(kinds))
	for i := range kinds {
		byName[kinds[i].Schema.Name] = &kinds[i]
	}
	families := make(map[string]*family)
	for _, p := range doc.Plugins {
		if !p.Enabled {
			continue
		}
		u := c.unit(prev, byName[p.Name], p)
		f := families[p.Name]
		if f == nil {
			f = &family{name: p.Name, names: u.names, plain: make(map[place]*unit), named: make(map[place]map[string]*unit), group: make(map[place]map[string]*unit)}
			families[p.Name] = f
		}
		f.add(u)
		c.narrow = c.narrow || u.protocol&protoAll != protoAll
		c.ordered = c.ordered || p.Ordering != nil
		switch {
		case p.Route != "":
			c.byRoute[p.Route] = true
		case p.Service != "":
			c.bySvc[p.Service] = true
		}
	}
	c.order(families)
	c.global = &Chain{directory: env.Directory}
	c.global.walks = c.walks(nil, nil)
	c.global.global = c.global.walks
	return c
}

// unit takes over the unit of prev, or compiles.
func (c *Compiler) unit(prev *Compiler, kind *Kind, p *spec.Plugin) *unit {
	if prev != nil {
		if old := prev.units[p.ID]; old != nil && kind != nil && old.keeps(c.env, p) {
			c.units[p.ID] = old
			return old
		}
	}
	u := compileUnit(kind, c.env, p)
	c.units[p.ID] = u
	if u.problem != nil {
		c.problems = append(c.problems, u.problem)
	}
	return u
}

func (f *family) add(u *unit) {
	at := place{u.plugin.Route, u.plugin.Service}
	of, id := f.named, u.plugin.Consumer
	switch {
	case u.plugin.ConsumerGroup != "":
		of, id = f.group, u.plugin.ConsumerGroup
	case id == "":
		f.plain[at] = u
		return
	}
	if of[at] == nil {
		of[at] = make(map[string]*unit)
	}
	of[at][id] = u
}

// order sorts the families by Order. A name that is not there runs last, by name,
// so that the order is the same on every node.
func (c *Compiler) order(families map[string]*family) {
	for _, name := range Order {
		if f := families[name]; f != nil {
			c.families = append(c.families, f)
			delete(families, name)
		}
	}
	rest := make([]string, 0, len(families))
	for name := range families {
		rest = append(rest, name)
	}
	slices.Sort(rest)
	for _, name := range rest {
		c.families = append(c.families, families[name])
	}
}

// Problems lists the plugins that did not compile, and the orderings that cannot be kept in
// the chains that were asked for so far.
func (c *Compiler) Problems() spec.Problems { return c.problems }

// Chain is what runs for requests of route, whose service is service (nil for a
// route without one). A nil route stands for requests that no route matched,
// which only global plugins see.
func (c *Compiler) Chain(route *spec.Route, service *spec.Service) *Chain {
	if route == nil {
		return c.global
	}
	if c.byRoute[route.ID] {
		return c.build(route, service)
	}
	key := chainKey{grpc: speaksGRPC(route)}
	if service != nil && c.bySvc[service.ID] {
		key.service = service.ID
	}
	ch := c.shared[key]
	if ch == nil {
		ch = c.build(route, service)
		c.shared[key] = ch
	}
	return ch
}

func (c *Compiler) build(route *spec.Route, service *spec.Service) *Chain {
	ch := &Chain{directory: c.env.Directory, global: c.global.walks}
	ch.walks = c.walks(route, service)
	ch.close()
	return ch
}

// Stream is what runs for streams of route over protocol, whose service is service:
// the plugins that name the protocol, in the phases Access and Log.
func (c *Compiler) Stream(route *spec.Route, service *spec.Service, protocol string) *Chain {
	w := c.walk(route, service, protocolSet([]string{protocol}))
	ch := &Chain{directory: c.env.Directory, global: c.global.walks, walks: [2]*walk{w, w}}
	ch.close()
	return ch
}

// close notes the first plugin that did not compile, or the orderings for which nothing
// may be served.
func (ch *Chain) close() {
	for _, w := range ch.walks {
		if w.closed != nil && ch.closed == nil {
			ch.closed = w.closed
		}
		for _, s := range w.choices {
			if s.plain != nil && s.plain.problem != nil && ch.closed == nil {
				ch.closed = s.plain.problem
			}
		}
	}
}

// walks are those of clear and of secured requests; one when no plugin minds.
func (c *Compiler) walks(route *spec.Route, service *spec.Service) [2]*walk {
	clearBit, secureBit := protoHTTP, protoHTTPS
	if route != nil && speaksGRPC(route) {
		clearBit, secureBit = protoGRPC, protoGRPCS
	}
	w := c.walk(route, service, clearBit)
	if !c.narrow {
		return [2]*walk{w, w}
	}
	return [2]*walk{w, c.walk(route, service, secureBit)}
}

func (c *Compiler) walk(route *spec.Route, service *spec.Service, proto protocols) *walk {
	var r, s string
	if route != nil {
		r = route.ID
	}
	if service != nil {
		s = service.ID
	}
	w := &walk{}
	for _, f := range c.families {
		x := f.choose(r, s, proto)
		if x.plain != nil || len(x.scoped) > 0 {
			w.add(x)
		}
	}
	if c.ordered {
		c.reorder(w)
	}
	w.settle()
	return w
}

// choose resolves the twelve levels of precedence for one plugin name. From the most
// specific: route+service+consumer, route+service+group, route+consumer, service+consumer,
// route+group, service+group, route+service, consumer, group, route, service, global.
func (f *family) choose(route, service string, proto protocols) choice {
	both, onRoute, onService, anywhere := place{route, service}, place{route, ""}, place{"", service}, place{}
	s := choice{family: f, proto: proto}
	plain := func(at place) bool {
		if u := f.plain[at]; s.plain == nil && u != nil && u.protocol&proto != 0 {
			s.plain = u
			return true
		}
		return false
	}
	named := func(at place) {
		if m := f.named[at]; len(m) > 0 {
			s.scoped = append(s.scoped, level{units: m})
		}
	}
	grouped := func(at place) {
		if m := f.group[at]; len(m) > 0 {
			s.scoped = append(s.scoped, level{units: m, grouped: true})
		}
	}
	if route != "" && service != "" {
		named(both)
		grouped(both)
	}
	for _, of := range []func(place){named, grouped} {
		if route != "" {
			of(onRoute)
		}
		if service != "" {
			of(onService)
		}
	}
	if route != "" && service != "" && plain(both) {
		return s // it outranks a plugin that names a consumer alone
	}
	named(anywhere)
	grouped(anywhere)
	if route != "" {
		plain(onRoute)
	}
	if service != "" {
		plain(onService)
	}
	plain(anywhere)
	return s
}

func speaksGRPC(route *spec.Route) bool {
	return slices.Contains(route.Protocols, "grpc") || slices.Contains(route.Protocols, "grpcs")
}
