package translate

import (
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

// Kinds of units and collections.
const (
	unitIngress   = "ingress"   // routes
	unitStream    = "stream"    // routes of TCP or UDP; the name ends in the transport
	unitBackend   = "backend"   // a port of a Service: a service and its upstream
	unitEndpoints = "endpoints" // of that port: targets
	unitPlugin    = "plugin"    // a plugin object, by itself; without namespace one of the cluster
	unitConsumer  = "consumer"  // what a consumer claims
	unitGroup     = "group"     // what a group of consumers claims
	unitVault     = "vault"     // what a vault claims
	unitCustom    = "custom"    // what a custom entity claims
	unitAuthority = "authority" // what a Secret or ConfigMap of an authority claims

	unitGateway     = "gateway"      // listeners
	unitListenerSet = "listener-set" // which Gateway it is for
	unitRoute       = "route"        // of any kind; the name ends in the kind
	unitBackendTLS  = "backend-tls"  // a policy, by itself

	// Of collections of claims, named like them.
	unitDefault     = "default" // the one default backend
	unitHost        = "host"    // a server name
	unitPrefix      = "prefix"  // a vault, by its prefix
	unitAuthorityID = "authority-id"
	unitPerson      = "person" // a consumer whose names are its own; not of a collection
	unitParty       = "party"  // a group of consumers; likewise
	unitEntity      = "entity" // a custom entity whose name is its own; likewise
	unitNobody      = "nobody" // the TLS policy that lets nobody in
	collectUses     = "uses"   // of a plugin object: the scopes it is for
	unitScope       = "scope"  // a plugin of a document
	unitPair        = "pair"   // a certificate in a Secret; not of a collection
	unitPort        = "listen-port"
	unitAnchor      = "anchor" // the certificate of an authority, by its digest
	unitTie         = "tie"    // routes that take the same requests
	unitAddresses   = "addresses"

	// Collections that others read.
	collectSlices    = "slices" // the EndpointSlices of a Service
	collectGrants    = "grants" // of a namespace
	collectUsername  = "username"
	collectCustomID  = "custom-id"
	collectGroupName = "group-name"
	collectSets      = "sets"     // the ListenerSets of a Gateway
	collectAttached  = "attached" // the routes of a listener
	collectTLS       = "tls"      // the policies of a Service
	collectTLSPolicy = "tls-policy"
	collectPolicy    = "policy" // the Services of a KongUpstreamPolicy
	collectUsed      = "used"   // the Gateways whose routes lead to a Service
	declaredVaults   = "declared-vaults"
)

// ranks is how many steps there are from what only gives to collections to what
// only reads them.
const ranks = 4

// published is what is read of a unit's value: who reads it does not read what is said
// in the collection of that name.
func (r Ref) published() Ref {
	switch r.Kind {
	case collectUses, unitPort, unitTie, unitAddresses:
		r.Kind += "-value"
	}
	return r
}

// rank is the step at which a unit is made, unless one before needs what it says.
func (r Ref) rank() int {
	switch r.Kind {
	case unitDefault, unitHost, unitPerson, unitParty, unitEntity, unitPrefix, unitAuthorityID, unitPort, unitAnchor, unitTie, unitAddresses:
		return 1
	case collectUses:
		return 2
	case unitScope, unitPair:
		return 3
	}
	return 0
}

// unit is the unit that is made of an object or of a collection, zero for none.
func (r Ref) unit() Ref {
	switch r.Kind {
	case KindIngress:
		return Ref{unitIngress, r.Namespace, r.Name}
	case KindTCPIngress:
		return Ref{unitStream, r.Namespace, r.Name + ":tcp"}
	case KindUDPIngress:
		return Ref{unitStream, r.Namespace, r.Name + ":udp"}
	case KindPlugin, KindClusterPlugin:
		return pluginUnit(r.Namespace, r.Name)
	case KindConsumer:
		return Ref{unitConsumer, r.Namespace, r.Name}
	case KindConsumerGroup:
		return Ref{unitGroup, r.Namespace, r.Name}
	case KindVault:
		return Ref{unitVault, "", r.Name}
	case KindCustomEntity:
		return Ref{unitCustom, r.Namespace, r.Name}
	case KindAuthority:
		return Ref{unitAuthority, r.Namespace, r.Name}
	case KindAuthorityMap:
		return Ref{unitAuthority, r.Namespace, r.Name + ":map"}
	case KindGateway:
		return Ref{unitGateway, r.Namespace, r.Name}
	case KindListenerSet:
		return Ref{unitListenerSet, r.Namespace, r.Name}
	case KindBackendTLS:
		return Ref{unitBackendTLS, r.Namespace, r.Name}
	case KindHTTPRoute, KindGRPCRoute, KindTLSRoute, KindTCPRoute, KindUDPRoute:
		return Ref{unitRoute, r.Namespace, r.Name + ":" + r.Kind}
	case unitDefault, unitHost, unitPrefix, unitAuthorityID, collectUses, unitScope, unitPort, unitAnchor, unitTie, unitAddresses:
		return r
	}
	return Ref{}
}

// subject is the object that a unit is made of, zero for none.
func (r Ref) subject() Ref {
	name, more, _ := strings.Cut(r.Name, ":")
	switch r.Kind {
	case unitIngress:
		return Ref{KindIngress, r.Namespace, name}
	case unitBackend, unitEndpoints:
		return Ref{KindService, r.Namespace, name}
	case unitConsumer, unitPerson:
		return Ref{KindConsumer, r.Namespace, name}
	case unitGroup, unitParty:
		return Ref{KindConsumerGroup, r.Namespace, name}
	case unitVault:
		return Ref{KindVault, r.Namespace, name}
	case unitCustom, unitEntity:
		return Ref{KindCustomEntity, r.Namespace, name}
	case unitAuthority:
		if more != "" {
			return Ref{KindAuthorityMap, r.Namespace, name}
		}
		return Ref{KindAuthority, r.Namespace, name}
	case unitStream:
		if more == "udp" {
			return Ref{KindUDPIngress, r.Namespace, name}
		}
		return Ref{KindTCPIngress, r.Namespace, name}
	case unitGateway:
		return Ref{KindGateway, r.Namespace, name}
	case unitListenerSet:
		return Ref{KindListenerSet, r.Namespace, name}
	case unitBackendTLS:
		return Ref{KindBackendTLS, r.Namespace, name}
	case unitRoute:
		return Ref{more, r.Namespace, name}
	case unitPlugin:
		if r.Namespace == "" {
			return Ref{KindClusterPlugin, "", name}
		}
		return Ref{KindPlugin, r.Namespace, name}
	}
	return Ref{}
}

// wanted says whether a unit has a reason to be: its object, what is said in its
// collection, or another unit that needs it.
func (s *State) wanted(r Ref) bool {
	switch r.Kind {
	case unitIngress, unitStream, unitConsumer, unitGroup, unitVault, unitCustom, unitAuthority, unitRoute, unitListenerSet:
		return s.objects[r.subject()] != nil
	case unitDefault, unitHost, unitPrefix, unitAuthorityID, collectUses, unitScope, unitPort, unitAnchor, unitTie, unitAddresses:
		return len(s.collections[r]) > 0
	case unitPlugin, unitGateway, unitBackendTLS:
		return s.objects[r.subject()] != nil || s.asked[r] > 0
	}
	return s.asked[r] > 0
}

func (w *run) translate() {
	switch w.self.Kind {
	case unitIngress:
		w.ingress()
	case unitStream:
		w.stream()
	case unitBackend:
		w.backend()
	case unitEndpoints:
		w.endpoints()
	case unitPlugin:
		w.plugin()
	case unitConsumer:
		w.consumer()
	case unitGroup:
		w.consumerGroup()
	case unitVault:
		w.kongVault()
	case unitAuthority:
		w.authority()
	case unitDefault:
		w.defaultBackend()
	case unitHost:
		w.host()
	case unitPrefix:
		w.prefix()
	case unitAuthorityID:
		w.authorityID()
	case unitPerson:
		w.person()
	case unitParty:
		w.party()
	case collectUses:
		w.uses()
	case unitScope:
		w.scope()
	case unitPair:
		w.pair()
	case unitCustom:
		w.customEntity()
	case unitEntity:
		w.entity()
	case unitNobody:
		w.nobody()
	default:
		w.translateGateway()
	}
}

// translateGateway makes the units of Gateway API.
func (w *run) translateGateway() {
	switch w.self.Kind {
	case unitGateway:
		w.gateway()
	case unitListenerSet:
		w.listenerSet()
	case unitPort:
		w.listenPort()
	case unitAnchor:
		w.anchor()
	case unitTie:
		w.ties()
	case unitAddresses:
		w.addresses()
	case unitBackendTLS:
		w.backendTLS()
	case unitRoute:
		switch r, _ := w.subject.(*Route); {
		case r == nil:
		case r.kind == KindHTTPRoute || r.kind == KindGRPCRoute:
			w.requestRoute(r)
		default:
			w.streamRoute(r)
		}
	}
}

// portName is the name of a unit of a Service's port.
func portName(service, port string) string { return service + ":" + port }

// splitPort takes such a name apart. transport is "" for requests.
func splitPort(name string) (service, port, transport string) {
	service, port, _ = strings.Cut(name, ":")
	port, transport, _ = strings.Cut(port, ":")
	return service, port, transport
}

// run is one making of one unit.
type run struct {
	*State
	unit
	self    Ref
	subject Object
	refused bool   // something was, and leaving it out would widen access
	why     string // what was first

	gateways     []usedBy // that a route is attached to
	client       Ref      // certificate that one of them shows backends
	incompatible bool     // filters were refused that are right each by itself
}

// look answers an object, nil for none, and remembers that it was asked for.
func (w *run) look(kind, namespace, name string) Object {
	r := Ref{kind, namespace, name}
	w.reads[r] = struct{}{}
	return w.objects[r]
}

// need has another unit made.
func (w *run) need(r Ref) { w.unit.needs[r] = struct{}{} }

// value answers what another unit says, which is made if it has to be.
func (w *run) value(r Ref) any {
	w.reads[r], w.unit.needs[r] = struct{}{}, struct{}{}
	if _, dirty := w.dirty[r.rank()][r]; dirty || w.units[r] == nil {
		w.make(r, true)
	}
	return w.units[r].value
}

// say is what other units read of this one.
func (w *run) say(v any) { w.unit.value = v }

// give says something in a collection.
func (w *run) give(c Ref, v any) {
	if w.gives == nil {
		w.gives = map[Ref]any{}
	}
	w.gives[c] = v
}

// said is what one unit says in a collection.
type said struct {
	by Ref
	v  any
}

// collected is what units say in a collection, in order of their names.
func (w *run) collected(c Ref) []said {
	w.reads[c] = struct{}{}
	var list []said
	for by, v := range w.collections[c] {
		list = append(list, said{by, v})
	}
	slices.SortFunc(list, func(a, b said) int { return a.by.compare(b.by) })
	return list
}

// compose makes the unit's entities. fields says, of a kind of entity and its field,
// what the object calls it. It answers false, with findings, where they are refused.
func (w *run) compose(values map[string][]any, fields map[string]string) bool {
	doc, problems := spec.Compose(w.self.String(), values, w.cfg.Schemas)
	for i, p := range problems {
		if p.Field == "@entity" && i > 0 {
			continue // what was said of one field, said of both
		}
		w.refuse(fieldOf(p, fields), p.Message)
	}
	if len(problems) > 0 {
		return false
	}
	if w.doc != nil {
		doc = spec.JoinAll(w.doc, doc)
	}
	w.doc = doc
	return true
}

// fieldOf is what an object calls the field of a problem.
func fieldOf(p *spec.Problem, fields map[string]string) string {
	first, rest, _ := strings.Cut(p.Field, ".")
	name, ok := fields[p.Entity+"."+first]
	switch {
	case !ok:
		return p.Field
	case strings.Contains(name, "["): // an annotation is one text
		return name
	case rest != "":
		return name + "." + rest
	}
	return name
}

// tags are those by which entities name their object.
func (w *run) tags(o Object) []string {
	m := o.Common()
	group, version := GroupOf(o.Kind())
	list := []string{"k8s-name:" + m.Name}
	if m.Namespace != "" {
		list = append(list, "k8s-namespace:"+m.Namespace)
	}
	list = append(list, "k8s-kind:"+Shown(o.Kind()))
	if m.UID != "" {
		list = append(list, "k8s-uid:"+m.UID)
	}
	if group != "" {
		list = append(list, "k8s-group:"+group)
	}
	list = append(list, "k8s-version:"+version, "managed-by-ingress-controller")
	own, field := annotated(m, "tags")
	for _, tag := range commaList(own) {
		if strings.ContainsAny(tag, "/") || !printable(tag) {
			w.ignore(field, "expected a comma list of tags of printable characters but commas and slashes, not '"+tag+"'")
			continue
		}
		list = append(list, tag)
	}
	return list
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r > 0xfffd })
}

// GroupOf is the API group and version of a kind.
func GroupOf(kind string) (group, version string) {
	switch kind {
	case KindIngress, KindIngressClass:
		return "networking.k8s.io", "v1"
	case KindEndpointSlice:
		return "discovery.k8s.io", "v1"
	case KindPlugin, KindClusterPlugin, KindConsumer, KindKongIngress:
		return konghq, "v1"
	case KindConsumerGroup, KindUpstreamPolicy, KindTCPIngress, KindUDPIngress:
		return konghq, "v1beta1"
	case KindParameters, KindVault, KindCustomEntity:
		return konghq, "v1alpha1"
	case KindGrant, KindGatewayClass, KindGateway, KindListenerSet, KindHTTPRoute, KindGRPCRoute, KindTLSRoute, KindTCPRoute, KindUDPRoute, KindBackendTLS:
		return gatewayGroup, "v1"
	}
	return "", "v1"
}

// Shown is what users call a kind.
func Shown(kind string) string {
	switch kind {
	case KindCredential, KindAuthority, KindPair:
		return "Secret"
	case KindAuthorityMap, KindBundle:
		return "ConfigMap"
	}
	return kind
}
