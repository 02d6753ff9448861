package routing

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// place is a rule's rank, lower is better, and beneath it its slot in the rules of
// its table: of two places the lesser one is considered first. Ranks leave gaps, so
// that what is added later finds room and nothing else has to move.
type place uint64

// nowhere is behind every place.
const nowhere = place(math.MaxUint64)

func placeOf(rank, slot uint32) place { return place(rank)<<32 | place(slot) }

func (p place) rank() uint32 { return uint32(p >> 32) }
func (p place) slot() uint32 { return uint32(p) } //nolint:gosec // the lower half is meant

// widestGap is the distance between the ranks of n rules.
func widestGap(n int) uint32 {
	return uint32(min(1<<16, (math.MaxUint32-1)/uint64(n+1))) //nolint:gosec // see the bound
}

// tree holds the rules of one host by the prefix that a path must have. A node's
// prefix is the labels from the root to it. Trees that are in a table are not
// changed any more: with and without answer new ones that share what is equal.
type tree struct {
	label  string
	places []place // of rules for exactly this prefix, best first
	best   place   // the best one here or below
	kids   []*tree // in order of the first byte of label, no two share it
}

func newTree() *tree { return &tree{best: nowhere} }

// prefixesOf are the prefixes that a rule is filed behind.
func prefixesOf(s *shape) []string {
	if len(s.prefixes) == 0 {
		return []string{s.literal}
	}
	return s.prefixes
}

// file adds a rule behind each of its prefixes. It changes the tree; places must
// come in ascending order.
func (n *tree) file(s *shape, p place) {
	if len(s.prefixes) == 0 {
		n.add(s.literal, p)
	}
	for _, prefix := range s.prefixes {
		n.add(prefix, p)
	}
}

func (n *tree) add(prefix string, p place) {
	if n.best > p {
		n.best = p
	}
	if prefix == "" {
		if k := len(n.places); k == 0 || n.places[k-1] != p {
			n.places = append(n.places, p)
		}
		return
	}
	i, ok := n.kid(prefix[0])
	if !ok {
		n.kids = slices.Insert(n.kids, i, leaf(prefix, p))
		return
	}
	if same := shared(n.kids[i].label, prefix); same < len(n.kids[i].label) {
		n.kids[i] = n.kids[i].split(same)
	}
	n.kids[i].add(prefix[len(n.kids[i].label):], p)
}

func leaf(label string, p place) *tree { return &tree{label: label, places: []place{p}, best: p} }

// split answers a node for the first bytes of the label, above a copy with the rest.
func (n *tree) split(at int) *tree {
	lower := *n
	lower.label = n.label[at:]
	return &tree{label: n.label[:at], best: n.best, kids: []*tree{&lower}}
}

// with answers the tree with one rule more behind a prefix.
func (n *tree) with(prefix string, p place) *tree {
	next := *n
	next.best = min(n.best, p)
	if prefix == "" {
		if i, ok := slices.BinarySearch(n.places, p); !ok {
			next.places = slices.Insert(slices.Clone(n.places), i, p)
		}
		return &next
	}
	next.kids = slices.Clone(n.kids)
	i, ok := n.kid(prefix[0])
	if !ok {
		next.kids = slices.Insert(next.kids, i, leaf(prefix, p))
		return &next
	}
	k := n.kids[i]
	if same := shared(k.label, prefix); same < len(k.label) {
		k = k.split(same)
	}
	next.kids[i] = k.with(prefix[len(k.label):], p)
	return &next
}

// without answers the tree without a rule behind a prefix, nil if nothing is left.
func (n *tree) without(prefix string, p place) *tree {
	next := *n
	if prefix == "" {
		next.places = slices.DeleteFunc(slices.Clone(n.places), func(x place) bool { return x == p })
	} else {
		i, ok := n.kid(prefix[0])
		if !ok || !strings.HasPrefix(prefix, n.kids[i].label) {
			return n
		}
		next.kids = slices.Clone(n.kids)
		if k := n.kids[i].without(prefix[len(n.kids[i].label):], p); k != nil {
			next.kids[i] = k
		} else {
			next.kids = slices.Delete(next.kids, i, i+1)
		}
	}
	next.best = nowhere
	if len(next.places) > 0 {
		next.best = next.places[0]
	}
	for _, k := range next.kids {
		next.best = min(next.best, k.best)
	}
	if next.best == nowhere {
		return nil
	}
	return &next
}

// kid is the place of the child whose label begins with b.
func (n *tree) kid(b byte) (int, bool) {
	return slices.BinarySearchFunc(n.kids, b, func(k *tree, b byte) int { return cmp.Compare(k.label[0], b) })
}

// find answers the best rule that matches, if it is better than the given one.
func (n *tree) find(rules []rule, q *target, than place) place {
	rest := q.path
	for n.best < than {
		for _, p := range n.places {
			if p >= than {
				break
			}
			if rules[p.slot()].matches(q) {
				than = p
				break
			}
		}
		if rest == "" || len(n.kids) == 0 {
			break
		}
		i, ok := n.kid(rest[0])
		if !ok {
			break
		}
		n = n.kids[i]
		if len(rest) < len(n.label) || rest[:len(n.label)] != n.label {
			break
		}
		rest = rest[len(n.label):]
	}
	return than
}
