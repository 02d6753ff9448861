package certs

import "strings"

// Binding binds a server name to a slot and a TLS policy. Name is exact, or a
// wildcard: "*.suffix" (one label), "prefix.*", or "*".
type Binding struct {
	Name   string
	Slot   *Slot
	Policy *Policy
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
	any     int // position of "*", -1 for none
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
	x := &Index{matches: make([]Match, len(bindings)), def: Match{Slot: def}, any: -1}
	for i, b := range bindings {
		x.matches[i] = Match{b.Slot, b.Policy, b.Name}
		if b.Name == "*" {
			x.any = i
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
		name := strings.TrimSuffix(strings.ToLower(b.Name), ".")
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
// ASCII case; one that no host can have matches nothing but the last two.
func (x *Index) Find(serverName string) Match {
	name := serverName
	for i := 0; i < len(name); i++ {
		if c := name[i]; 'A' <= c && c <= 'Z' {
			name = strings.ToLower(name)
			break
		}
	}
	name = strings.TrimSuffix(name, ".")
	if name != "" && name[0] != '.' && strings.IndexByte(name, '*') < 0 {
		if i, ok := x.names.exact[name]; ok {
			return x.matches[i]
		}
		if dot := strings.IndexByte(name, '.'); dot > 0 && len(x.names.suffix) > 0 {
			if i, ok := x.names.suffix[name[dot+1:]]; ok {
				return x.matches[i]
			}
		}
		if dot := strings.LastIndexByte(name, '.'); dot > 0 && len(x.names.prefix) > 0 {
			if i, ok := x.names.prefix[name[:dot]]; ok {
				return x.matches[i]
			}
		}
	}
	if x.any >= 0 {
		return x.matches[x.any]
	}
	return x.def
}

// Len is the number of bound names.
func (x *Index) Len() int { return len(x.matches) }
