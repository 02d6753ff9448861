package spec

import (
	"errors"
	"regexp"
	"regexp/syntax"
	"strings"
)

var (
	badEscape = regexp.MustCompile(`%(?:[^0-9A-Fa-f].?|[0-9A-Fa-f]?$|[0-9A-Fa-f][^0-9A-Fa-f])`)
	plainPath = regexp.MustCompile(`^[a-zA-Z0-9._~/%-]*$`)
)

func regexpReason(err error) string {
	var bad *syntax.Error
	if errors.As(err, &bad) {
		return bad.Error()
	}
	return "it cannot be parsed"
}

func checkServicePath(s string) string {
	if why := checkProbePath(s); why != "" {
		return why
	}
	if bad := badEscape.FindString(s); bad != "" {
		return "invalid url-encoded value: '" + bad + "'"
	}
	if !pathText.MatchString(s) {
		return "invalid path: '" + s + "' (characters outside of the reserved list of RFC 3986 found)"
	}
	return ""
}

func checkProbePath(s string) string {
	switch {
	case s == "":
		return tooShort
	case s[0] != '/':
		return "should start with: /"
	case strings.Contains(s, "//"):
		return "must not have empty segments"
	}
	return ""
}

func checkRoutePath(s string) string {
	switch {
	case s == "":
		return tooShort
	case s[0] != '/' && !strings.HasPrefix(s, "~/"):
		return "should start with: / (fixed path) or ~/ (regex path)"
	case strings.Contains(s, "//"):
		return "must not have empty segments"
	case s[0] == '~':
		// Why: the expressions of routes run on untrusted paths, so only what
		// matches in linear time is accepted, as in the format's own router.
		re, err := regexp.Compile(s[1:])
		if err != nil {
			return "invalid regex: '" + s[1:] + "' (" + regexpReason(err) + ")"
		}
		// A capture is known by its name to plugins, so two of one name are one too many.
		names := map[string]bool{}
		for _, name := range re.SubexpNames() {
			if name != "" && names[name] {
				return "invalid regex: '" + s[1:] + "' (two groups have the name '" + name + "')"
			}
			names[name] = true
		}
		return ""
	}
	if bad := badEscape.FindString(s); bad != "" {
		return "invalid url-encoded value: '" + bad + "'"
	}
	if normal := normalPath(s); normal != s {
		return "non-normalized path, consider use '" + normal + "' instead"
	}
	return ""
}

// normalPath decodes every escape but those of reserved characters (RFC 3986
// section 2.2) and of the percent sign, which it writes in upper case, and
// removes dot segments.
func normalPath(s string) string {
	if strings.IndexByte(s, '%') >= 0 {
		var b strings.Builder
		for i := 0; i < len(s); i++ {
			if s[i] != '%' || i+2 >= len(s) {
				b.WriteByte(s[i])
				continue
			}
			c := unhex(s[i+1])<<4 | unhex(s[i+2])
			if strings.IndexByte("!#$%&'()*+,/:;=?@[]", c) >= 0 {
				b.WriteString(strings.ToUpper(s[i : i+3]))
			} else {
				b.WriteByte(c)
			}
			i += 2
		}
		s = b.String()
	}
	if !strings.Contains(s, "/.") {
		return s
	}
	var out []string
	segments := strings.Split(s[1:], "/")
	for i, segment := range segments {
		last := i == len(segments)-1
		switch segment {
		case "..":
			out = out[:max(len(out)-1, 0)]
			if last {
				out = append(out, "")
			}
		case ".":
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, segment)
		}
	}
	return "/" + strings.Join(out, "/")
}

func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	default:
		return c - '0'
	}
}

// migratePath marks a path of the formats before 3.0 that holds more than plain
// path characters as the expression it was taken for there.
func migratePath(s string) string {
	if s == "" || s[0] == '~' || plainPath.MatchString(s) {
		return s
	}
	return "~" + s
}
