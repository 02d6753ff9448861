package edge

import (
	"errors"
	"net/http"
	"strings"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing"
)

var errOtherReading = errors.New("the path leads to another route for a reader that decodes it again or drops its parameters")

// otherReading refuses a path that an origin may read as one that another route is
// for. Escaped slashes, escaped percent signs and parameters are legitimate and are
// passed on unchanged; but when reading them the loosest way leads to a longer
// match on another route, that route's plugins would be walked around. The routes
// decide, not the spelling: a gateway with no such route refuses nothing.
func (r *request) otherReading() *policy.Reply {
	if r.policy != routing.Strict || strings.IndexByte(r.query.Path, '%') < 0 && !strings.ContainsAny(r.query.Path, ";\\") {
		return nil
	}
	loose := looseReading(r.query.Path)
	if loose == r.query.Path {
		return nil
	}
	q := r.query
	q.Path = loose
	var other routing.Match
	if !r.snap.Table.Match(&q, &other) || other.Route == r.match.Route || len(other.MatchedPath) <= len(r.match.MatchedPath) {
		return nil
	}
	reply := policy.ErrorReply(http.StatusBadRequest, "")
	reply.Err = errOtherReading
	return reply
}

// looseReading is what the least careful origin makes of a path: it decodes twice,
// takes a backslash for a slash, drops parameters and empty segments, and goes up
// for "..".
func looseReading(path string) string {
	path = strings.ReplaceAll(decodeAll(decodeAll(path)), "\\", "/")
	var kept []string
	for segment := range strings.SplitSeq(path, "/") {
		segment, _, _ = strings.Cut(segment, ";")
		switch segment {
		case "", ".":
		case "..":
			kept = kept[:max(0, len(kept)-1)]
		default:
			kept = append(kept, segment)
		}
	}
	loose := "/" + strings.Join(kept, "/")
	if len(loose) > 1 && strings.HasSuffix(path, "/") {
		loose += "/"
	}
	return loose
}

// decodeAll decodes every escape; what is none stays.
func decodeAll(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := fromHex(s[i+1]), fromHex(s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// fromHex is the value of a hexadecimal digit, -1 of anything else.
func fromHex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
