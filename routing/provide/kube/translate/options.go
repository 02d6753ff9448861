package translate

import (
	"regexp"
	"slices"
	"strings"
)

// options is what the annotations of an Ingress say of its routes.
type options struct {
	fields        map[string]any // of every route, as documents call them
	origins       map[string]string
	tags          []string
	methods       []string
	snis          []string
	aliases       []string
	headers       map[string][]string
	regexPrefix   string
	regexPriority int
	legacyRegex   bool
	legacyUnread  bool   // nobody knows whether that is meant
	rewrite       string // template of the path at the origin, "" for none
	closed        string // why all routes are
}

var (
	httpProtocols = []string{"http", "https"}
	grpcProtocols = []string{"grpc", "grpcs"}
)

// options reads the annotations of an Ingress.
func (w *run) options(o *Ingress) *options {
	m := &o.Meta
	opts := &options{fields: map[string]any{}, origins: map[string]string{"routes.expression": "spec.rules", "routes.name": "metadata.name", "routes.tags": annotation(kongPrefix + "tags")}, tags: w.tags(o), legacyRegex: w.parameters().Spec.EnableLegacyRegexDetection, legacyUnread: w.parametersUnread()}
	w.flags(m, opts)
	w.whole(m, "regex-priority", 0, 1<<15-1, func(n int) { opts.regexPriority = n })
	if opts.regexPrefix, _ = annotated(m, "regex-prefix"); opts.regexPrefix == "" {
		opts.regexPrefix = "/~"
	}
	w.protocols(m, opts)
	w.conditions(m, opts)
	w.rewrite(m, opts)
	return opts
}

// flags reads what annotations say of routes of any kind.
func (w *run) flags(m *Meta, opts *options) {
	set := func(name, field string, v any) {
		opts.fields[field] = v
		_, opts.origins["routes."+field] = annotated(m, name)
	}
	flag := func(name, field string) {
		w.boolean(m, name, func(yes bool) { set(name, field, yes) })
	}
	flag("preserve-host", "preserve_host")
	flag("request-buffering", "request_buffering")
	flag("response-buffering", "response_buffering")
	flag("strip-path", "strip_path")
	w.choice(m, "path-handling", []string{"v0", "v1"}, func(v string) { set("path-handling", "path_handling", v) })
	w.choice(m, "https-redirect-status-code", []string{"301", "302", "307", "308", "426"}, func(code string) {
		set("https-redirect-status-code", "https_redirect_status_code", atoi(code))
	})
}

// routeOptions is what annotations say of the routes of an HTTPRoute or a GRPCRoute.
func (w *run) routeOptions(r *Route) *options {
	opts := &options{fields: map[string]any{}, origins: map[string]string{"routes.expression": "spec.rules", "routes.tags": annotation(kongPrefix + "tags")}, tags: w.tags(r)}
	opts.fields["protocols"] = httpProtocols
	if r.kind == KindGRPCRoute {
		opts.fields["protocols"] = grpcProtocols
	}
	w.flags(&r.Meta, opts)
	w.protocols(&r.Meta, opts)
	return opts
}

// protocols reads what a route speaks.
func (w *run) protocols(m *Meta, opts *options) {
	if text, field := annotated(m, "protocols"); text != "" {
		list := commaList(text)
		known := func(set []string) bool {
			return len(list) > 0 && !slices.ContainsFunc(list, func(p string) bool { return !slices.Contains(set, p) })
		}
		switch {
		case known(httpProtocols), known(grpcProtocols):
			opts.fields["protocols"] = list
			if known(grpcProtocols) {
				delete(opts.fields, "strip_path")
			}
		default:
			w.refuse(field, "expected a comma list of http and https, or of grpc and grpcs, not '"+text+"'")
		}
	}
	const name = "ingress.kubernetes.io/force-ssl-redirect"
	w.guard(annotation(name), m.Annotations[name], func(yes bool) {
		if yes {
			secure := "https"
			if list, ok := opts.fields["protocols"].([]string); ok && slices.Contains(grpcProtocols, list[0]) {
				secure = "grpcs"
			}
			opts.fields["protocols"], opts.fields["https_redirect_status_code"] = []string{secure}, 302
		}
	})
}

// conditions reads what a route asks of requests beside host and path. What is wrong
// with one cannot be left out: the route would take more than it should.
func (w *run) conditions(m *Meta, opts *options) {
	text, field := annotated(m, "methods")
	for _, method := range commaList(strings.ToUpper(text)) {
		if strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			w.refuse(field, "expected a comma list of methods of letters, not '"+method+"'")
			continue
		}
		opts.methods = append(opts.methods, method)
	}
	text, field = annotated(m, "snis")
	for _, name := range commaList(strings.ToLower(text)) {
		if !sniName(name) || strings.Contains(name, "*") {
			w.refuse(field, "expected a comma list of server names, not '"+name+"'")
			continue
		}
		opts.snis = append(opts.snis, name)
	}
	text, field = annotated(m, "host-aliases")
	for _, name := range commaList(strings.ToLower(text)) {
		if !hostPattern(name) {
			w.ignore(field, "expected a comma list of host names, of which the first or the last label may be *, not '"+name+"'")
			continue
		}
		opts.aliases = append(opts.aliases, name)
	}
	w.headers(m, opts)
}

// headers reads the header conditions: an annotation for each header.
func (w *run) headers(m *Meta, opts *options) {
	separator, _ := annotated(m, "headers-separator")
	if separator == "" {
		separator = ","
	}
	for _, key := range sortedKeys(m.Annotations) {
		name, ok := strings.CutPrefix(key, ownPrefix+"headers.")
		if !ok {
			if name, ok = strings.CutPrefix(key, kongPrefix+"headers."); !ok {
				continue
			}
			if _, both := m.Annotations[ownPrefix+"headers."+name]; both {
				continue
			}
		}
		field, text := annotation(key), m.Annotations[key]
		folded := strings.ToLower(name)
		if folded == "" || strings.Trim(folded, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || folded == "host" {
			w.refuse(field, "expected the name of a header of letters, digits and dashes, other than Host, after headers.")
			continue
		}
		var values []string
		for v := range strings.SplitSeq(text, separator) {
			v = strings.TrimSpace(v)
			if pattern, regex := strings.CutPrefix(v, "~*"); regex && !compiles(pattern) {
				w.refuse(field, "expected a regular expression (RE2) after ~*, not '"+pattern+"'")
				continue
			}
			values = append(values, v)
		}
		if text == "" || len(values) == 0 {
			w.refuse(field, "expected one or more values, with '"+separator+"' between them")
			continue
		}
		if opts.headers == nil {
			opts.headers = map[string][]string{}
		}
		opts.headers[folded] = values
	}
}

// hostPattern says whether a text is a host that a route may have.
func hostPattern(host string) bool {
	return sniName(strings.TrimSuffix(host, ".*")) && host != "*"
}

func atoi(digits string) int {
	n := 0
	for _, c := range digits {
		n = n*10 + int(c-'0')
	}
	return n
}

// rewrite reads the path that the origin is asked for. $1 is what the first group of a
// regular expression matched.
func (w *run) rewrite(m *Meta, opts *options) {
	text, field := annotated(m, "rewrite")
	if text == "" {
		return
	}
	if text[0] != '/' || !printable(text) || strings.Contains(text, "$(") {
		w.refuse(field, "expected a path that begins with /, in which $1 is what the first group matched, not '"+text+"'")
		return
	}
	opts.rewrite = group1.ReplaceAllString(text, "$$(uri_captures[$1])")
	for _, item := range commaList(m.Annotations[kongPrefix+"plugins"] + "," + m.Annotations[ownPrefix+"plugins"]) {
		if state, _ := w.value(pluginUnit(m.Namespace, item)).(pluginState); state.Plugin == "request-transformer" {
			w.refuse(field, "expected no plugin request-transformer beside it; '"+item+"' is one")
		}
	}
}

var group1 = regexp.MustCompile(`\$([0-9]+)`)
