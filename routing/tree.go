package routing

import (
	"cmp"
	"slices"
)

// tree holds the rules of one host by the prefix that a path must have. A node's
// prefix is the labels from the root to it; rules are named by their ranks.
type tree struct {
	label string
	ranks []int32 // rules for exactly this prefix, best first
	best  int32   // the best rank here or below
	kids  []*tree // in order of the first byte of label, no two share it
}

// add puts a rule behind a prefix. Ranks must come in ascending order.
func (n *tree) add(prefix string, rank int32) {
	if n.best > rank {
		n.best = rank
	}
	if prefix == "" {
		if k := len(n.ranks); k == 0 || n.ranks[k-1] != rank {
			n.ranks = append(n.ranks, rank)
		}
		return
	}
	i, ok := n.kid(prefix[0])
	if !ok {
		n.kids = slices.Insert(n.kids, i, &tree{label: prefix, ranks: []int32{rank}, best: rank})
		return
	}
	k := n.kids[i]
	same := shared(k.label, prefix)
	if same < len(k.label) {
		upper := &tree{label: k.label[:same], best: k.best, kids: []*tree{k}}
		k.label = k.label[same:]
		n.kids[i], k = upper, upper
	}
	k.add(prefix[same:], rank)
}

// kid is the place of the child whose label begins with b.
func (n *tree) kid(b byte) (int, bool) {
	return slices.BinarySearchFunc(n.kids, b, func(k *tree, b byte) int { return cmp.Compare(k.label[0], b) })
}

// find answers the best rule that matches, if it is better than the given rank.
func (n *tree) find(rules []rule, q *target, than int32) int32 {
	rest := q.path
	for n.best < than {
		for _, rank := range n.ranks {
			if rank >= than {
				break
			}
			if rules[rank].matches(q) {
				than = rank
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
