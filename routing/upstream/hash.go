package upstream

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// sum64 is FNV-1a with a finisher, since FNV alone leaves similar texts close to
// each other on the ring. Every node hashes alike, now and after an upgrade: the
// constants must not change.
type sum64 uint64

func newHash() sum64 { return 14695981039346656037 }

func (h *sum64) text(s string) {
	x := uint64(*h)
	for i := range len(s) {
		x = (x ^ uint64(s[i])) * 1099511628211
	}
	*h = sum64(x * 1099511628211) // an end, so that "a","bc" is not "ab","c"
}

func (h *sum64) sum() uint64 {
	x := uint64(*h)
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// point is one place of a target on the ring.
type point struct {
	hash  uint64
	index uint16 // of the view's targets
}

// maxRing bounds the ring of a large upstream.
const maxRing = 1 << 20

// pointsFor is how many points a target gets for its weight. It depends on the
// targets' number and weights only coarsely, in powers of two: when a target leaves,
// the others keep their points, so that only the keys of that one move.
func pointsFor(slots int, all []*target) float64 {
	total, n := 0, 0
	for _, t := range all {
		if t.weight > 0 {
			total += t.weight
			n++
		}
	}
	if total == 0 {
		return 0
	}
	want := float64(min(max(slots, 128*n), maxRing))
	per := 1.0
	for per*float64(total) > want {
		per /= 2
	}
	for per*2*float64(total) <= want {
		per *= 2
	}
	return per
}

// ringOf lays targets on a ring, each on per points for each unit of weight.
func ringOf(targets []*target, per float64) []point {
	var ring []point
	for i, t := range targets {
		for k := range max(1, int(per*float64(t.weight))) {
			h := newHash()
			h.text(t.label)
			h.text(strconv.Itoa(k))
			ring = append(ring, point{h.sum(), uint16(i)})
		}
	}
	slices.SortFunc(ring, func(a, b point) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.index, b.index)) })
	return ring
}

// onRing is the target of the first point at or after key that was not tried.
func (v *view) onRing(key uint64, tried []*target) *target {
	at, _ := slices.BinarySearchFunc(v.ring, key, func(p point, k uint64) int { return cmp.Compare(p.hash, k) })
	first := v.targets[v.ring[at%len(v.ring)].index]
	if len(tried) == 0 || !slices.Contains(tried, first) {
		return first
	}
	for i := range v.ring {
		t := v.targets[v.ring[(at+i)%len(v.ring)].index]
		if !slices.Contains(tried, t) {
			return t
		}
	}
	return first
}

// hashing is what of a request decides about its target.
type hashing struct {
	on, fallback input
	cookiePath   string
}

// input is one thing to hash: kind is one of the format's words, name that of a
// field, cookie, argument or capture.
type input struct{ kind, name string }

func hashingOf(u *spec.Upstream) hashing {
	name := func(kind, header, arg, capture string) string {
		switch kind {
		case "header":
			return header
		case "cookie":
			return u.HashOnCookie
		case "query_arg":
			return arg
		case "uri_capture":
			return capture
		}
		return ""
	}
	return hashing{
		on:         input{u.HashOn, name(u.HashOn, u.HashOnHeader, u.HashOnQueryArg, u.HashOnURICapture)},
		fallback:   input{u.HashFallback, name(u.HashFallback, u.HashFallbackHeader, u.HashFallbackQueryArg, u.HashFallbackURICapture)},
		cookiePath: u.HashOnCookiePath,
	}
}

// key hashes what the request has of the input or else of the fallback. Where that
// is a cookie that the client does not have, it answers one to set. Without any
// there is no key, and targets take turns.
func (h *hashing) key(x *exchange.Exchange, o *Outgoing) (key uint64, ok bool, cookie string) {
	for _, in := range []*input{&h.on, &h.fallback} {
		sum := newHash()
		if in.hash(&sum, x, o) {
			return sum.sum(), true, ""
		}
		if in.kind == "cookie" {
			id := newCookie()
			sum.text(id)
			return sum.sum(), true, in.name + "=" + id + "; Path=" + h.cookiePath + "; SameSite=Lax; HttpOnly"
		}
	}
	return 0, false, ""
}

// newCookie makes the value of a cookie, in the form of a UUID as users know it.
func newCookie() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// hash takes the input's values in and says whether there is one.
func (in *input) hash(sum *sum64, x *exchange.Exchange, o *Outgoing) bool {
	found := false
	take := func(s string) { sum.text(s); found = true }
	switch in.kind {
	case "consumer":
		if o.Consumer != "" {
			take(o.Consumer)
		}
	case "ip":
		if o.Client != (netip.Addr{}) {
			b := o.Client.As16()
			take(string(b[:]))
		}
	case "header":
		for v := range x.Request.Fields.Values(in.name) {
			take(v)
		}
	case "cookie":
		if v, ok := cookieOf(&x.Request.Fields, in.name); ok {
			take(v)
		}
	case "path":
		take(x.Request.Path)
	case "query_arg":
		for part := range strings.SplitSeq(x.Request.Query, "&") {
			if name, v, _ := strings.Cut(part, "="); name == in.name {
				take(v)
			}
		}
	case "uri_capture":
		for _, c := range o.Captures {
			if c.Name == in.name {
				take(c.Value)
				break
			}
		}
	}
	return found
}

// cookieOf finds a cookie's value (RFC 6265, section 4.2).
func cookieOf(f *exchange.Fields, name string) (string, bool) {
	for line := range f.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			n, v, ok := strings.Cut(strings.TrimSpace(pair), "=")
			if ok && n == name && v != "" {
				return v, true
			}
		}
	}
	return "", false
}
