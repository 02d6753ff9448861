package translate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// outcome is how one condition of a status comes out: without a reason it is met.
type outcome struct{ Reason, Message string }

func (o *outcome) fail(reason, message string) {
	if o.Reason == "" {
		*o = outcome{reason, message}
	}
}

// listenerState is what routes read of a listener.
type listenerState struct {
	Gateway  Ref
	Owner    Ref // the Gateway, or the ListenerSet that it is of
	Name     string
	Hostname string // in lower case
	Port     int
	Address  string // "" for all of the node's
	Protocol string // HTTP, HTTPS, TLS, TCP, UDP
	Pass     bool   // TLS goes on to the backend
	Kinds    []string
	From     Namespaces
	Pairs    []Ref // of certificates

	accepted, resolved, conflicted outcome
	unusable                       bool // nothing can be served on it
}

// Accepted says whether routes can attach.
func (l *listenerState) Accepted() bool { return l.accepted.Reason == "" }

// Serves says whether the routes that are attached are served.
func (l *listenerState) Serves() bool { return l.Accepted() && !l.unusable }

// protocol is what documents call the listener's.
func (l *listenerState) protocol() string { return strings.ToLower(l.Protocol) }

func (l *listenerState) transport() string {
	if l.Protocol == "UDP" {
		return "udp"
	}
	return "tcp"
}

// port is the collection of who wants this port.
func (l *listenerState) port() Ref {
	return Ref{unitPort, "", strings.TrimSuffix(strconv.Itoa(l.Port)+":"+l.transport()+":"+l.Address, ":")}
}

// kindsOf are the kinds of routes that a protocol can have.
func kindsOf(protocol string) []string {
	switch protocol {
	case "HTTP", "HTTPS":
		return []string{KindHTTPRoute, KindGRPCRoute}
	case "TLS":
		return []string{KindTLSRoute}
	case "TCP":
		return []string{KindTCPRoute}
	case "UDP":
		return []string{KindUDPRoute}
	}
	return nil
}

// listener judges a listener by itself. at is what problems call it.
func (w *run) listener(gateway, owner Ref, spec *Listener, at string) *listenerState {
	l := &listenerState{Gateway: gateway, Owner: owner, Name: spec.Name, Hostname: strings.ToLower(spec.Hostname), Port: spec.Port, Protocol: spec.Protocol, From: spec.AllowedRoutes.Namespaces}
	known := kindsOf(l.Protocol)
	switch {
	case known == nil:
		l.accepted.fail("UnsupportedProtocol", "expected HTTP, HTTPS, TLS, TCP or UDP, not '"+l.Protocol+"'")
	case l.Port < 1 || l.Port > 65535:
		l.accepted.fail("PortUnavailable", "expected a port from 1 to 65535")
	case l.Hostname != "" && (!sniName(l.Hostname) || l.Hostname == "*"):
		l.accepted.fail("UnsupportedValue", "hostname: expected the name of a host, of which the first label may be *, not '"+l.Hostname+"'")
	}
	if l.Protocol == "TCP" || l.Protocol == "UDP" {
		l.Hostname = ""
	}
	if len(spec.AllowedRoutes.Kinds) == 0 {
		l.Kinds = known
	}
	for _, k := range spec.AllowedRoutes.Kinds {
		if k.Group != nil && *k.Group != gatewayGroup || !slices.Contains(known, k.Kind) {
			l.resolved.fail("InvalidRouteKinds", "allowedRoutes.kinds: expected kinds of "+strings.Join(known, " and ")+", not '"+k.Kind+"'")
		} else if !slices.Contains(l.Kinds, k.Kind) {
			l.Kinds = append(l.Kinds, k.Kind)
		}
	}
	switch l.From.From {
	case "":
		l.From.From = "Same"
	case "All", "Same", "None":
	case "Selector":
		if why := l.From.Selector.wrong(); why != "" {
			l.accepted.fail("UnsupportedValue", "allowedRoutes.namespaces.selector: "+why)
		}
	default:
		l.accepted.fail("UnsupportedValue", "allowedRoutes.namespaces.from: expected All, Same or Selector, not '"+l.From.From+"'")
	}
	w.listenerTLS(l, spec)
	for _, o := range []outcome{l.accepted, l.resolved} {
		if o.Reason != "" {
			w.findOf(owner, at, o.Message, Ignored)
		}
	}
	return l
}

// listenerTLS finds the certificates of a listener.
func (w *run) listenerTLS(l *listenerState, spec *Listener) {
	if l.Protocol != "HTTPS" && l.Protocol != "TLS" {
		return
	}
	mode := "Terminate"
	if spec.TLS != nil && spec.TLS.Mode != "" {
		mode = spec.TLS.Mode
	}
	switch {
	case mode == "Passthrough" && l.Protocol == "TLS":
		l.Pass = true
		return
	case mode != "Terminate":
		l.accepted.fail("UnsupportedValue", "tls.mode: expected Terminate, or Passthrough with the protocol TLS, not '"+mode+"'")
		return
	case spec.TLS == nil || len(spec.TLS.CertificateRefs) == 0:
		l.resolved.fail("InvalidCertificateRef", "tls.certificateRefs: expected a Secret with a certificate")
		l.unusable = true
		return
	}
	for i := range spec.TLS.CertificateRefs {
		pair := w.pairRef(l.Owner, &spec.TLS.CertificateRefs[i], fmt.Sprintf("tls.certificateRefs[%d]: ", i), "InvalidCertificateRef", &l.resolved)
		if pair.Kind != "" {
			l.Pairs = append(l.Pairs, pair)
		}
	}
	l.unusable = len(l.Pairs) == 0
}

// pairRef resolves a reference to a certificate with its key: its unit, zero for one that
// may not be used. One that is not there now may have been, and the broker may know it
// still.
func (w *run) pairRef(from Ref, ref *ObjectReference, at, invalid string, resolved *outcome) Ref {
	namespace := ref.in(from.Namespace)
	if ref.group("") != "" || ref.kind("Secret") != "Secret" || !objectName(ref.Name) {
		resolved.fail(invalid, at+"expected the name of a Secret")
		return Ref{}
	}
	if !w.lends(from, namespace, "", "Secret", ref.Name) {
		resolved.fail("RefNotPermitted", at+"expected a Secret of namespace "+from.Namespace+", or one that a ReferenceGrant in "+namespace+" lends to "+Shown(from.Kind)+"s of it"+w.outside(namespace))
		return Ref{}
	}
	pair, _ := w.look(KindPair, namespace, ref.Name).(*Pair)
	switch {
	case pair == nil:
		resolved.fail(invalid, at+"expected the name of a Secret in namespace "+namespace+"; there is no '"+ref.Name+"', or it may not be read"+w.labelledOnly(KindPair))
	case pair.Wrong != "":
		resolved.fail(invalid, at+"Secret "+namespace+"/"+ref.Name+": "+pair.Wrong)
	}
	return Ref{unitPair, namespace, ref.Name}
}

// conflicts judges the listeners of a Gateway, in order of precedence, beside each other.
// HTTPS and TLS go together on one port: which it is the server name tells.
func conflicts(list []*listenerState) {
	for i, l := range list {
		if !l.Accepted() {
			continue
		}
		for _, before := range list[:i] {
			if !before.Accepted() || before.Port != l.Port || before.transport() != l.transport() {
				continue
			}
			reason, message := "", ""
			switch {
			case before.Protocol != l.Protocol && !(overTLS(before.protocol()) && overTLS(l.protocol())):
				reason, message = "ProtocolConflict", "expected one protocol on port "+strconv.Itoa(l.Port)+"; listener '"+before.Name+"' has "+before.Protocol
			case before.Hostname == l.Hostname:
				reason, message = "HostnameConflict", "expected another hostname or port than those of listener '"+before.Name+"'"
			default:
				continue
			}
			l.conflicted.fail(reason, message)
			l.accepted.fail(reason, message)
			break
		}
	}
}

// overTLS says whether the clients of a protocol, as documents call it, name a host before
// anything else.
func overTLS(protocol string) bool { return protocol == "https" || protocol == "tls" }

// wrong says what is wrong with a selector, "" for nothing.
func (s *LabelSelector) wrong() string {
	if s == nil {
		return "expected one"
	}
	for _, e := range s.MatchExpressions {
		switch e.Operator {
		case "In", "NotIn", "Exists", "DoesNotExist":
		default:
			return "expected the operator In, NotIn, Exists or DoesNotExist, not '" + e.Operator + "'"
		}
	}
	return ""
}

// matches says whether labels are chosen.
func (s *LabelSelector) matches(labels map[string]string) bool {
	if s == nil || s.wrong() != "" {
		return false
	}
	for k, v := range s.MatchLabels {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		v, has := labels[e.Key]
		listed := has && slices.Contains(e.Values, v)
		if e.Operator == "In" && !listed || e.Operator == "NotIn" && listed || e.Operator == "Exists" && !has || e.Operator == "DoesNotExist" && has {
			return false
		}
	}
	return true
}

// allows says whether an object of a namespace may attach to one of another.
func (w *run) allows(n *Namespaces, owner, from string) bool {
	switch n.From {
	case "All":
		return true
	case "Same":
		return owner == from
	case "Selector":
		of, ok := w.look(KindNamespace, "", from).(*Namespace)
		return ok && n.Selector.matches(of.Labels)
	}
	return false
}

func (r *ObjectReference) group(def string) string { return or(r.Group, def) }
func (r *ObjectReference) kind(def string) string  { return or(r.Kind, def) }

// in is the namespace of what is named in an object of a namespace.
func (r *ObjectReference) in(namespace string) string { return or(r.Namespace, namespace) }

func or[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

// outside says, as the end of a sentence, that a namespace is not one of those whose objects
// are here, "" where it is.
func (w *run) outside(namespace string) string {
	if w.cfg.NamespaceSelector == "" || w.alone || w.look(KindNamespace, "", namespace) != nil {
		return ""
	}
	return "; kube_namespace_selector (" + w.cfg.NamespaceSelector + ") leaves the objects of namespace " + namespace + " out"
}

// labelledOnly says, as the end of a sentence, by which labels Secrets or ConfigMaps are
// taken, "" where all are.
func (w *run) labelledOnly(kind string) string {
	setting, selector := "kube_secret_selector", w.cfg.SecretSelector
	if kind == KindBundle || kind == KindAuthorityMap {
		setting, selector = "kube_config_map_selector", w.cfg.ConfigMapSelector
	}
	if selector == "" {
		return ""
	}
	return "; " + setting + " (" + selector + ") leaves those without these labels out"
}

// lends says whether an object may refer to one of a namespace: it is of it itself, or a
// ReferenceGrant says so.
func (w *run) lends(from Ref, namespace, group, kind, name string) bool {
	if from.Namespace == namespace {
		return true
	}
	w.reads[Ref{collectGrants, namespace, ""}] = struct{}{}
	of, _ := GroupOf(from.Kind)
	for _, o := range w.grants[namespace] {
		for _, t := range o.Spec.To {
			if t.Group != group || t.Kind != kind || t.Name != nil && *t.Name != name {
				continue
			}
			for _, f := range o.Spec.From {
				if f.Namespace == from.Namespace && f.Kind == from.Kind && f.Group == of {
					return true
				}
			}
		}
	}
	return false
}
