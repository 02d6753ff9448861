package spec

import (
	"hash/maphash"
	"math"
	"slices"
)

// seed makes hashes comparable in this process, and only in it: what is hashed
// may be a secret that could be guessed from its hash.
var seed = maphash.MakeSeed()

// Hash is the content of an entity as a number: equal for equal entities,
// whatever their position and timestamps. It is good in this process only.
func Hash(e Entity) uint64 {
	h := hasher{}
	h.SetSeed(seed)
	h.text(e.Kind())
	m := e.Base()
	h.text(m.ID)
	h.texts(m.Tags)
	e.fields(h.field)
	return h.Sum64()
}

// sum notes the hash of every entity, so that comparing documents is cheap: a snapshot
// is built while traffic flows, a document is read before that.
func (d *Document) sum() {
	for _, kind := range Kinds() {
		for e := range d.Entities(kind) {
			e.Base().note(e)
		}
	}
}

// note notes of an entity what takes a walk over its fields to tell.
func (m *Meta) note(e Entity) {
	m.sum = Hash(e)
	cert, ok := e.(*Certificate)
	m.bare = len(Refs(e)) == 0 && (!ok || cert.Issuer == "")
}

// sumOf is the hash of an entity.
func sumOf(e Entity) uint64 {
	if s := e.Base().sum; s != 0 {
		return s
	}
	return Hash(e)
}

type hasher struct {
	maphash.Hash
}

func (h *hasher) number(n uint64) {
	maphash.WriteComparable(&h.Hash, n)
}

func (h *hasher) text(s string) {
	h.number(uint64(len(s)))
	_, _ = h.WriteString(s)
}

func (h *hasher) texts(list []string) {
	h.number(uint64(len(list)))
	for _, s := range list {
		h.text(s)
	}
}

func (h *hasher) bool(b bool) {
	if b {
		_ = h.WriteByte(1)
		return
	}
	_ = h.WriteByte(0)
}

func (h *hasher) field(f field) {
	switch at := f.at.(type) {
	case *string:
		h.text(*at)
	case *int:
		h.number(uint64(*at))
	case **int:
		h.bool(*at != nil)
		if *at != nil {
			h.number(uint64(**at))
		}
	case *int64:
		h.number(uint64(*at))
	case *float64:
		h.number(math.Float64bits(*at))
	case *bool:
		h.bool(*at)
	case **bool:
		h.bool(*at != nil)
		if *at != nil {
			h.bool(**at)
		}
	case *[]string:
		h.texts(*at)
	case *[]int:
		h.number(uint64(len(*at)))
		for _, n := range *at {
			h.number(uint64(n))
		}
	case *[]Endpoint:
		h.number(uint64(len(*at)))
		for _, e := range *at {
			h.text(e.IP)
			h.number(uint64(e.Port))
		}
	case *map[string][]string:
		h.number(uint64(len(*at)))
		for _, k := range sortedKeys(*at) {
			h.text(k)
			h.texts((*at)[k])
		}
	case *map[string]any:
		h.bool(*at != nil)
		h.value(*at)
	case *Secret:
		h.text(at.Ref.String())
		h.bool(at.Value.IsZero())
		h.text(string(at.Value.Reveal()))
	case *[]Secret:
		h.number(uint64(len(*at)))
		for i := range *at {
			h.field(field{at: &(*at)[i]})
		}
	case *[]VaultRule:
		h.number(uint64(len(*at)))
		for i := range *at {
			(*at)[i].fields(h.field)
		}
	case records:
		h.number(uint64(at.count()))
		for i := range at.count() {
			at.fields(i, h.field)
		}
	case optional:
		h.bool(at.given)
		if at.given {
			at.group(h.field)
		}
	case group:
		at(h.field)
	}
}

// value hashes a value in the shapes of Plugin.Config, each with its kind.
func (h *hasher) value(v any) {
	switch v := v.(type) {
	case nil:
		_ = h.WriteByte('0')
	case bool:
		_ = h.WriteByte('b')
		h.bool(v)
	case float64:
		_ = h.WriteByte('n')
		h.number(math.Float64bits(v))
	case string:
		_ = h.WriteByte('s')
		h.text(v)
	case []any:
		_ = h.WriteByte('l')
		h.number(uint64(len(v)))
		for _, item := range v {
			h.value(item)
		}
	case map[string]any:
		_ = h.WriteByte('m')
		h.number(uint64(len(v)))
		for _, k := range sortedKeys(v) {
			h.text(k)
			h.value(v[k])
		}
	}
}

// Change is what differs in one kind of entity: ids, in the order of the document they are in.
type Change struct {
	Kind    string // "routes", see Kinds
	Added   []string
	Removed []string
	Changed []string
}

// Changes are the kinds in which two documents differ, in the order of Kinds; none if they are equal.
type Changes []Change

// Of answers the change of one kind, the zero Change if it did not.
func (c Changes) Of(kind string) Change {
	for _, change := range c {
		if change.Kind == kind {
			return change
		}
	}
	return Change{Kind: kind}
}

// Diff compares two documents by content, not by position or timestamps. Nil is an empty document.
func Diff(old, new *Document) Changes {
	if old == nil {
		old = &Document{}
	}
	if new == nil {
		new = &Document{}
	}
	var changes Changes
	for _, kind := range Kinds() {
		was, is := old.list(kind), new.list(kind)
		if oneArray(was, is) {
			continue
		}
		if c := diff(kind, was, is); len(c.Added)+len(c.Removed)+len(c.Changed) > 0 {
			changes = append(changes, c)
		}
	}
	return changes
}

func diff(kind string, old, new list) Change {
	c := Change{Kind: kind}
	id := func(e Entity) string { return e.Base().ID }
	changed := func(was, is Entity) bool { return was != is && sumOf(was) != sumOf(is) }
	// Documents mostly keep their order: only what lies between an equal beginning and
	// an equal end has to be looked up.
	from, oldTo, newTo := 0, sizeOf(old), sizeOf(new)
	for ; from < oldTo && from < newTo; from++ {
		was, is := old.at(from), new.at(from)
		if was == is {
			continue
		}
		if id(was) != id(is) {
			break
		}
		if changed(was, is) {
			c.Changed = append(c.Changed, id(is))
		}
	}
	var tail []string
	for ; from < oldTo && from < newTo; oldTo, newTo = oldTo-1, newTo-1 {
		was, is := old.at(oldTo-1), new.at(newTo-1)
		if id(was) != id(is) {
			break
		}
		if changed(was, is) {
			tail = append(tail, id(is))
		}
	}
	before := make(map[string]Entity, oldTo-from)
	for i := from; i < oldTo; i++ {
		before[id(old.at(i))] = old.at(i)
	}
	for i := from; i < newTo; i++ {
		e := new.at(i)
		was, ok := before[id(e)]
		delete(before, id(e))
		switch {
		case !ok:
			c.Added = append(c.Added, id(e))
		case changed(was, e):
			c.Changed = append(c.Changed, id(e))
		}
	}
	for i := from; i < oldTo; i++ {
		if e := old.at(i); before[id(e)] != nil {
			c.Removed = append(c.Removed, id(e))
		}
	}
	slices.Reverse(tail)
	c.Changed = append(c.Changed, tail...)
	return c
}
