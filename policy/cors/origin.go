package cors

import (
	"fmt"
	"regexp"
	"strings"
)

// origins are the origins of a config.
type origins struct {
	all    bool   // any origin, because none or "*" alone was given
	single string // the only one, given in full: it is told to everybody
	list   []origin
}

// origin is one entry: "*", a literal or an expression.
type origin struct {
	any     bool
	literal string         // normalised
	pattern *regexp.Regexp // nil for a literal
	host    bool           // it says nothing of scheme and port: the host is compared
}

func parseOrigins(texts []string) (origins, error) {
	if len(texts) == 0 || len(texts) == 1 && texts[0] == "*" {
		return origins{all: true}, nil
	}
	var list []origin
	for _, text := range texts {
		o, err := parseOrigin(text)
		if err != nil {
			return origins{}, err
		}
		list = append(list, o)
	}
	if len(list) == 1 && list[0].pattern == nil {
		return origins{single: texts[0]}, nil
	}
	return origins{list: list}, nil
}

func parseOrigin(text string) (origin, error) {
	if text == "*" {
		return origin{any: true}, nil
	}
	o := origin{host: !strings.Contains(text, ":")}
	if isLiteral(text) {
		o.literal = normalise(text)
		return o, nil
	}
	re, err := regexp.Compile(`^(?:` + text + `)$`)
	if err != nil {
		return origin{}, fmt.Errorf("expected an origin or a regular expression (RE2): %w", err)
	}
	o.pattern = re
	return o, nil
}

func isLiteral(s string) bool {
	for i := range len(s) {
		b := s[i]
		if (b < '0' || b > '9') && (b|0x20 < 'a' || b|0x20 > 'z') && strings.IndexByte(".:/-", b) < 0 {
			return false
		}
	}
	return true
}

// judge answers what Access-Control-Allow-Origin is to say, "" for nothing, and
// whether that is so for any origin.
func (o *origins) judge(asking string, asked bool) (allowed string, anyone bool) {
	switch {
	case o.all:
		return "*", true
	case o.single != "":
		return o.single, false
	case !asked:
		return "", false
	}
	asking = normalise(asking)
	for i := range o.list {
		if o.list[i].any {
			return "*", true
		}
		if o.list[i].matches(asking) {
			return asking, false
		}
	}
	return "", false
}

func (o *origin) matches(asking string) bool {
	if o.host {
		asking = hostOf(asking)
	}
	if o.pattern != nil {
		return o.pattern.MatchString(asking)
	}
	return o.literal == asking
}

// normalise leaves out the port that the scheme has anyway.
func normalise(s string) string {
	if rest, ok := strings.CutSuffix(s, ":80"); ok && strings.HasPrefix(s, "http://") {
		return rest
	}
	if rest, ok := strings.CutSuffix(s, ":443"); ok && strings.HasPrefix(s, "https://") {
		return rest
	}
	return s
}

func hostOf(s string) string {
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		s = s[:i]
	}
	return s
}
