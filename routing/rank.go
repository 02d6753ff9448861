package routing

import (
	"crypto/sha1" //nolint:gosec // a name-based UUID is defined by it (RFC 9562, section 5.5); nothing relies on it
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

// weight is what decides between two rules that match the same request.
type weight struct {
	kinds         int  // of {methods, hosts, paths, headers, snis} how many the route names
	plainHosts    bool // it names hosts, none with a wildcard
	regex         bool // its paths are expressions
	headers       int  // number of header names, at most 255
	regexPriority int  // 0 unless regex
	length        int  // of its path prefix in bytes, 0 unless a prefix
}

// priority folds a weight into one number; the higher rule is tried first, and
// of two equal ones the one with the higher id.
//
// Why not simply compare field by field: the router that documents in this
// format were written for computes its priority with shifts of 32 bits that were
// meant to be of 64, and routes were ordered by what came out. That is measured,
// and kept to the bit, because a gateway that orders routes as they should have
// been would send live traffic elsewhere. What follows from it:
//
//   - kinds lands in bits 29 to 31, and bit 31 is a sign that fills all above:
//     four kinds or more beat everything with fewer;
//   - else plain hosts (bit 60), then expressions (bit 51), then kinds;
//   - the number of header names starts at bit 20, regexPriority at bit 19: they
//     share bits, so that with one header a regexPriority of 1 beats 2. A regexPriority
//     below zero or from 4096 on reaches the sign as well.
func (w weight) priority() uint64 {
	p := shifted(w.kinds, 29) | shifted(w.headers, 20) | uint64(w.length)&0x7ffff
	if w.plainHosts {
		p |= 1 << 60
	}
	if w.regex {
		p |= 1<<51 | shifted(w.regexPriority, 19)
	}
	return p
}

// shifted is n shifted left in 32 bits, with the sign then spread over 64.
func shifted(n, by int) uint64 {
	return uint64(int64(int32(uint32(n) << by))) //nolint:gosec // losing the upper bits is the point
}

// weigh weighs a route whose paths are one group of those that grouped makes.
func weigh(r *spec.Route, paths []string) weight {
	w := weight{headers: min(len(r.Headers), 255)}
	for _, named := range []int{len(r.Methods), len(r.Hosts), len(paths), len(r.Headers), len(r.SNIs)} {
		if named > 0 {
			w.kinds++
		}
	}
	w.plainHosts = len(r.Hosts) > 0
	for _, h := range r.Hosts {
		if strings.Contains(h, "*") {
			w.plainHosts = false
		}
	}
	if len(paths) > 0 {
		if w.regex = isRegex(paths[0]); w.regex {
			w.regexPriority = r.RegexPriority
		} else {
			w.length = len(paths[0])
		}
	}
	return w
}

func isRegex(path string) bool { return strings.HasPrefix(path, "~") }

// grouped splits paths, in order of first appearance, into one group for each
// length of prefix and one for all expressions. A route is as many rules.
func grouped(paths []string) [][]string {
	if len(paths) < 2 {
		return [][]string{paths}
	}
	var groups [][]string
	place := map[int]int{}
	for _, p := range paths {
		k := len(p)
		if isRegex(p) {
			k = 0
		}
		i, ok := place[k]
		if !ok {
			i = len(groups)
			place[k] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], p)
	}
	return groups
}

// partID is the id by which the n-th group (from 1) of a route in several parts
// is ordered among its equals. It is a name-based UUID as the format's own
// router makes it, so that equal rules have the same order here.
func partID(route string, n int) string {
	h := sha1.New() //nolint:gosec // see the import
	h.Write([]byte{0x7f, 0x14, 0x5b, 0xf9, 0x0d, 0xce, 0x4f, 0x91, 0x98, 0xeb, 0xde, 0xbb, 0xce, 0x4b, 0x9f, 0x6b})
	h.Write([]byte(route + "#" + strconv.Itoa(n)))
	id := h.Sum(nil)[:16]
	id[6] = id[6]&0x0f | 0x50
	id[8] = id[8]&0x3f | 0x80
	x := hex.EncodeToString(id)
	return strings.Join([]string{x[:8], x[8:12], x[12:16], x[16:20], x[20:]}, "-")
}
