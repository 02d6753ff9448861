package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

// reorder moves the choices of w as the orderings of its plugins say. The orderings that
// count are those of the plugins that run for everybody; who is not in the walk is nobody's
// neighbour.
//
// The plugins are taken in their fixed order, and before each come those that have to, and
// before these those that have to, and so on. "a before b" and "b after a" are the same.
//
// Orderings that contradict each other, or put what is for one consumer before what finds
// the consumer, are a problem, and none of the walk's is kept. In the fixed order every
// plugin still judges every request. But who the client is can depend on which plugin
// authenticates last, and on what it sees of the request: when a contradiction is about
// one that does, nothing is served.
func (c *Compiler) reorder(w *walk) {
	s := sorting{needs: w.needs()}
	if s.needs == nil {
		return
	}
	s.state = make([]visit, len(w.choices))
	for i := range w.choices {
		if circle := s.place(i); circle != nil {
			p := w.contradiction(circle)
			if w.about(circle) {
				p.Message += "; what they serve answers 503 until this is put right"
				w.closed = p
			} else {
				p.Message += "; all plugins run in their fixed order there until this is put right"
			}
			c.report(p)
			return
		}
	}
	if p := w.unnamed(s.order); p != nil {
		c.report(p)
		return
	}
	moved := make([]choice, len(s.order))
	for i, at := range s.order {
		moved[i] = w.choices[at]
	}
	w.choices = moved
}

// report keeps a problem that several chains have as one.
func (c *Compiler) report(p *spec.Problem) {
	if !slices.ContainsFunc(c.problems, func(o *spec.Problem) bool { return o.ID == p.ID && o.Field == p.Field && o.Message == p.Message }) {
		c.problems = append(c.problems, p)
	}
}

// needs are for each choice those that have to run before it, as places in order; nil when
// no ordering says anything here.
func (w *walk) needs() [][]int {
	var needs [][]int
	need := func(second, first int) {
		if first < 0 || second < 0 {
			return
		}
		if needs == nil {
			needs = make([][]int, len(w.choices))
		}
		needs[second] = append(needs[second], first)
	}
	for i := range w.choices {
		u := w.choices[i].plain
		if u == nil || u.plugin.Ordering == nil {
			continue
		}
		for _, name := range u.plugin.Ordering.After {
			need(i, w.place(name))
		}
		for _, name := range u.plugin.Ordering.Before {
			need(w.place(name), i)
		}
	}
	for _, list := range needs {
		slices.Sort(list)
	}
	return needs
}

// place is where a plugin is among the choices, -1 for nowhere.
func (w *walk) place(name string) int {
	return slices.IndexFunc(w.choices, func(s choice) bool { return s.family.name == name })
}

// visit is how far a choice is while the choices are sorted.
type visit uint8

const (
	waiting visit = iota
	open          // those before it are being placed
	placed
)

type sorting struct {
	needs [][]int
	state []visit
	path  []int // the open ones
	order []int
}

// place places the choice i after all that it needs. It answers the places of a circle when
// there is one, each of which needs the next.
func (s *sorting) place(i int) (circle []int) {
	switch s.state[i] {
	case placed:
		return nil
	case open:
		return s.path[slices.Index(s.path, i):]
	}
	s.state[i], s.path = open, append(s.path, i)
	for _, first := range s.needs[i] {
		if circle = s.place(first); circle != nil {
			return circle
		}
	}
	s.state[i], s.path = placed, s.path[:len(s.path)-1]
	s.order = append(s.order, i)
	return nil
}

// about says that one of these choices authenticates.
func (w *walk) about(places []int) bool {
	return slices.ContainsFunc(places, func(i int) bool { return w.choices[i].family.names })
}

func (w *walk) contradiction(circle []int) *spec.Problem {
	var names strings.Builder
	for _, i := range circle {
		names.WriteString(w.choices[i].family.name + " after ")
	}
	names.WriteString(w.choices[circle[0]].family.name)
	return w.blame(circle, "expected orderings that can all be kept where plugins meet; they say "+names.String())
}

// unnamed is the problem that an order puts a plugin that is for some consumers before one
// that finds the consumer, which it runs after without orderings; nil where it does not.
func (w *walk) unnamed(order []int) *spec.Problem {
	for at, i := range order {
		x := &w.choices[i]
		if len(x.scoped) == 0 {
			continue
		}
		for _, later := range order[at+1:] {
			if w.choices[later].family.names && later < i {
				return w.blame([]int{i}, fmt.Sprintf(
					"expected %s to stay after %s: plugin %s is a %s for one consumer or group, which nobody knows before; all plugins run in their fixed order where they meet until this is put right",
					x.family.name, w.choices[later].family.name, x.first(), x.family.name))
			}
		}
	}
	return nil
}

// blame makes a problem of the first plugin with an ordering, of these if one of them has one.
func (w *walk) blame(places []int, message string) *spec.Problem {
	ordered := func(s *choice) bool { return s.plain != nil && s.plain.plugin.Ordering != nil }
	i := slices.IndexFunc(places, func(i int) bool { return ordered(&w.choices[i]) })
	if i >= 0 {
		i = places[i]
	} else {
		i = slices.IndexFunc(w.choices, func(s choice) bool { return ordered(&s) })
	}
	p := w.choices[i].plain.plugin
	return &spec.Problem{Pos: p.Pos, Entity: "plugins", ID: p.ID, Name: p.Name, Field: "ordering", Reason: spec.ReasonCompile, Message: message}
}

// first is the least id of the plugins for some consumers.
func (s *choice) first() string {
	id := ""
	for _, l := range s.scoped {
		for _, u := range l.units {
			if id == "" || u.plugin.ID < id {
				id = u.plugin.ID
			}
		}
	}
	return id
}
