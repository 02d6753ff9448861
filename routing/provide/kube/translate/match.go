package translate

import (
	"regexp"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

// pathKind is how a path is compared.
type pathKind uint8

const (
	prefixPath  pathKind = iota // with the text
	exactPath                   // with the text
	elementPath                 // the text, or the text and a slash before more
	regexPath
)

// path is one path of a rule.
type path struct {
	kind   pathKind
	text   string
	length int  // as it counts for priorities
	strong bool // it counts as a regular expression for priorities
}

// plainPath is what paths hold that no older controller took for a regular expression.
const plainPath = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_~/%"

// path reads a path and its type.
func (w *run) path(p *IngressPath, opts *options, field string) path {
	text := flat(p.Path)
	if text == "" {
		text = "/"
	}
	kind := "ImplementationSpecific"
	if p.PathType != nil {
		kind = *p.PathType
	}
	switch kind {
	case "Exact":
		text = spec.NormalPath("/" + strings.TrimLeft(text, "/"))
		return path{exactPath, text, len(text), true}
	case "Prefix":
		base := strings.Trim(text, "/")
		if base == "" {
			return path{prefixPath, "/", 1, true}
		}
		text = spec.NormalPath("/" + base)
		return path{elementPath, text, len(text) + 1, true}
	case "ImplementationSpecific":
	default:
		w.refuse(strings.TrimSuffix(field, "path")+"pathType", "expected Exact, Prefix or ImplementationSpecific, not '"+kind+"'")
	}
	pattern, regex := strings.CutPrefix(text, opts.regexPrefix)
	if !regex && (opts.legacyRegex || opts.legacyUnread) && strings.Trim(text, plainPath) != "" {
		if opts.legacyUnread {
			w.refuse(field, unreadText(KindIngressClass+" and "+KindParameters))
		}
		pattern, regex = text, true
	}
	if !regex {
		text = spec.NormalPath(text)
		return path{prefixPath, text, len(text), false}
	}
	length := len(pattern)
	if pattern == "" {
		pattern = "^/"
	}
	if strings.Contains(pattern, "|") {
		pattern = "(?:" + strings.TrimPrefix(pattern, "^") + ")" // or only its first alternative would be anchored
	}
	if !strings.HasPrefix(pattern, "^") {
		pattern = "^" + pattern
	}
	if !compiles(pattern) {
		w.refuse(field, "expected a regular expression (RE2) after '"+opts.regexPrefix+"', not '"+strings.TrimPrefix(pattern, "^")+"'")
		return path{prefixPath, literal(pattern), length, true} // what it could have meant is closed
	}
	return path{regexPath, pattern, length, true}
}

// flat makes one slash of several.
func flat(p string) string {
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	return p
}

func compiles(pattern string) bool {
	_, err := regexp.Compile(pattern)
	return err == nil
}

// literal is what a pattern begins with before anything that is not itself.
func literal(pattern string) string {
	pattern = strings.TrimPrefix(pattern, "^")
	if i := strings.IndexAny(pattern, `\.+*?()|[]{}^$`); i >= 0 {
		pattern = pattern[:max(i-1, 0)] // what is before ? or * may be absent
	}
	if !strings.HasPrefix(pattern, "/") {
		return "/"
	}
	return pattern
}

// matcher is the conditions of a route.
type matcher struct {
	hosts, methods, snis []string
	headers              map[string][]string
	paths                []path
	solver               bool // it comes before all that are not
}

// expression says the conditions in the language of routes.
func (m *matcher) expression() string {
	var all []string
	add := func(alternatives []string) {
		switch len(alternatives) {
		case 0:
		case 1:
			all = append(all, alternatives[0])
		default:
			all = append(all, "("+strings.Join(alternatives, " || ")+")")
		}
	}
	var list []string
	for _, h := range m.hosts {
		list = append(list, hostCondition(h))
	}
	add(list)
	list = nil
	for _, p := range m.paths {
		list = append(list, p.conditions()...)
	}
	add(list)
	for _, name := range sortedKeys(m.headers) {
		field := "any(lower(http.headers." + strings.ReplaceAll(name, "-", "_") + "))"
		list = nil
		for _, v := range m.headers[name] {
			if pattern, regex := strings.CutPrefix(v, "~*"); regex {
				list = append(list, field+" ~ "+quoted("(?i)"+pattern))
			} else {
				list = append(list, field+" == "+quoted(strings.ToLower(v)))
			}
		}
		add(list)
	}
	add(each(m.methods, "http.method"))
	add(each(m.snis, "tls.sni"))
	return strings.Join(all, " && ")
}

func each(values []string, field string) []string {
	var list []string
	for _, v := range values {
		list = append(list, field+" == "+quoted(v))
	}
	return list
}

// hostCondition compares without case, as hosts are.
func hostCondition(host string) string {
	const field = "lower(http.host)"
	host = strings.ToLower(host)
	if rest, ok := strings.CutPrefix(host, "*"); ok {
		return field + " =^ " + quoted(rest)
	}
	if rest, ok := strings.CutSuffix(host, "*"); ok {
		return field + " ^= " + quoted(rest)
	}
	return field + " == " + quoted(host)
}

func (p path) conditions() []string {
	switch p.kind {
	case exactPath:
		return []string{"http.path == " + quoted(p.text)}
	case elementPath:
		return []string{"http.path == " + quoted(p.text), "http.path ^= " + quoted(p.text+"/")}
	case regexPath:
		return []string{"http.path ~ " + quoted(p.text)}
	}
	return []string{"http.path ^= " + quoted(p.text)}
}

func quoted(s string) string { return `"` + escapes.Replace(s) + `"` }

var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

// Bits of a route's priority. Between routes that match the same request the one with
// more kinds of conditions wins, then more headers, then hosts without a wildcard,
// then (bits that others leave free) regex-priority, then regular expressions, then
// the longer path. What answers a challenge of an authority comes before all.
const (
	kindShift    = 44 // 3 for an Ingress, 2 for an HTTPRoute, 1 for a GRPCRoute
	fieldsShift  = 41
	headersShift = 33
	plainShift   = 32
	orderShift   = 17
	regexShift   = 16

	kindIngress  = 3
	solverFields = 7 // more kinds of conditions than there are
)

func (m *matcher) priority(regexPriority int) int {
	fields, longest, regex, plain := 0, 0, false, len(m.hosts) > 0
	for _, given := range []int{len(m.paths), len(m.hosts), len(m.headers), len(m.methods), len(m.snis)} {
		if given > 0 {
			fields++
		}
	}
	if m.solver {
		fields = solverFields
	}
	for _, h := range m.hosts {
		plain = plain && !strings.Contains(h, "*")
	}
	for _, p := range m.paths {
		longest, regex = max(longest, p.length), regex || p.strong
	}
	n := kindIngress<<kindShift | fields<<fieldsShift | min(len(m.headers), 255)<<headersShift | min(longest, 1<<16-1)
	if plain {
		n |= 1 << plainShift
	}
	if regex {
		n |= 1<<regexShift | regexPriority<<orderShift
	}
	return n
}
