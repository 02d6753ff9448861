package translate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

// group is the paths of an Ingress that one host and one backend have in common: a route.
type group struct {
	name    string
	host    string
	backend Ref // unit, zero for a backend that cannot be served
	why     string
	paths   []path
	all     []path // of the group that this is a part of, by which its priority is
	service string // name of the backend's
	solver  bool   // it answers challenges of an authority and nothing else
}

// ingress makes the routes of an Ingress, and says what server names it has
// certificates for and whether it has a default backend.
func (w *run) ingress() {
	o, ok := w.subject.(*Ingress)
	if !ok || !w.ours(o.className()) {
		return
	}
	opts := w.options(o)
	groups := w.groups(o, opts)
	opts.closed = w.plugins(&o.Meta, "route", ids(groups))
	if w.refused {
		opts.closed = w.why
	}
	values := map[string][]any{}
	for _, g := range groups {
		w.route(g, opts, values)
	}
	if len(values) > 0 && !w.compose(values, opts.origins) {
		// What the route matches is right, or it would have been refused before.
		opts.closed, opts.fields, opts.tags = w.why, nil, nil
		values = map[string][]any{}
		for _, g := range groups {
			w.route(g, opts, values)
		}
		w.compose(values, nil)
	}
	w.servedNames(o, o.Spec.TLS)
	if o.Spec.DefaultBackend != nil {
		w.give(Ref{Kind: unitDefault}, claim{Object: RefOf(o), Created: o.CreationTimestamp})
	}
}

// groups brings the paths of an Ingress together by host and backend.
func (w *run) groups(o *Ingress, opts *options) []*group {
	var list []*group
	byName := map[string]*group{}
	for i, rule := range o.Spec.Rules {
		if rule.HTTP == nil {
			continue
		}
		for j := range rule.HTTP.Paths {
			p := &rule.HTTP.Paths[j]
			at := fmt.Sprintf("spec.rules[%d].http.paths[%d]", i, j)
			g := w.backendOf(o, &p.Backend, rule.Host, at+".backend")
			if known := byName[g.name]; known != nil {
				g = known
			} else {
				byName[g.name] = g
				list = append(list, g)
			}
			g.paths = append(g.paths, w.path(p, opts, at+".path"))
		}
	}
	var parts []*group
	for _, g := range list {
		g.solver = solves(&o.Meta, g.service, g.paths)
		parts = append(parts, g.parts()...)
	}
	return parts
}

// Bounds of what one route's expression says of paths.
const (
	mostConditions = 60      // the router finds a route by no more
	mostText       = 8 << 10 // an expression may be twice as long
)

// parts cuts a group with many paths into several routes, of one priority.
func (g *group) parts() []*group {
	g.all = g.paths
	list := []*group{g}
	conditions, text := 0, 0
	for i, p := range g.all {
		c := p.conditions()
		n := 0
		for _, s := range c {
			n += len(s)
		}
		if conditions+len(c) > mostConditions || text+n > mostText && i > 0 {
			next := *g
			next.name, next.paths = g.name+"."+strconv.Itoa(len(list)+1), nil
			list = append(list, &next)
			conditions, text = 0, 0
		}
		last := list[len(list)-1]
		if conditions == 0 {
			last.paths = nil
		}
		last.paths = append(last.paths, p)
		conditions, text = conditions+len(c), text+n
	}
	return list
}

// backendOf begins a group for a backend.
func (w *run) backendOf(o *Ingress, b *IngressBackend, host, at string) *group {
	shown := strings.ReplaceAll(host, "*", "_")
	switch {
	case b.Service != nil:
		port := b.Service.Port.Name
		if port == "" {
			port = strconv.Itoa(b.Service.Port.Number)
		}
		g := &group{name: strings.Join([]string{o.Namespace, o.Name, b.Service.Name, shown, port}, "."), host: host, service: b.Service.Name}
		w.serve(g, Ref{unitBackend, o.Namespace, portName(b.Service.Name, port)}, at+".service")
		return g
	case b.Resource != nil:
		why := "expected a service; a resource of kind " + b.Resource.Kind + " cannot be served"
		w.find(at+".resource", why, Closed)
		return &group{name: strings.Join([]string{o.Namespace, o.Name, host, b.Resource.Name, "resource"}, "."), host: host, why: why}
	}
	w.find(at, "expected a service", Closed)
	return &group{name: strings.Join([]string{o.Namespace, o.Name, host, "none"}, "."), host: host, why: "the path has no backend"}
}

// serve leads a group to a backend, which may have a reason not to serve.
func (w *run) serve(g *group, backend Ref, at string) {
	state, _ := w.value(backend).(backendState)
	switch {
	case state.Missing != "":
		w.find(at, state.Missing, Closed)
		g.why = state.Missing
	case state.Closed != "":
		g.why = state.Closed
		fallthrough
	default:
		g.backend = backend
	}
}

// route adds the values of a group's route.
func (w *run) route(g *group, opts *options, values map[string][]any) {
	if g.solver {
		opts = opts.ofSolver()
	}
	match := matcher{solver: g.solver, hosts: opts.aliases, methods: opts.methods, headers: opts.headers, snis: opts.snis, paths: g.paths}
	if g.host != "" {
		match.hosts = append([]string{g.host}, opts.aliases...)
	}
	expression := match.expression()
	match.paths = g.all
	r := map[string]any{
		"name": g.name, "expression": expression, "priority": match.priority(opts.regexPriority),
		"strip_path": false, "preserve_host": true, "tags": opts.tags,
	}
	for k, v := range opts.fields {
		r[k] = v
	}
	if g.backend.Kind != "" {
		r["service"] = serviceID(g.backend)
	}
	if why := firstOf(opts.closed, g.why); why != "" {
		r["x_keyway_closed"] = why
	}
	values["routes"] = append(values["routes"], r)
	if opts.rewrite != "" && opts.closed == "" {
		values["plugins"] = append(values["plugins"], map[string]any{
			"name": "request-transformer", "route": routeID(g), "config": map[string]any{"replace": map[string]any{"uri": opts.rewrite}}, "tags": opts.tags,
		})
	}
}

func routeID(g *group) string { return spec.DeriveID("routes", g.name) }

func ids(groups []*group) []string {
	list := make([]string, len(groups))
	for i, g := range groups {
		list[i] = routeID(g)
	}
	return list
}

// servedNames claims the server names of an Ingress for the certificates in its Secrets.
func (w *run) servedNames(o Object, sections []IngressTLS) {
	for i, t := range sections {
		if t.SecretName == "" {
			continue
		}
		if !objectName(t.SecretName) {
			w.ignore(fmt.Sprintf("spec.tls[%d].secretName", i), "expected the name of a Secret, not '"+t.SecretName+"'")
			continue
		}
		hosts := t.Hosts
		if len(hosts) == 0 {
			hosts = []string{"*"}
		}
		for j, host := range hosts {
			host = strings.ToLower(host)
			if !sniName(host) {
				w.ignore(fmt.Sprintf("spec.tls[%d].hosts[%d]", i, j), "expected the name of a host, of which the first label may be *, not '"+host+"'")
				continue
			}
			c := Ref{Kind: unitHost, Name: host}
			if _, twice := w.gives[c]; !twice { // the first section counts
				w.give(c, claim{Object: RefOf(o), Created: o.Common().CreationTimestamp, Secret: t.SecretName})
			}
		}
	}
}

// defaultBackend makes the route for what no other takes, of the oldest Ingress that
// asks for one.
func (w *run) defaultBackend() {
	first := w.first(w.collected(w.self), "spec.defaultBackend", "the default backend")
	if first == nil {
		return
	}
	o, ok := w.look(KindIngress, first.Object.Namespace, first.Object.Name).(*Ingress)
	if !ok || o.Spec.DefaultBackend == nil {
		return
	}
	w.subject = o
	opts := w.options(o)
	g := w.backendOf(o, o.Spec.DefaultBackend, "", "spec.defaultBackend")
	g.name = o.Namespace + "." + o.Name
	g.paths = []path{{kind: prefixPath, text: "/"}}
	g.all = g.paths
	opts.closed = w.plugins(&o.Meta, "route", ids([]*group{g}))
	if w.refused {
		opts.closed = w.why
	}
	values := map[string][]any{}
	w.route(g, opts, values)
	r, _ := values["routes"][0].(map[string]any)
	r["priority"] = 0
	w.compose(values, opts.origins)
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func serviceID(backend Ref) string { return spec.DeriveID("services", serviceName(backend)) }

// serviceName is shop.web.80.
func serviceName(backend Ref) string {
	service, port, transport := splitPort(backend.Name)
	return strings.TrimSuffix(strings.Join([]string{backend.Namespace, service, port, transport}, "."), ".")
}

// upstreamName is web.shop.80.svc.
func upstreamName(backend Ref) string {
	service, port, transport := splitPort(backend.Name)
	if transport != "" {
		port += "." + transport
	}
	return strings.Join([]string{service, backend.Namespace, port, "svc"}, ".")
}

// sniName says whether a text can be a server name here.
func sniName(host string) bool {
	if host == "*" {
		return true
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(host, "*."), ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return len(host) <= 253
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
