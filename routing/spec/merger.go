package spec

import "slices"

// Merger is Merge for documents that follow each other: where nothing was left out of the
// ones before, and what is new is nobody else's, the rest is not looked at again. What it
// answers shares the lists in which nothing differs. Its zero value is ready; use it from
// one goroutine at a time.
type Merger struct {
	last        *Document        // what was answered last
	base, other *Document        // of which that was made
	taken       map[claim]Entity // what base claims, nil where something was left out
}

// Merge is the function Merge.
func (m *Merger) Merge(base, other *Document) (*Document, Problems) {
	if both := m.again(base, other); both != nil {
		m.last, m.other = both, other
		return both, nil
	}
	both, problems := Merge(base, other)
	if both != other && m.last != nil { // nobody else knows it yet
		both.Share(m.last)
	}
	*m = Merger{last: both, base: base, other: other}
	if both != other && len(problems) == 0 {
		claimed := merging{taken: map[claim]Entity{}}
		for e := range base.all() {
			claimed.take(e)
		}
		m.taken = claimed.taken
	}
	return both, problems
}

// again answers the documents as one, nil where that takes a look at all of them.
func (m *Merger) again(base, other *Document) *Document {
	if m.taken == nil || base != m.base {
		return nil
	}
	both := *m.last
	for _, kind := range Kinds() {
		was, is := m.other.list(kind), other.list(kind)
		if oneArray(was, is) || same(was, is) {
			continue
		}
		from, to := differing(was, is)
		for i := from; i < to; i++ {
			if slices.ContainsFunc(whole(is.at(i)), func(c claim) bool { return c.value != "" && m.taken[c] != nil }) {
				return nil
			}
		}
		first := base.list(kind)
		both.list(kind).fill(sizeOf(first)+sizeOf(is), slices.Values([]list{first, is}))
	}
	return &both
}

// differing is where a list has other entities than one before, from its beginning and its
// end.
func differing(was, is list) (from, to int) {
	n, to := sizeOf(was), sizeOf(is)
	for from < n && from < to && was.at(from) == is.at(from) {
		from++
	}
	for from < n && from < to && was.at(n-1) == is.at(to-1) {
		n, to = n-1, to-1
	}
	return from, to
}
