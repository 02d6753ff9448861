package translate

import (
	"fmt"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

// Bits of the priority of what an HTTPRoute or a GRPCRoute makes, below kindShift. Between
// those that match the same request the one with the more specific hostname wins, then
// the more specific path, then one with a method, then more headers, then more query
// parameters, then the older route, then the earlier rule.
const (
	kindHTTPRoute = 2
	kindGRPCRoute = 1

	hostShift      = 37
	pathShift      = 26
	methodShift    = 25
	conditionShift = 20
	queryShift     = 15
	tieShift       = 4
	mostRules      = 16

	exactPathRank = 1<<11 - 1
	mostPrefix    = 1024 // bytes that count of a prefix; expressions stand above
)

// routeMatch is one alternative of a rule: its conditions beside host and port.
type routeMatch struct {
	conditions []string
	rank       int    // of its conditions
	path       string // what of the conditions is of the path
	prefix     string // of the path that is compared, "" for others
	whole      path   // that is compared, zero for others
	solver     bool   // it answers challenges of an authority and nothing else
}

// httpMatch reads a match of an HTTPRoute.
func (w *run) httpMatch(m *RouteMatch, at string) routeMatch {
	var out routeMatch
	p := ValueMatch{Type: "PathPrefix", Value: "/"}
	if m.Path != nil {
		if p.Type, p.Value = m.Path.Type, m.Path.Value; p.Type == "" {
			p.Type = "PathPrefix"
		}
		if p.Value == "" {
			p.Value = "/"
		}
	}
	rank := 0
	switch p.Type {
	case "Exact":
		out.whole = path{kind: exactPath, text: spec.NormalPath(p.Value)}
		out.path, rank = out.whole.condition(), exactPathRank
	case "PathPrefix":
		out.prefix = spec.NormalPath("/" + strings.Trim(p.Value, "/"))
		of := path{kind: elementPath, text: out.prefix}
		if out.prefix == "/" {
			of.kind = prefixPath
		}
		out.path, rank = of.condition(), min(len(out.prefix), mostPrefix)
	case "RegularExpression":
		pattern := "^(?:" + strings.TrimPrefix(p.Value, "^") + ")"
		if !compiles(pattern) {
			w.refuse(at+".path.value", "expected a regular expression (RE2), not '"+p.Value+"'")
			pattern = "^/"
		}
		out.path, rank = path{kind: regexPath, text: pattern}.condition(), min(mostPrefix+len(p.Value), exactPathRank-1)
	default:
		w.refuse(at+".path.type", "expected Exact, PathPrefix or RegularExpression, not '"+p.Type+"'")
	}
	if out.path != "" && out.path != `http.path ^= "/"` {
		out.conditions = append(out.conditions, out.path)
	}
	out.rank = rank << pathShift
	if m.Method.GRPC {
		w.refuse(at+".method", "expected the name of a method")
	}
	if m.Method.Name != "" {
		out.conditions = append(out.conditions, "http.method == "+quoted(m.Method.Name))
		out.rank |= 1 << methodShift
	}
	out.rank |= min(w.compared(&out, m.Headers, "http.headers.", at+".headers"), 31) << conditionShift
	out.rank |= min(w.compared(&out, m.QueryParams, "http.queries.", at+".queryParams"), 31) << queryShift
	return out
}

// condition is the path's condition as one.
func (p path) condition() string {
	list := p.conditions()
	if len(list) == 1 {
		return list[0]
	}
	return "(" + strings.Join(list, " || ") + ")"
}

// compared adds the conditions of headers or query parameters and answers how many there
// are. Of several for one name the first counts.
func (w *run) compared(out *routeMatch, list []ValueMatch, prefix, at string) int {
	seen := map[string]bool{}
	for i, v := range list {
		field := fmt.Sprintf("%s[%d]", at, i)
		name := v.Name
		if prefix == "http.headers." {
			name = strings.ReplaceAll(strings.ToLower(name), "-", "_")
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		if name == "" || strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
			w.refuse(field+".name", "expected a name of letters, digits, '-', '_' and '.', not '"+v.Name+"'")
			continue
		}
		switch {
		case v.Type == "" || v.Type == "Exact":
			out.conditions = append(out.conditions, "any("+prefix+name+") == "+quoted(v.Value))
		case v.Type != "RegularExpression":
			w.refuse(field+".type", "expected Exact or RegularExpression, not '"+v.Type+"'")
		case !compiles(v.Value):
			w.refuse(field+".value", "expected a regular expression (RE2), not '"+v.Value+"'")
		default:
			out.conditions = append(out.conditions, "any("+prefix+name+") ~ "+quoted(v.Value))
		}
	}
	return len(seen)
}

// grpcMatch reads a match of a GRPCRoute.
func (w *run) grpcMatch(m *RouteMatch, at string) routeMatch {
	var out routeMatch
	service, method := m.Method.Service, m.Method.Method
	switch kind := m.Method.Type; {
	case m.Method.Name != "":
		w.refuse(at+".method", "expected a service and a method")
	case service == "" && method == "":
	case kind == "" || kind == "Exact":
		switch {
		case method == "":
			out.path = "http.path ^= " + quoted("/"+service+"/")
		case service == "":
			out.path = "http.path =^ " + quoted("/"+method)
		default:
			out.path = "http.path == " + quoted("/"+service+"/"+method)
		}
	case kind == "RegularExpression":
		any := func(pattern string) string {
			if pattern == "" {
				return "[^/]+"
			}
			return "(?:" + pattern + ")"
		}
		pattern := "^/" + any(service) + "/" + any(method) + "$"
		if !compiles(pattern) {
			w.refuse(at+".method", "expected regular expressions (RE2)")
			break
		}
		out.path = "http.path ~ " + quoted(pattern)
	default:
		w.refuse(at+".method.type", "expected Exact or RegularExpression, not '"+kind+"'")
	}
	if out.path != "" {
		out.conditions = append(out.conditions, out.path)
	}
	rank := min(len(service), 31)<<5 | min(len(method), 31)
	out.rank = rank << pathShift
	out.rank |= min(w.compared(&out, m.Headers, "http.headers.", at+".headers"), 31) << conditionShift
	return out
}

// expression says where and when a match is.
func (m *routeMatch) expression(p *place) string {
	ports := portsOf(p.ports)
	all := []string{strings.Join(ports, " || ")}
	if len(ports) > 1 {
		all[0] = "(" + all[0] + ")"
	}
	if p.address != "" {
		all = append([]string{"net.dst.ip == " + p.address}, all...)
	}
	if p.host != "" {
		all = append(all, hostCondition(p.host))
	}
	if len(p.except) > 0 {
		var list []string
		for _, h := range p.except {
			list = append(list, hostCondition(h))
		}
		all = append(all, "!("+strings.Join(list, " || ")+")")
	}
	return strings.Join(append(all, m.conditions...), " && ")
}
