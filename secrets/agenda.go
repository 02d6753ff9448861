package secrets

// history counts the versions of each reference ever seen, by reference. It
// outlives the wanting, so that a version number never names two values.
type history map[string]trace

type trace struct {
	version int
	print   string // fingerprint of that version, "" when it is from before this process
}

func (h history) version(r Ref, v Value) int {
	t := h[r.String()]
	if t.version == 0 || t.print != v.Fingerprint() {
		t = trace{t.version + 1, v.Fingerprint()}
		h[r.String()] = t
	}
	return t.version
}

// agenda is a heap of entries by wake.
type agenda []*entry

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].wake.Before(a[j].wake) }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}

// Push adds an entry; for container/heap.
func (a *agenda) Push(x any) {
	e := x.(*entry)
	e.index = len(*a)
	*a = append(*a, e)
}

// Pop takes the last entry; for container/heap.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	e := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	e.index = -1
	return e
}
