package certs

import "strings"

// Binding binds a server name to a slot and a TLS policy. Name is exact, or a
// wildcard: "*.suffix" (one label), "prefix.*", or "*".
type Binding struct {
	Name   string
	Slot   *Slot
	Policy *Policy
	// ID and Rank tell bindings of one name apart: see Settle.
	ID   string
	Rank int
}

// Match is what is bound to a server name. Slot and Policy may be nil: then the
// default ones hold.
type Match struct {
	Slot    *Slot
	Policy  *Policy
	Pattern string // the bound name that matched, "" for the default slot
}

// Index finds what is bound to a server name. Immutable; a look-up takes no lock,
// allocates nothing, and its cost does not grow with the number of names.
type Index struct {
	names   *names
	matches []Match // by position of the binding
	def     Match
	star    int // position of "*" plus one, 0 for none
}

// names is the part of an index that a swap of certificates does not change.
type names struct {
	list   []string // as bound, in order
	exact  map[string]int32
	suffix map[string]int32 // "a.test" for *.a.test
	prefix map[string]int32 // "a.b" for a.b.*
}

// NewIndex makes the index of bindings, with def (nil for none) for names that
// match nothing. prev's look-up tables are shared when the names are the same, so
// that a swap of one among many thousand certificates costs little.
func NewIndex(prev *Index, bindings []Binding, def *Slot) *Index {
	x := &Index{matches: make([]Match, len(bindings)), def: Match{Slot: def}}
	for i, b := range bindings {
		x.matches[i] = Match{b.Slot, b.Policy, b.Name}
		if b.Name == "*" {
			x.star = i + 1
		}
	}
	if prev != nil && prev.names.same(bindings) {
		x.names = prev.names
		return x
	}
	x.names = newNames(bindings)
	return x
}

func (n *names) same(bindings []Binding) bool {
	if len(n.list) != len(bindings) {
		return false
	}
	for i := range bindings {
		if n.list[i] != bindings[i].Name {
			return false
		}
	}
	return true
}

func newNames(bindings []Binding) *names {
	n := &names{list: make([]string, len(bindings)), exact: make(map[string]int32, len(bindings)), suffix: map[string]int32{}, prefix: map[string]int32{}}
	for i, b := range bindings {
		n.list[i] = b.Name
		name := strings.TrimSuffix(string(lower([]byte(b.Name))), ".")
		switch {
		case name == "*":
		case strings.HasPrefix(name, "*."):
			n.suffix[name[2:]] = int32(i)
		case strings.HasSuffix(name, ".*"):
			n.prefix[name[:len(name)-2]] = int32(i)
		default:
			n.exact[name] = int32(i)
		}
	}
	return n
}

// Find answers what is bound to a server name: exact before "*.suffix" before
// "prefix.*" before "*" before the default. Names are compared without regard to
// ASCII case and to one dot at the end; one that no host can have (empty labels,
// more than 253 bytes, bytes outside of ASCII's graphic ones, a star) matches
// nothing but the last two.
func (x *Index) Find(serverName string) Match {
	if x == nil {
		return Match{}
	}
	// On the stack, and looked up as it is: no case of letters makes garbage.
	var buf [maxName]byte
	name := strings.TrimSuffix(serverName, ".")
	if x.names != nil && len(name) <= len(buf) {
		if i, ok := x.names.find(lower(buf[:copy(buf[:], name)])); ok {
			return x.matches[i]
		}
	}
	if x.star > 0 {
		return x.matches[x.star-1]
	}
	return x.def
}

// maxName is the longest name that a host can have: RFC 1035, section 2.3.4, less
// the length bytes at both ends.
const maxName = 253

// find looks a lower-case name up.
func (n *names) find(name []byte) (int32, bool) {
	first, last := -1, -1 // dots
	for i, c := range name {
		switch {
		case c == '.':
			if i == last+1 || i == len(name)-1 {
				return 0, false
			}
			if first < 0 {
				first = i
			}
			last = i
		case c <= ' ' || c >= 0x7f || c == '*':
			return 0, false
		}
	}
	if i, ok := n.exact[string(name)]; ok {
		return i, true
	}
	if first < 0 {
		return 0, false
	}
	if i, ok := n.suffix[string(name[first+1:])]; ok {
		return i, true
	}
	i, ok := n.prefix[string(name[:last])]
	return i, ok
}

// lower writes ASCII capitals as small letters, in place. Unicode's rules would
// make names of hosts out of names that no host has.
func lower(b []byte) []byte {
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return b
}

// Len is the number of bound names.
func (x *Index) Len() int { return len(x.matches) }
