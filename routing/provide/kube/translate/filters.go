package translate

import (
	"fmt"
	"slices"
	"strings"
)

// filtered is what the filters of a rule or of a backend are for a document.
type filtered struct {
	request, response HeaderModifier
	rewrite, redirect map[string]any
	cors              map[string]any
	mirrors           []any
	plugins           []pluginRef
	resolved          outcome
}

// filters reads filters. prefix is what the match has of the path, for those that replace
// it, "" for matches that are no prefix.
func (w *run) filters(r *Route, list []RouteFilter, prefix, transport, at string, f *filtered) {
	once := map[string]bool{}
	for i := range list {
		filter := &list[i]
		field := fmt.Sprintf("%s.filters[%d]", at, i)
		if once[filter.Type] && filter.Type != "RequestMirror" && filter.Type != "ExtensionRef" {
			w.refuse(field, "expected one filter of the type "+filter.Type)
			continue
		}
		once[filter.Type] = true
		switch {
		case filter.Type == "RequestHeaderModifier" && filter.RequestHeaderModifier != nil:
			w.modifier(filter.RequestHeaderModifier, &f.request, field)
		case filter.Type == "ResponseHeaderModifier" && filter.ResponseHeaderModifier != nil:
			w.modifier(filter.ResponseHeaderModifier, &f.response, field)
		case filter.Type == "RequestMirror" && filter.RequestMirror != nil:
			w.mirror(r, filter.RequestMirror, transport, field+".requestMirror", f)
		case filter.Type == "ExtensionRef" && filter.ExtensionRef != nil:
			ref := filter.ExtensionRef
			if ref.group("") != konghq || ref.kind("") != KindPlugin {
				f.resolved.fail("InvalidKind", field+".extensionRef: expected a KongPlugin")
				w.refuse(field+".extensionRef", "expected a KongPlugin, not a "+ref.kind("")+" of group '"+ref.group("")+"'")
				continue
			}
			f.plugins = append(f.plugins, pluginRef{r.Namespace, ref.Name})
		case r.kind == KindGRPCRoute:
			w.refuse(field+".type", "expected RequestHeaderModifier, ResponseHeaderModifier, RequestMirror or ExtensionRef, not '"+filter.Type+"'")
		case filter.Type == "RequestRedirect" && filter.RequestRedirect != nil:
			f.redirect = w.redirected(filter.RequestRedirect, prefix, field+".requestRedirect")
		case filter.Type == "URLRewrite" && filter.URLRewrite != nil:
			f.rewrite = map[string]any{}
			if filter.URLRewrite.Hostname != "" {
				f.rewrite["hostname"] = filter.URLRewrite.Hostname
			}
			if p := filter.URLRewrite.Path; p != nil {
				f.rewrite["path"] = w.replaced(p, prefix, field+".urlRewrite.path")
			}
		case filter.Type == "CORS" && filter.CORS != nil:
			f.cors = cors(filter.CORS)
		default:
			w.refuse(field+".type", "expected RequestHeaderModifier, ResponseHeaderModifier, RequestMirror, RequestRedirect, URLRewrite, CORS or ExtensionRef with its field, not '"+filter.Type+"'")
		}
	}
	if f.redirect != nil && f.rewrite != nil {
		w.incompatible = true
		w.refuse(at+".filters", "expected RequestRedirect or URLRewrite, not both")
	}
}

// modifier adds what a filter does to header fields.
func (w *run) modifier(m *HeaderModifier, to *HeaderModifier, at string) {
	for _, v := range slices.Concat(m.Set, m.Add) {
		if !token(v.Name) || strings.ContainsAny(v.Value, "\r\n\x00") {
			w.refuse(at, "expected names and values of header fields; '"+v.Name+"' is none")
			return
		}
	}
	for _, name := range m.Remove {
		if !token(name) {
			w.refuse(at, "expected names of header fields to remove, not '"+name+"'")
			return
		}
	}
	*to = to.then(m)
}

// then is what one modifier and another after it do.
func (m HeaderModifier) then(o *HeaderModifier) HeaderModifier {
	out := HeaderModifier{Set: slices.Clone(m.Set), Add: slices.Clone(m.Add), Remove: slices.Clone(m.Remove)}
	forget := func(name string) (removed bool) {
		same := func(v HeaderValue) bool { return strings.EqualFold(v.Name, name) }
		out.Set, out.Add = slices.DeleteFunc(out.Set, same), slices.DeleteFunc(out.Add, same)
		n := len(out.Remove)
		out.Remove = slices.DeleteFunc(out.Remove, func(r string) bool { return strings.EqualFold(r, name) })
		return len(out.Remove) < n
	}
	for _, v := range o.Set {
		forget(v.Name)
		out.Set = append(out.Set, v)
	}
	for _, v := range o.Add {
		if slices.ContainsFunc(out.Remove, func(r string) bool { return strings.EqualFold(r, v.Name) }) {
			forget(v.Name) // what was removed before begins anew
			out.Set = append(out.Set, v)
			continue
		}
		out.Add = append(out.Add, v)
	}
	for _, name := range o.Remove {
		forget(name)
		out.Remove = append(out.Remove, name)
	}
	return out
}

// token says whether a text can name a header field.
func token(s string) bool {
	return s != "" && strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") == ""
}

func (m *HeaderModifier) values() map[string]any {
	pairs := func(list []HeaderValue) []any {
		out := []any{}
		for _, v := range list {
			out = append(out, map[string]any{"name": v.Name, "value": v.Value})
		}
		return out
	}
	v := map[string]any{}
	if len(m.Set) > 0 {
		v["set"] = pairs(m.Set)
	}
	if len(m.Add) > 0 {
		v["add"] = pairs(m.Add)
	}
	if len(m.Remove) > 0 {
		v["remove"] = m.Remove
	}
	return v
}

// mirror adds a service that gets copies.
func (w *run) mirror(r *Route, m *MirrorFilter, transport, at string, f *filtered) {
	unit := w.backendRef(r, &m.BackendRef, transport, at+".backendRef", &f.resolved)
	numerator, denominator := 1, 1
	switch {
	case m.Fraction != nil:
		numerator, denominator = m.Fraction.Numerator, or(m.Fraction.Denominator, 100)
	case m.Percent != nil:
		numerator, denominator = *m.Percent, 100
	}
	if numerator < 0 || denominator < 1 || numerator > denominator {
		w.ignore(at, "expected a share from nothing to everything")
		return
	}
	if unit.Kind != "" && numerator > 0 {
		f.mirrors = append(f.mirrors, map[string]any{"service": serviceID(unit), "numerator": numerator, "denominator": denominator})
	}
}

// redirected is a redirect for a document.
func (w *run) redirected(f *RedirectFilter, prefix, at string) map[string]any {
	v := map[string]any{"status_code": or(f.StatusCode, 302)}
	if f.Scheme != "" {
		v["scheme"] = f.Scheme
	}
	if f.Hostname != "" {
		v["hostname"] = f.Hostname
	}
	if f.Port != nil {
		v["port"] = *f.Port
	}
	if f.Path != nil {
		v["path"] = w.replaced(f.Path, prefix, at+".path")
	}
	return v
}

// replaced is another path for a document.
func (w *run) replaced(p *PathModifier, prefix, at string) map[string]any {
	switch {
	case p.Type == "ReplaceFullPath" && p.ReplaceFullPath != nil:
		return map[string]any{"full": *p.ReplaceFullPath}
	case p.Type == "ReplacePrefixMatch" && p.ReplacePrefixMatch != nil && prefix != "":
		return map[string]any{"prefix": map[string]any{"match": prefix, "replace": *p.ReplacePrefixMatch}}
	case p.Type == "ReplacePrefixMatch" && prefix == "":
		w.refuse(at+".type", "expected ReplaceFullPath: no prefix of the path is matched")
	default:
		w.refuse(at+".type", "expected ReplaceFullPath or ReplacePrefixMatch with its field, not '"+p.Type+"'")
	}
	return map[string]any{"full": "/"}
}

// cors is a CORS filter as the plugin of that name has it.
func cors(f *CORSFilter) map[string]any {
	v := map[string]any{"allow_credentials": f.AllowCredentials}
	if f.MaxAge > 0 {
		v["max_age"] = f.MaxAge
	}
	for name, list := range map[string][]string{"allow_origins": f.AllowOrigins, "allow_methods": f.AllowMethods, "allow_headers": f.AllowHeaders, "expose_headers": f.ExposeHeaders} {
		if len(list) > 0 {
			v[name] = list
		}
	}
	return map[string]any{"gateway_api": v}
}

// config is the config of the plugin route-filters, nil for nothing to do.
func (f *filtered) config() map[string]any {
	v := map[string]any{}
	if m := f.request.values(); len(m) > 0 {
		v["request_headers"] = m
	}
	if m := f.response.values(); len(m) > 0 {
		v["response_headers"] = m
	}
	if f.rewrite != nil {
		v["rewrite"] = f.rewrite
	}
	if f.redirect != nil {
		v["redirect"] = f.redirect
	}
	if len(v) == 0 {
		return nil
	}
	return v
}
