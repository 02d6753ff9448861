package routing

import "strings"

// UpstreamPath is the path that the origin is asked for: the service's path (""
// for none) and what is left of the request's path once the matched part is
// stripped, if the route strips, joined by exactly one slash; characters that a
// URI may not hold are escaped.
//
// Under Compatible it is made of the path that was matched. Under Strict it is
// made of raw, the path as received, of which only dot segments, empty segments
// and escapes of unreserved characters are changed: an escaped slash reaches the
// origin as the client spelled it. Both are the same path: normalising either
// gives what was matched.
func (m *Match) UpstreamPath(servicePath string, p Policy, raw string) string {
	path, respelled := m.spelled(p, raw)
	cut := len(m.MatchedPath)
	if respelled {
		cut = spelledLength(path, cut)
	}
	if servicePath == "" {
		servicePath = "/"
	}
	if m.Route.Spec.StripPath {
		// A route without paths strips the slash, as one for "/" does.
		return escape(join(servicePath, undotted(path[min(max(cut, 1), len(path)):]), path))
	}
	return escape(join(servicePath, path[1:], path))
}

// WholePath is the path for a gRPC service, which names the method and which no route
// strips: the request's in the form in which UpstreamPath sends it.
func (m *Match) WholePath(p Policy, raw string) string {
	path, _ := m.spelled(p, raw)
	return escape(path)
}

// spelled is the request's path as it is sent on, and whether that is not as it was matched.
func (m *Match) spelled(p Policy, raw string) (path string, other bool) {
	if p != Compatible && raw != m.path && raw != "" {
		return flatten(decode(raw, forSending)), true
	}
	return m.path, false
}

// join puts rest behind base with exactly one slash between them. With no rest
// the request's own last slash decides about the last slash.
func join(base, rest, request string) string {
	bare, slash := strings.CutSuffix(base, "/")
	switch {
	case rest == "" && bare == "":
		return "/"
	case rest == "" && request[len(request)-1] == '/' && (slash || len(request) > 1):
		return bare + "/"
	case rest == "":
		return bare
	case bare == "" && rest[0] == '/':
		return rest
	case rest[0] == '/':
		return bare + rest
	case bare == "" && len(rest)+1 == len(request) && request[0] == '/':
		return request // nothing but its slash was taken off: no need to make it anew
	}
	return bare + "/" + rest
}

// undotted takes a dot segment away that stripping laid bare: of "/a../b" and
// the prefix "/a" the rest "../b" is left, which must not climb.
func undotted(rest string) string {
	switch {
	case rest == "." || rest == "..":
		return ""
	case strings.HasPrefix(rest, "./"):
		return rest[1:]
	case strings.HasPrefix(rest, "../"):
		return rest[2:]
	}
	return rest
}

// spelledLength is how many bytes of a path for sending make the first n bytes
// of the same path for matching.
func spelledLength(path string, n int) int {
	i := 0
	for ; i < len(path) && n > 0; n-- {
		if path[i] != '%' {
			i++
			continue
		}
		if c, ok := escaped(path, i); ok {
			i += 3
			if staysEscaped(c) {
				n -= 2
			}
			continue
		}
		i++
	}
	return i
}

// escape escapes what a URI may not hold and leaves escapes alone.
func escape(path string) string {
	bad := 0
	for i := range len(path) {
		if unsendable(path[i]) {
			bad++
		}
	}
	if bad == 0 {
		return path
	}
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, len(path)+2*bad)
	for i := range len(path) {
		if c := path[i]; unsendable(c) {
			b = append(b, '%', digits[c>>4], digits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

func unsendable(c byte) bool {
	return class[c] == classOther || class[c] == classControl || c == '\\'
}
