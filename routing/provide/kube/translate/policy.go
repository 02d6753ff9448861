package translate

import (
	"slices"
	"strings"
	"unicode"
)

// policy reads a KongUpstreamPolicy as fields of an upstream.
func (w *run) policy(m *Meta, upstream map[string]any, fields map[string]string) {
	name, field := annotated(m, "upstream-policy")
	if name == "" {
		w.override(m, upstream, fields)
		return
	}
	w.follow(m, name, "")
	if other := m.Annotations[kongPrefix+"upstream-policy"]; other != "" && other != name {
		w.follow(m, other, "the Service names KongUpstreamPolicy '"+name+"' in "+ownPrefix+"upstream-policy, which counts")
	}
	p, ok := w.look(KindUpstreamPolicy, m.Namespace, name).(*UpstreamPolicy)
	if !ok {
		w.ignore(field, "expected the name of a KongUpstreamPolicy in namespace "+m.Namespace+"; there is no '"+name+"'")
		return
	}
	values, why := p.values()
	if why != "" {
		w.ignore(field, "KongUpstreamPolicy "+p.Namespace+"/"+p.Name+": "+why)
		w.unfollow(m, name, why)
		return
	}
	// What is wrong with it must not take the Service's traffic: it is tried by itself.
	probe := &run{State: w.State, self: w.self, subject: p, unit: unit{reads: w.reads, needs: map[Ref]struct{}{}}}
	trial := map[string]any{"name": upstream["name"]}
	for k, v := range values {
		trial[k] = v
	}
	if !probe.compose(map[string][]any{"upstreams": {trial}}, nil) {
		for _, f := range probe.findings {
			f.Effect = Ignored
			w.findings = append(w.findings, f)
			w.unfollow(m, name, f.Field+": "+f.Message)
		}
		return
	}
	for k, v := range values {
		upstream[k] = v
		fields["upstreams."+k] = field
	}
}

// sticky says whether the sessions of a Service's clients stay at their targets.
func (w *run) sticky(m *Meta) bool {
	if name, _ := annotated(m, "upstream-policy"); name != "" {
		p, ok := w.look(KindUpstreamPolicy, m.Namespace, name).(*UpstreamPolicy)
		return ok && p.Spec.Algorithm == "sticky-sessions"
	}
	name, _ := annotated(m, "override")
	o, ok := w.look(KindKongIngress, m.Namespace, name).(*KongIngress)
	return ok && o.Upstream["algorithm"] == "sticky-sessions"
}

// override reads the upstream of a KongIngress, which older manifests have.
func (w *run) override(m *Meta, upstream map[string]any, fields map[string]string) {
	name, field := annotated(m, "override")
	if name == "" {
		return
	}
	o, ok := w.look(KindKongIngress, m.Namespace, name).(*KongIngress)
	if !ok {
		w.ignore(field, "expected the name of a KongIngress in namespace "+m.Namespace+"; there is no '"+name+"'")
		return
	}
	if len(o.Proxy)+len(o.Route) > 0 {
		w.ignore(field, "KongIngress "+o.Namespace+"/"+o.Name+": expected an upstream alone; proxy and route mean nothing any more, use annotations")
	}
	for _, k := range sortedKeys(o.Upstream) {
		v := o.Upstream[k]
		if !slices.Contains(overridden, k) {
			w.ignore(field, "KongIngress "+o.Namespace+"/"+o.Name+": upstream."+k+": expected one of "+strings.Join(overridden, ", "))
			continue
		}
		upstream[k] = v
		fields["upstreams."+k] = field
	}
}

// overridden are the fields of an upstream that an object of a namespace may set: none
// that leads to entities of others.
var overridden = []string{
	"algorithm", "hash_fallback", "hash_fallback_header", "hash_fallback_query_arg", "hash_fallback_uri_capture", "hash_on", "hash_on_cookie",
	"hash_on_cookie_path", "hash_on_header", "hash_on_query_arg", "hash_on_uri_capture", "healthchecks", "host_header", "slots",
	"sticky_sessions_cookie", "sticky_sessions_cookie_path",
}

// values are the policy in the words of documents, or what is wrong with it.
func (p *UpstreamPolicy) values() (map[string]any, string) {
	s := &p.Spec
	v := map[string]any{}
	if s.Algorithm != "" {
		v["algorithm"] = s.Algorithm
	}
	if s.Slots != nil {
		v["slots"] = *s.Slots
	}
	if s.Algorithm == "sticky-sessions" {
		if s.StickySessions == nil || s.StickySessions.Cookie == "" {
			return nil, "spec.stickySessions.cookie: expected the name of a cookie, since algorithm is sticky-sessions"
		}
		v["sticky_sessions_cookie"] = s.StickySessions.Cookie
		if s.StickySessions.CookiePath != "" {
			v["sticky_sessions_cookie_path"] = s.StickySessions.CookiePath
		}
	}
	if why := s.HashOn.put(v, "hash_on", "hash_on_"); why != "" {
		return nil, "spec.hashOn: " + why
	}
	if why := s.HashOnFallback.put(v, "hash_fallback", "hash_fallback_"); why != "" {
		return nil, "spec.hashOnFallback: " + why
	}
	if s.Healthchecks != nil {
		v["healthchecks"] = snaked(s.Healthchecks)
	}
	return v, ""
}

// put adds what is hashed.
func (h *HashInput) put(v map[string]any, kind, prefix string) string {
	if h == nil {
		return ""
	}
	n := 0
	for _, c := range []struct{ value, kind, field string }{
		{h.Input, h.Input, ""},
		{h.Header, "header", prefix + "header"},
		{h.Cookie, "cookie", "hash_on_cookie"},
		{h.QueryArg, "query_arg", prefix + "query_arg"},
		{h.URICapture, "uri_capture", prefix + "uri_capture"},
	} {
		if c.value == "" {
			continue
		}
		n++
		v[kind] = c.kind
		if c.field != "" {
			v[c.field] = c.value
		}
	}
	if h.CookiePath != "" {
		v["hash_on_cookie_path"] = h.CookiePath
	}
	if n != 1 {
		return "expected exactly one of input, header, cookie, queryArg and uriCapture"
	}
	return ""
}

// snaked is an object with its keys in the form of documents: httpPath is http_path.
func snaked(object map[string]any) map[string]any {
	out := make(map[string]any, len(object))
	for k, v := range object {
		if inner, ok := v.(map[string]any); ok && k != "headers" {
			v = snaked(inner)
		}
		out[snake(k)] = v
	}
	return out
}

func snake(name string) string {
	var b strings.Builder
	for _, r := range name {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}
