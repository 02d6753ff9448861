package translate

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// gatewayState is what routes read of a Gateway.
type gatewayState struct {
	Controller string // by which its class calls us, "" if it is another's
	Listeners  []*listenerState
	Sets       map[Ref]outcome // ListenerSets that name it, and why one does not count

	Address string // of its own, "" for all of the node's

	Client Ref // unit of the certificate that backends are shown, zero for none

	accepted outcome
	resolved *outcome // of that certificate, nil for none
	insecure bool     // clients without a certificate are let in where some are verified
}

// portClaim says for what a Gateway wants a port. It may want one for HTTPS and for TLS.
type portClaim struct {
	Object    Ref
	Created   time.Time
	Protocol  string   // of documents
	Policy    string   // id of a TLS policy
	Hostnames []string // of its listeners there, over TLS; "" for every host
}

// beside says whether two can have one port: over TLS the server name tells streams from
// requests.
func (c portClaim) beside(o portClaim) bool {
	return c.Protocol == o.Protocol || overTLS(c.Protocol) && overTLS(o.Protocol)
}

// portState is who has a port: the oldest claim, and the oldest of the other protocol that
// goes beside it.
type portState struct{ First, Other portClaim }

// controllerOf is the name by which a class calls this controller, "" if it is another's.
func (w *run) controllerOf(class string) string {
	c, _ := w.look(KindGatewayClass, "", class).(*GatewayClass)
	if c == nil || !slices.Contains(w.cfg.GatewayControllers, c.Spec.ControllerName) {
		return ""
	}
	return c.Spec.ControllerName
}

// gateway judges the listeners of a Gateway and of the ListenerSets that name it, and
// wants their ports and certificates.
func (w *run) gateway() {
	g, ok := w.subject.(*Gateway)
	if !ok {
		w.say(gatewayState{})
		return
	}
	s := gatewayState{Controller: w.controllerOf(g.Spec.GatewayClassName), Sets: map[Ref]outcome{}}
	if s.Controller == "" {
		w.say(gatewayState{})
		return
	}
	w.judgeGateway(g, &s)
	self := RefOf(g)
	for i := range g.Spec.Listeners {
		s.Listeners = append(s.Listeners, w.listener(self, self, &g.Spec.Listeners[i], fmt.Sprintf("spec.listeners[%d]", i)))
	}
	for _, set := range w.listenerSets(self) {
		why := outcome{}
		if !w.allows(&g.Spec.AllowedListeners.Namespaces, g.Namespace, set.Namespace) {
			why.fail("NotAllowed", "expected the Gateway's allowedListeners to let namespace "+set.Namespace+" in")
			w.findOf(RefOf(set), "spec.parentRef", why.Message, Ignored)
		}
		s.Sets[RefOf(set)] = why
		for i := range set.Spec.Listeners {
			if why.Reason == "" {
				s.Listeners = append(s.Listeners, w.listener(self, RefOf(set), &set.Spec.Listeners[i], fmt.Sprintf("spec.listeners[%d]", i)))
			}
		}
	}
	conflicts(s.Listeners)
	w.address(g, &s)
	w.claimPorts(g, &s)
	w.claimNames(g, &s)
	w.say(s)
}

// judgeGateway looks at what is of the Gateway as a whole.
func (w *run) judgeGateway(g *Gateway, s *gatewayState) {
	if g.Spec.Infrastructure != nil && len(g.Spec.Infrastructure.ParametersRef) > 0 && string(g.Spec.Infrastructure.ParametersRef) != "null" {
		s.accepted.fail("InvalidParameters", "spec.infrastructure.parametersRef: expected none")
	}
	for i, a := range g.Spec.Addresses {
		if a.Type != "" && a.Type != "IPAddress" && a.Type != "Hostname" {
			s.accepted.fail("UnsupportedAddress", fmt.Sprintf("spec.addresses[%d].type: expected IPAddress or Hostname, not '%s'", i, a.Type))
		}
	}
	if ref := g.Spec.TLS.Backend.ClientCertificateRef; ref != nil {
		const at = "spec.tls.backend.clientCertificateRef"
		s.resolved = &outcome{}
		if s.Client = w.pairRef(RefOf(g), ref, at+": ", "InvalidClientCertificateRef", s.resolved); s.resolved.Reason != "" {
			w.find(at, strings.TrimPrefix(s.resolved.Message, at+": "), Ignored)
		}
	}
	if s.accepted.Reason != "" {
		w.find("spec", s.accepted.Message, Ignored)
	}
}

// listenerSets are those that name a Gateway, in order of precedence.
func (w *run) listenerSets(gateway Ref) []*ListenerSet {
	var list []*ListenerSet
	for _, s := range w.collected(Ref{collectSets, gateway.Namespace, gateway.Name}) {
		of, _ := s.v.(Ref)
		if set, ok := w.look(of.Kind, of.Namespace, of.Name).(*ListenerSet); ok {
			list = append(list, set)
		}
	}
	slices.SortFunc(list, func(a, b *ListenerSet) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return list
}

// listenerSet says which Gateway a ListenerSet names.
func (w *run) listenerSet() {
	s, ok := w.subject.(*ListenerSet)
	if !ok || s.Spec.ParentRef.group(gatewayGroup) != gatewayGroup || s.Spec.ParentRef.kind(KindGateway) != KindGateway {
		return
	}
	w.give(Ref{collectSets, s.Spec.ParentRef.in(s.Namespace), s.Spec.ParentRef.Name}, RefOf(s))
}

// claimPorts wants the ports of listeners, and sees which of them another Gateway has.
func (w *run) claimPorts(g *Gateway, s *gatewayState) {
	policies := map[int]bool{} // that are made, by port
	claims := map[Ref][]portClaim{}
	for _, l := range s.Listeners {
		if s.accepted.Reason != "" {
			l.unusable = true
		}
		if !l.Accepted() {
			continue
		}
		claim := portClaim{Object: RefOf(g), Created: g.CreationTimestamp, Protocol: l.protocol()}
		if l.Protocol == "HTTPS" {
			if claim.Policy = w.frontend(g, l, s, policies); !l.Accepted() {
				continue
			}
		}
		if !l.Serves() {
			continue
		}
		claims[l.port()] = claim.among(claims[l.port()], l.Hostname)
		state, _ := w.peeked(l.port()).(portState)
		holder := state.First
		if claim.Protocol == state.Other.Protocol {
			holder = state.Other
		}
		if holder.Protocol != "" && (!holder.beside(claim) || holder.Protocol == claim.Protocol && holder.Policy != claim.Policy && holder.Object != claim.Object) {
			message := "port " + strconv.Itoa(l.Port) + " is " + holder.Object.String() + "'s, which is older, for " + strings.ToUpper(holder.Protocol)
			if holder.Protocol == claim.Protocol {
				message += " with another validation of clients"
			}
			l.accepted.fail("PortUnavailable", message)
			w.findOf(l.Owner, "spec.listeners", message, Ignored)
		}
	}
	for port, list := range claims {
		w.give(port, list)
	}
}

// among adds a claim for a hostname to those of the Gateway's for that port.
func (c portClaim) among(list []portClaim, hostname string) []portClaim {
	i := slices.IndexFunc(list, func(o portClaim) bool { return o.Protocol == c.Protocol })
	if i < 0 {
		list, i = append(list, c), len(list)
	}
	if overTLS(c.Protocol) && !slices.Contains(list[i].Hostnames, hostname) {
		list[i].Hostnames = append(list[i].Hostnames, hostname)
	}
	return list
}

// frontend answers the TLS policy of a port, "" for none, and makes it once. Without a
// right authority the listener is not accepted.
func (w *run) frontend(g *Gateway, l *listenerState, s *gatewayState, made map[int]bool) string {
	front := &g.Spec.TLS.Frontend
	at, v := "spec.tls.frontend.default", front.Default.Validation
	for i := range front.PerPort {
		if front.PerPort[i].Port == l.Port {
			at, v = fmt.Sprintf("spec.tls.frontend.perPort[%d].tls", i), front.PerPort[i].TLS.Validation
		}
	}
	if v == nil {
		return ""
	}
	var ids []string
	for i := range v.CACertificateRefs {
		ref := &v.CACertificateRefs[i]
		field := fmt.Sprintf("%s.validation.caCertificateRefs[%d]", at, i)
		more, bad := w.bundle(RefOf(g), ref)
		if bad.Reason != "" {
			if bad.Reason == "InvalidKind" {
				bad.Reason = "InvalidCACertificateKind" // which policies of backends call so
			}
			l.resolved.fail(bad.Reason, field+": "+bad.Message)
			w.find(field, bad.Message, Ignored)
			continue
		}
		ids = append(ids, more...)
	}
	if len(ids) == 0 {
		l.accepted.fail("NoValidCACertificate", at+".validation: expected the certificate of an authority by which clients are verified")
		return ""
	}
	mode := "required"
	if v.Mode == "AllowInsecureFallback" {
		mode, s.insecure = "optional", true
	}
	name := "gateway." + g.Namespace + "." + g.Name + "." + strconv.Itoa(l.Port)
	if made[l.Port] {
		return policyID(name)
	}
	made[l.Port] = true
	w.compose(map[string][]any{"x_keyway_tls_policies": {map[string]any{"id": policyID(name), "name": name, "client_auth": mode, "ca_certificates": ids, "tags": w.tags(g)}}}, nil)
	return policyID(name)
}

func policyID(name string) string { return spec.DeriveID("x_keyway_tls_policies", name) }

// bundle has the authorities of a ConfigMap in the document, and answers their ids.
func (w *run) bundle(from Ref, ref *ObjectReference) (ids []string, why outcome) {
	namespace := ref.in(from.Namespace)
	if ref.group("") != "" || ref.kind("ConfigMap") != "ConfigMap" {
		why.fail("InvalidKind", "expected a ConfigMap with the certificate of an authority, not a "+ref.kind(""))
		return nil, why
	}
	if !w.lends(from, namespace, "", "ConfigMap", ref.Name) {
		why.fail("RefNotPermitted", "expected a ConfigMap of namespace "+from.Namespace+", or one that a ReferenceGrant in "+namespace+" lends to "+Shown(from.Kind)+"s of it"+w.outside(namespace))
		return nil, why
	}
	b, ok := w.look(KindBundle, namespace, ref.Name).(*Bundle)
	if !ok {
		why.fail("InvalidCACertificateRef", "expected the name of a ConfigMap in namespace "+namespace+"; there is no '"+ref.Name+"', or it may not be read"+w.labelledOnly(KindBundle))
		return nil, why
	}
	for rest := []byte(b.Data["ca.crt"]); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if _, err := x509.ParseCertificate(block.Bytes); block.Type != "CERTIFICATE" || err != nil {
			continue
		}
		sum := sha256.Sum256(block.Bytes)
		anchor := Ref{unitAnchor, "", hex.EncodeToString(sum[:])}
		if id := anchorID(anchor); !slices.Contains(ids, id) {
			ids = append(ids, id)
			w.give(anchor, string(pem.EncodeToMemory(block)))
		}
	}
	if len(ids) == 0 {
		why.fail("InvalidCACertificateRef", "expected certificates of authorities in the key ca.crt of ConfigMap "+namespace+"/"+ref.Name+", PEM")
	}
	return ids, why
}

func anchorID(anchor Ref) string {
	return spec.DeriveID("ca_certificates", "kubernetes:"+anchor.Name)
}

// claimNames wants the server names of listeners for their certificates: the listener's
// hostname, and of it the names that a certificate is for.
func (w *run) claimNames(g *Gateway, s *gatewayState) {
	list := slices.Clone(s.Listeners)
	slices.SortStableFunc(list, func(a, b *listenerState) int { return specific(b.Hostname) - specific(a.Hostname) })
	give := func(l *listenerState, name string, pair Ref) {
		c := Ref{Kind: unitHost, Name: cmp.Or(name, "*")}
		if _, twice := w.gives[c]; !twice {
			w.give(c, claim{Object: l.Owner, Created: g.CreationTimestamp, Namespace: pair.Namespace, Secret: pair.Name, Implied: name == "" || name != l.Hostname})
		}
	}
	for _, l := range list {
		if !l.Serves() || len(l.Pairs) == 0 {
			continue
		}
		give(l, l.Hostname, l.Pairs[0])
		for _, pair := range l.Pairs {
			if p, ok := w.look(KindPair, pair.Namespace, pair.Name).(*Pair); ok {
				for _, name := range p.Names {
					if within(name, l.Hostname) {
						give(l, name, pair)
					}
				}
			}
		}
	}
}

// listenPort is a port on which a document listens: the oldest Gateways say how.
func (w *run) listenPort() {
	var claims []portClaim
	for _, s := range w.collected(w.self) {
		if list, ok := s.v.([]portClaim); ok {
			claims = append(claims, list...)
		}
	}
	if len(claims) == 0 {
		return
	}
	slices.SortFunc(claims, func(a, b portClaim) int {
		return cmp.Or(a.Created.Compare(b.Created), a.Object.compare(b.Object), strings.Compare(a.Protocol, b.Protocol))
	})
	state := portState{First: claims[0]}
	for _, c := range claims {
		if c.Protocol != state.First.Protocol && c.beside(state.First) {
			state.Other = c
			break
		}
	}
	w.say(state)
	port, rest, _ := strings.Cut(w.self.Name, ":")
	_, address, _ := strings.Cut(rest, ":")
	var list []any
	for _, c := range []portClaim{state.First, state.Other} {
		if c.Protocol == "" {
			continue
		}
		values := map[string]any{"name": listenName(w.self, c.Protocol, state.First.Protocol), "protocol": c.Protocol, "port": atoi(port), "tags": []string{"managed-by-ingress-controller"}}
		if address != "" {
			values["address"] = address
		}
		if c.Policy != "" {
			values["tls_policy"] = c.Policy
		}
		if names := hostnamesOf(c, claims); len(names) > 0 {
			values["hostnames"] = names
		}
		list = append(list, values)
	}
	w.compose(map[string][]any{"x_keyway_listeners": list}, nil)
}

// hostnamesOf are the hostnames of all who have a port for the protocol of the first of
// them, as documents write them.
func hostnamesOf(first portClaim, claims []portClaim) []string {
	var names []string
	for _, c := range claims {
		if c.Protocol == first.Protocol && (c.Policy == first.Policy || c.Object == first.Object) {
			for _, name := range c.Hostnames {
				names = append(names, cmp.Or(name, "*"))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
