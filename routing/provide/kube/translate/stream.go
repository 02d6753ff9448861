package translate

import (
	"fmt"
	"strconv"
	"strings"
)

// stream makes the routes of a TCPIngress or a UDPIngress.
func (w *run) stream() {
	o, ok := w.subject.(*StreamIngress)
	if !ok || !w.ours(o.Annotations[classAnnotation]) {
		return
	}
	protocols, transport := []string{"tcp", "tls"}, "tcp"
	if o.datagram {
		protocols, transport = []string{"udp"}, "udp"
	}
	tags := w.tags(o)
	var routes []any
	for i, rule := range o.Spec.Rules {
		at := fmt.Sprintf("spec.rules[%d]", i)
		g := &group{name: strings.Join([]string{o.Namespace, o.Name, strconv.Itoa(i), transport}, ".")}
		port := strconv.Itoa(rule.Backend.ServicePort)
		w.serve(g, Ref{unitBackend, o.Namespace, portName(rule.Backend.ServiceName, port) + ":" + transport}, at+".backend")
		r := map[string]any{"name": g.name, "protocols": protocols, "destinations": []any{map[string]any{"port": rule.Port}}, "tags": tags}
		if rule.Port < 1 || rule.Port > 65535 {
			w.find(at+".port", "expected a port from 1 to 65535", Closed)
			continue
		}
		if rule.Host != "" {
			if host := strings.ToLower(rule.Host); o.datagram || !sniName(host) {
				w.find(at+".host", "expected a server name, of TCP alone, not '"+rule.Host+"'", Closed)
				continue
			}
			r["snis"] = []string{strings.ToLower(rule.Host)}
		}
		if g.backend.Kind == "" {
			continue // a stream has no answer that says so: nothing is there
		}
		r["service"] = serviceID(g.backend)
		if g.why != "" {
			r["x_keyway_closed"] = g.why
		}
		routes = append(routes, r)
	}
	if len(routes) > 0 {
		w.compose(map[string][]any{"routes": routes}, nil)
	}
	w.servedNames(o, o.Spec.TLS)
}
