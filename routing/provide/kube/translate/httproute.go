package translate

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// requestRule is what one rule of an HTTPRoute or a GRPCRoute is for a document.
type requestRule struct {
	matches  []routeMatch
	filters  []filtered // of each match
	shares   []filtered // of each backend
	backends backends
	fields   map[string]any // of every route
}

// requestRoute makes the routes of an HTTPRoute or a GRPCRoute.
func (w *run) requestRoute(r *Route) {
	on := w.attach(r)
	if len(on.parents) == 0 {
		return // it is nobody's, or another's
	}
	rules := r.Spec.Rules
	if len(rules) == 0 {
		rules = []RouteRule{{}}
	}
	if len(rules) > mostRules {
		w.refuse("spec.rules", "expected "+strconv.Itoa(mostRules)+" rules at most")
		rules = rules[:mostRules]
	}
	list := make([]requestRule, len(rules))
	var resolved outcome
	for i := range rules {
		list[i] = w.requestRule(r, &rules[i], fmt.Sprintf("spec.rules[%d]", i))
		if why := list[i].backends.resolved; why.Reason != "" {
			resolved.fail(why.Reason, why.Message)
		}
	}
	opts := w.routeOptions(r)
	values := map[string][]any{}
	w.requestRoutes(r, list, &on, opts, values)
	closed := firstOf(w.whyRefused(), opts.closed)
	if closed == "" && len(values) > 0 && !w.compose(values, opts.origins) {
		closed = w.why
	}
	if closed != "" {
		w.compose(closedRoutes(values, closed), nil)
	}
	accepted := outcome{}
	if w.refused {
		accepted.fail(w.reason(), w.why)
	}
	on.report(w, accepted, resolved)
}

// whyRefused is why the route cannot be served as it is, "" if it can.
func (w *run) whyRefused() string {
	if w.refused {
		return w.why
	}
	return ""
}

// reason is that of the condition Accepted.
func (w *run) reason() string {
	if w.incompatible {
		return "IncompatibleFilters"
	}
	return "UnsupportedValue"
}

// closedRoutes are routes that match what they could have meant, and answer 503.
func closedRoutes(values map[string][]any, why string) map[string][]any {
	var list []any
	for _, v := range values["routes"] {
		if r, ok := v.(map[string]any); ok {
			list = append(list, map[string]any{"name": r["name"], "expression": r["expression"], "priority": r["priority"], "protocols": r["protocols"], "x_keyway_closed": why})
		}
	}
	if len(list) == 0 {
		return nil
	}
	return map[string][]any{"routes": list}
}

// requestRule reads a rule.
func (w *run) requestRule(r *Route, rule *RouteRule, at string) requestRule {
	transport, match := "http", w.httpMatch
	if r.kind == KindGRPCRoute {
		transport, match = "grpc", w.grpcMatch
	}
	transport = w.spokenBy(transport)
	out := requestRule{fields: map[string]any{}}
	matches := rule.Matches
	if len(matches) == 0 {
		matches = []RouteMatch{{}}
	}
	out.backends = w.backendsOf(r, rule.BackendRefs, transport, at)
	for i := range matches {
		m := match(&matches[i], fmt.Sprintf("%s.matches[%d]", at, i))
		m.solver = solves(&r.Meta, "", []path{m.whole})
		var f filtered
		w.filters(r, rule.Filters, m.prefix, transport, at, &f)
		if f.resolved.Reason != "" {
			out.backends.resolved.fail(f.resolved.Reason, f.resolved.Message)
		}
		out.matches, out.filters = append(out.matches, m), append(out.filters, f)
	}
	for _, s := range out.backends.shares {
		var f filtered
		w.filters(r, s.Filters, "", transport, s.at, &f)
		if f.redirect != nil || f.rewrite != nil || f.cors != nil || len(f.mirrors)+len(f.plugins) > 0 {
			w.refuse(s.at+".filters", "expected RequestHeaderModifier and ResponseHeaderModifier alone; others are for the rule")
		}
		out.shares = append(out.shares, f)
	}
	if len(rule.SessionPersistence) > 0 && string(rule.SessionPersistence) != "null" {
		w.ignore(at+".sessionPersistence", "expected none; a KongUpstreamPolicy of the Service has sticky sessions")
	}
	w.timeouts(rule, at, out.fields)
	return out
}

// timeouts reads how long a request may take, and when it is tried again.
func (w *run) timeouts(rule *RouteRule, at string, fields map[string]any) {
	read := func(text, field string) any {
		if text == "" {
			return nil
		}
		d, ok := duration(text)
		if !ok {
			w.ignore(field, "expected a duration such as 500ms, 10s or 1m30s, not '"+text+"'")
		}
		if !ok || d == 0 {
			return nil
		}
		return max(int(d.Milliseconds()), 1)
	}
	if t := rule.Timeouts; t != nil {
		v := map[string]any{}
		if ms := read(t.Request, at+".timeouts.request"); ms != nil {
			v["request"] = ms
		}
		if ms := read(t.BackendRequest, at+".timeouts.backendRequest"); ms != nil {
			v["attempt"] = ms
		}
		if len(v) > 0 {
			fields["x_keyway_timeouts"] = v
		}
	}
	if r := rule.Retry; r != nil {
		v := map[string]any{}
		if len(r.Codes) > 0 {
			v["on_statuses"] = numbers(r.Codes)
		}
		if r.Attempts != nil {
			v["attempts"] = max(*r.Attempts, 0)
		}
		if ms := read(r.Backoff, at+".retry.backoff"); ms != nil {
			v["backoff"] = ms
		}
		fields["x_keyway_retry"] = v
	}
}

func numbers(list []int) []any {
	out := make([]any, len(list))
	for i, n := range list {
		out[i] = n
	}
	return out
}

// duration reads one of Gateway API: up to four of h, m, s and ms, from long to short.
func duration(text string) (time.Duration, bool) {
	if strings.Trim(text, "0123456789hms") != "" {
		return 0, false
	}
	d, err := time.ParseDuration(text)
	return d, err == nil && d >= 0
}

// requestRoutes adds a route for each place and match.
func (w *run) requestRoutes(r *Route, rules []requestRule, on *attached, opts *options, values map[string][]any) {
	var ids []string
	before := map[string]int{} // places of one hostname
	for _, p := range places(on.on, r.Spec.Hostnames, on.all) {
		shown := strings.ReplaceAll(p.host, "*", "_")
		if shown == "" {
			shown = "_"
		}
		if before[p.host]++; before[p.host] > 1 {
			shown += "." + strconv.Itoa(before[p.host])
		}
		for i := range rules {
			for j := range rules[i].matches {
				m := &rules[i].matches[j]
				name := strings.ToLower(r.kind) + "." + strings.Join([]string{r.Namespace, r.Name, strconv.Itoa(i), strconv.Itoa(j), shown}, ".")
				route := map[string]any{
					"name": name, "expression": m.expression(&p), "priority": w.precedence(r, m, &p, i),
					"strip_path": false, "preserve_host": true, "tags": opts.tags,
				}
				for k, v := range opts.fields {
					route[k] = v
				}
				for k, v := range rules[i].fields {
					route[k] = v
				}
				rules[i].backends.lead(route)
				if r.kind == KindGRPCRoute {
					delete(route, "strip_path")
				}
				values["routes"] = append(values["routes"], route)
				id := spec.DeriveID("routes", name)
				ids = append(ids, id)
				w.routePlugins(id, route, &rules[i], j, opts, values)
			}
		}
	}
	opts.closed = firstOf(opts.closed, w.plugins(&r.Meta, "route", ids))
}

// precedence is the priority of a match at a place. What answers a challenge of an
// authority comes before all.
func (w *run) precedence(r *Route, m *routeMatch, p *place, rule int) int {
	kind := kindHTTPRoute
	if r.kind == KindGRPCRoute {
		kind = kindGRPCRoute
	}
	n := kind<<kindShift | specific(p.host)<<hostShift | m.rank
	if m.solver {
		n = kindIngress<<kindShift | solverFields<<fieldsShift // before Ingresses too
	}
	tie := w.tie(r, strings.Join([]string{p.host, strconv.Itoa(n), m.path}, " "))
	return n | tie<<tieShift | (mostRules - 1 - rule)
}

// routePlugins adds what filters ask for.
func (w *run) routePlugins(id string, route map[string]any, rule *requestRule, match int, opts *options, values map[string][]any) {
	f := &rule.filters[match]
	add := func(name, service string, config map[string]any) {
		v := map[string]any{"name": name, "route": id, "config": config, "tags": opts.tags}
		if service != "" {
			v["service"] = service
		}
		values["plugins"] = append(values["plugins"], v)
	}
	if config := f.config(); config != nil {
		add("route-filters", "", config)
	}
	for i, s := range rule.backends.shares {
		own := &rule.shares[i]
		if s.Unit.Kind == "" || own.config() == nil {
			continue
		}
		both := *f
		both.request, both.response = f.request.then(&own.request), f.response.then(&own.response)
		add("route-filters", serviceID(s.Unit), both.config())
	}
	if f.cors != nil {
		add("cors", "", f.cors)
	}
	if len(f.mirrors) > 0 {
		route["x_keyway_mirrors"] = f.mirrors
	}
	opts.closed = firstOf(opts.closed, w.usePlugins(f.plugins, id))
}
