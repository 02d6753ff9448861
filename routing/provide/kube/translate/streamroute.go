package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

// streamRoute makes the routes of a TLSRoute, TCPRoute or UDPRoute.
func (w *run) streamRoute(r *Route) {
	on := w.attach(r)
	if len(on.parents) == 0 {
		return // it is nobody's, or another's
	}
	transport := "tcp"
	if r.kind == KindUDPRoute {
		transport = "udp"
	}
	hostnames := r.Spec.Hostnames
	if r.kind != KindTLSRoute {
		hostnames = nil
	}
	var resolved outcome
	values := map[string][]any{}
	tags := w.tags(r)
	if len(r.Spec.Rules) != 1 {
		w.refuse("spec.rules", "expected one rule")
	}
	for i := range min(len(r.Spec.Rules), 1) {
		for _, pass := range []bool{false, true} {
			var some []*listenerState
			for _, l := range on.on {
				if l.Pass == pass {
					some = append(some, l)
				}
			}
			if len(some) == 0 {
				continue
			}
			to := "pass"
			if !pass {
				to = w.spokenBy(transport)
			}
			b := w.backendsOf(r, r.Spec.Rules[i].BackendRefs, to, "spec.rules[0]")
			resolved = b.resolved
			for _, p := range places(some, hostnames, on.all) {
				values["routes"] = append(values["routes"], w.streamAt(r, &p, &b, pass, tags))
			}
		}
	}
	closed := firstOf(w.whyRefused(), w.plugins(&r.Meta, "route", idsOf(values["routes"])))
	if closed == "" && len(values) > 0 {
		w.compose(values, map[string]string{"routes.tags": annotation(kongPrefix + "tags")})
	}
	accepted := outcome{}
	if w.refused {
		accepted.fail("UnsupportedValue", w.why)
	}
	on.report(w, accepted, resolved)
}

func idsOf(routes []any) []string {
	var ids []string
	for _, v := range routes {
		r, _ := v.(map[string]any)
		id, _ := r["id"].(string)
		ids = append(ids, id)
	}
	return ids
}

// streamAt is the route for one place. A stream that no route takes is closed, and so is
// one whose backend is not there: it has no answer that says so.
func (w *run) streamAt(r *Route, p *place, b *backends, pass bool, tags []string) map[string]any {
	protocol := map[string]string{KindTLSRoute: "tls", KindTCPRoute: "tcp", KindUDPRoute: "udp"}[r.kind]
	if pass {
		protocol = "tls_passthrough"
	}
	var to []any
	var ports []string
	for _, port := range p.ports {
		at := map[string]any{"port": port}
		if p.address != "" {
			at["ip"] = p.address
		}
		to = append(to, at)
		ports = append(ports, strconv.Itoa(port))
	}
	shown := strings.ReplaceAll(p.host, "*", "_")
	name := strings.ToLower(r.kind) + "." + strings.Join([]string{r.Namespace, r.Name, protocol, strings.Join(ports, "_"), shown}, ".")
	name = strings.TrimSuffix(name, ".")
	if p.address != "" {
		name += "." + strings.ReplaceAll(p.address, ":", "-")
	}
	tie := 0
	for _, port := range ports { // the least of them counts
		n := w.tie(r, strings.Join([]string{protocol, port, p.host, p.address}, " "))
		if tie == 0 || n < tie {
			tie = n
		}
	}
	v := map[string]any{"id": rankedID(specific(p.host), tie, name), "name": name, "protocols": []string{protocol}, "destinations": to, "tags": tags}
	if p.host != "" {
		v["snis"] = []string{p.host}
	}
	if r.kind == KindTLSRoute && len(p.except) > 0 { // they are of more specific listeners, also of those without a route
		v["x_keyway_except_snis"] = p.except
	}
	b.lead(v)
	return v
}

// rankedID is an id for a route of streams, of which the one with the higher id goes first
// where conditions weigh the same: the more specific hostname, then the older route.
func rankedID(specific, tie int, name string) string {
	sum := sha256.Sum256([]byte(name))
	id := append([]byte{byte(specific), byte(tie >> 8), byte(tie)}, sum[:13]...) //nolint:gosec // both are small
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80                              // a UUID of a form of its own, RFC 9562 section 5.8
	x := hex.EncodeToString(id)
	return strings.Join([]string{x[:8], x[8:12], x[12:16], x[16:20], x[20:]}, "-")
}
