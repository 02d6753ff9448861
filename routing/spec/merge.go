package spec

import "slices"

// Merge makes one document of two. What both claim (a name, an id, a server name) is base's,
// and a problem of the other. The other may use what is base's: whoever verifies by an
// authority, names a policy or is in a group of that name does so with base's, whatever ids
// the two have. It may not add to it: its credentials, targets, routes and plugins for
// something that is base's are left out, or whoever may write the other document could give
// himself a key of a consumer of base.
func Merge(base, other *Document) (*Document, Problems) {
	if base.empty() {
		return other, nil
	}
	m := &merging{
		taken: map[claim]Entity{}, same: map[Entity]Entity{}, lost: map[claim]bool{},
		moved: map[claim]string{}, nobody: map[claim]bool{}, problems: map[Entity]*Problem{},
	}
	for e := range base.all() {
		m.take(e)
	}
	m.compare(other)
	rest := &Document{}
	var problems Problems
	for e := range other.all() {
		if kept := m.keep(e); kept != nil {
			rest.add(kept)
		} else {
			problems = append(problems, m.problems[e])
		}
	}
	return JoinAll(m.joined(base, other), rest), problems
}

// merging is the state of one Merge.
type merging struct {
	taken    map[claim]Entity
	same     map[Entity]Entity // base's, by what is left out of the other for it
	lost     map[claim]bool    // ids of those
	moved    map[claim]string  // base's ids of those that have others
	nobody   map[claim]bool    // ids of the other's that base has nothing for
	problems map[Entity]*Problem
}

// whole are all claims of an entity.
func whole(e Entity) []claim { return append(claims(e), idOf(e)) }

func idOf(e Entity) claim { return claim{e.Kind(), "id", e.Base().ID} }

func (m *merging) take(e Entity) {
	for _, c := range whole(e) {
		if c.value != "" {
			m.taken[c] = e
		}
	}
}

// compare finds what base has too among what others refer to, and what goes with it.
func (m *merging) compare(other *Document) {
	for _, kind := range referred() {
		for e := range other.Entities(kind) {
			m.lose(e, e)
		}
	}
	for again := len(m.nobody)+len(m.lost) > 0; again; {
		again = false
		for e := range other.all() {
			again = m.orphan(e) || again
		}
	}
}

// lose leaves an entity out if base has one with a claim of it as it would be.
func (m *merging) lose(e, as Entity) {
	all := whole(as)
	i := slices.IndexFunc(all, func(c claim) bool { return c.value != "" && m.taken[c] != nil })
	if i < 0 {
		return
	}
	first := m.taken[all[i]]
	m.problem(e, onEntity, ReasonDuplicate, clash(as, all[i], first)+"; it is left out")
	// What is named differently is meant to be another: its credentials are not this one's.
	if names := claims(first); len(names) > 0 && names[0].value != "" && all[0].value != "" && names[0] != all[0] {
		m.nobody[idOf(e)] = true
		return
	}
	m.same[e], m.lost[idOf(e)] = first, true
	if id := first.Base().ID; id != e.Base().ID {
		m.moved[idOf(e)] = id
	}
}

// orphan leaves out what is for an entity that nobody is now, or that is base's, and says
// whether it did. A consumer whose groups are gone would be let do more than they allow.
func (m *merging) orphan(e Entity) bool {
	if m.nobody[idOf(e)] || m.problems[e] != nil && e.Kind() != "consumers" {
		return false
	}
	field, to, why := "", claim{}, ""
	foreignKeys(e, func(name, refers string, at *string) {
		c := claim{refers, "id", *at}
		switch {
		case m.nobody[c] && e.Kind() != "consumer_groups":
			field, to, why = name, c, "since another document has a different one in its place"
		case m.lost[c] && m.adds(e, refers) && field == "":
			field, to, why = name, c, "since another document has it, to which only that one may add"
		}
	})
	if field == "" {
		return false
	}
	m.nobody[idOf(e)] = true
	if m.problems[e] == nil {
		m.problem(e, field, ReasonReference, "its entry in '"+to.kind+"' with id '"+to.value+"' is left out, "+why+"; so is this")
	}
	return true
}

// adds says whether an entity that refers to one of a kind makes that one more than it is.
func (m *merging) adds(e Entity, refers string) bool {
	switch refers {
	case "ca_certificates", "x_keyway_tls_policies", "x_keyway_issuers":
		return false
	}
	switch e := e.(type) {
	case *Consumer, *ConsumerGroup:
		return false // who is in a group is under its limits
	case *Plugin: // of a route or service of the other's own it is that one's for some consumers
		own := e.Route != "" && !m.lost[claim{"routes", "id", e.Route}] || e.Route == "" && e.Service != "" && !m.lost[claim{"services", "id", e.Service}]
		return !own || refers != "consumers" && refers != "consumer_groups"
	}
	return true
}

func (m *merging) problem(e Entity, field string, reason Reason, message string) {
	m.problems[e] = &Problem{
		Pos: e.Base().Pos, Entity: e.Kind(), ID: e.Base().ID, Name: label(e), Field: field, Reason: reason, Message: message,
	}
}

// keep answers an entity as it goes on, nil if it is left out.
func (m *merging) keep(e Entity) Entity {
	if m.problems[e] != nil {
		return nil
	}
	as := m.led(e)
	if m.lose(e, as); m.problems[e] != nil {
		return nil
	}
	if len(m.moved) > 0 {
		m.take(as) // what belonged to two entities may belong to one now, and be there twice
	}
	return as
}

// barred says that a list of an entity must not have an id in it: a group of the other's has
// no consumers of base.
func (m *merging) barred(e Entity, c claim) bool {
	return m.nobody[c] || m.lost[c] && e.Kind() == "consumer_groups"
}

// led answers an entity whose foreign keys lead to base's, a copy if that changes it.
// Entities are of other documents too.
func (m *merging) led(e Entity) Entity {
	if len(m.lost)+len(m.nobody) == 0 {
		return e
	}
	changes := false
	foreignKeys(e, func(_, refers string, at *string) {
		c := claim{refers, "id", *at}
		changes = changes || m.moved[c] != "" || m.barred(e, c)
	})
	if !changes {
		return e
	}
	next := copyOf(e)
	next.fields(func(f field) {
		switch at := f.at.(type) {
		case *[]string:
			if f.rule.refers != "" {
				*at = slices.DeleteFunc(slices.Clone(*at), func(id string) bool { return m.barred(e, claim{f.rule.refers, "id", id}) })
			}
		case *shares:
			*at = slices.Clone(*at)
		case *mirrors:
			*at = slices.Clone(*at)
		}
	})
	foreignKeys(next, func(_, refers string, at *string) {
		if to := m.moved[claim{refers, "id", *at}]; to != "" {
			*at = to
		}
	})
	next.fields(func(f field) {
		if at, ok := f.at.(*[]string); ok && f.rule.refers != "" {
			*at = distinct(*at)
		}
	})
	next.Base().note(next)
	return next
}

// joined is base with the members that the other's groups of the same names have of the
// other's consumers.
func (m *merging) joined(base, other *Document) *Document {
	members := map[string][]string{} // by ids of base's
	for _, g := range other.ConsumerGroups {
		first, ok := m.same[g]
		if !ok {
			continue
		}
		for _, id := range g.Consumers {
			if c := (claim{"consumers", "id", id}); !m.nobody[c] && !m.lost[c] {
				members[first.Base().ID] = append(members[first.Base().ID], id)
			}
		}
	}
	if len(members) == 0 {
		return base
	}
	doc := *base
	doc.ConsumerGroups = slices.Clone(base.ConsumerGroups)
	for i, g := range doc.ConsumerGroups {
		if more := members[g.ID]; more != nil {
			next := *g
			next.Consumers = distinct(slices.Concat(g.Consumers, more))
			next.note(&next)
			doc.ConsumerGroups[i] = &next
		}
	}
	return &doc
}

// foreignKeys shows every foreign key of an entity, with its field and the kind that it leads to.
func foreignKeys(e Entity, visit func(name, refers string, at *string)) {
	var walk func(field)
	walk = func(f field) {
		switch at := f.at.(type) {
		case *string:
			if f.rule.refers != "" && *at != "" {
				visit(f.name, f.rule.refers, at)
			}
		case *[]string:
			for i := range *at {
				if f.rule.refers != "" {
					visit(f.name, f.rule.refers, &(*at)[i])
				}
			}
		case records:
			for i := range at.count() {
				at.fields(i, walk)
			}
		}
	}
	e.fields(walk)
}

// empty says that a document has nothing in it.
func (d *Document) empty() bool {
	for range d.all() {
		return false
	}
	return true
}
