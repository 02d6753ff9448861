package translate

import (
	"cmp"
	"maps"
	"slices"

	"github.com/keyway-edge/keyway/routing/spec"
)

// reasonConflicted is the reason of conditions where something else has the place.
const reasonConflicted = "Conflicted"

// displaced is what of an object, or of a unit's part, other documents have the place of.
type displaced struct {
	Why   string         // of the first
	Kinds map[string]int // how many entities, by kind
}

// Displace says what was left out of the document for what other documents have. That
// counts until it is called again.
func (s *State) Displace(problems spec.Problems) {
	if s.leftOf == s.document && slices.Equal(s.left, problems) {
		return
	}
	s.left, s.leftOf = problems, s.document
	s.displaced = nil
	if len(problems) == 0 {
		return
	}
	out := make(map[[2]string]*spec.Problem, len(problems)) // by kind and id
	kinds := map[string]bool{}
	for _, p := range problems {
		out[[2]string{p.Entity, p.ID}], kinds[p.Entity] = p, true
	}
	s.displaced = map[Ref]*displaced{}
	for _, kind := range spec.Kinds() {
		if !kinds[kind] {
			continue
		}
		for _, part := range s.order[kind] {
			for e := range part.doc.Entities(kind) {
				if p := out[[2]string{kind, e.Base().ID}]; p != nil {
					s.displace(part.of, p)
				}
			}
		}
	}
}

// displace notes that an entity of a unit was left out.
func (s *State) displace(unit Ref, p *spec.Problem) {
	why := p.Entity
	if p.Name != "" {
		why += " '" + p.Name + "'"
	}
	why += ": " + p.Message + "; to have this one served change it, or take the other one out of that document"
	for _, r := range append(s.sayers(unit), unit) {
		d := s.displaced[r]
		if d == nil {
			d = &displaced{Why: why, Kinds: map[string]int{}}
			s.displaced[r] = d
		}
		d.Kinds[p.Entity]++
	}
}

// sayers are the objects for which a unit makes entities: the one that it is of, or those
// that ask for them in its collection.
func (s *State) sayers(unit Ref) []Ref {
	if of := unit.subject(); of.Kind != "" {
		return []Ref{of}
	}
	var list []Ref
	for by, v := range s.collections[unit] {
		of := by.subject()
		switch v := v.(type) {
		case claim:
			of = v.Object
		case rooted:
			of = v.Object
		case scoped:
			of = v.Plugin.subject()
		}
		if of.Kind != "" && !slices.Contains(list, of) {
			list = append(list, of)
		}
	}
	return list
}

// Displaced says why something of an object is not served though the object is right:
// another document has its place. It is "" where nothing is.
func (s *State) Displaced(r Ref) string {
	if d := s.displaced[r]; d != nil {
		return d.Why
	}
	return ""
}

// Displacements tells of each object of which something was left out, in order.
func (s *State) Displacements() []Finding {
	var list []Finding
	for _, r := range slices.SortedFunc(maps.Keys(s.displaced), Ref.compare) {
		if o := s.objects[r]; o != nil { // or it is a unit
			list = append(list, Finding{Object: r, UID: o.Common().UID, Message: s.displaced[r].Why, Effect: Displaced})
		}
	}
	return list
}

// unserved says how a route is accepted of which other documents have the place: not at all
// where nothing of it is left, else with a message.
func (s *State) unserved(r *Route, accepted outcome) outcome {
	d := s.displaced[RefOf(r)]
	if d == nil || accepted.Reason != "" {
		return accepted
	}
	made := 0
	if u := s.units[RefOf(r).unit()]; u != nil {
		for range cmp.Or(u.doc, &spec.Document{}).Entities("routes") {
			made++
		}
	}
	if d.Kinds["routes"] >= made {
		return outcome{reasonConflicted, d.Why}
	}
	return outcome{Message: "a part of it is not served: " + d.Why}
}
