package policy

import (
	"slices"

	"github.com/keyway-edge/keyway/routing/spec"
)

// Chain is the plugins of one route in the order they run. Immutable and safe for
// concurrent use; routes that need the same chain share it.
//
// A panic in a plugin is not caught here: the edge answers it with 500 and goes on
// with other requests.
type Chain struct {
	directory *Directory
	walks     [2]*walk // for requests in clear, for secured ones
	global    [2]*walk // of the global plugins alone
	closed    *spec.Problem
}

// walk is a resolved order. Where no choice depends on the consumer it is four
// lists of functions; else the units are picked for each request in Access.
type walk struct {
	choices []choice // in the order of Access; every other phase has that of Order
	scoped  bool
	closed  *spec.Problem // orderings for which nothing may be served

	rewrite []func(*Context)
	access  []func(*Context) *Reply
	header  []func(*Context)
	log     []func(*Context)
}

// choice is one plugin name in a walk.
type choice struct {
	family *family
	scoped []level // those that outrank plain, best first
	plain  *unit   // for everybody else, nil for none
	at     int32   // its place in every phase but Access
	proto  protocols
}

// level is the units of one level of precedence, by id of their consumer or, grouped, of
// their consumer group.
type level struct {
	units   map[string]*unit
	grouped bool
}

// pick is the unit that runs for a consumer, which may be nil. Of several groups of the
// consumer the first by name counts.
func (s *choice) pick(d *Directory, consumer *spec.Consumer) *unit {
	if consumer == nil {
		return s.plain
	}
	for _, l := range s.scoped {
		if !l.grouped {
			if u := l.units[consumer.ID]; u != nil && u.protocol&s.proto != 0 {
				return u
			}
			continue
		}
		for _, g := range d.ConsumerGroups(consumer.ID) {
			if u := l.units[g.ID]; u != nil && u.protocol&s.proto != 0 {
				return u
			}
		}
	}
	return s.plain
}

func (w *walk) add(s choice) {
	s.at = int32(len(w.choices))
	w.choices = append(w.choices, s)
	if len(s.scoped) > 0 {
		w.scoped = true
	}
	if s.plain == nil {
		return
	}
	i := &s.plain.instance
	w.rewrite = appendSet(w.rewrite, i.Rewrite)
	w.header = appendSet(w.header, i.Header)
	w.log = appendSet(w.log, i.Log)
}

// settle makes the list of Access, once the order of the choices is known.
func (w *walk) settle() {
	for i := range w.choices {
		if u := w.choices[i].plain; u != nil && u.instance.Access != nil {
			w.access = append(w.access, u.instance.Access)
		}
	}
}

func appendSet(list []func(*Context), f func(*Context)) []func(*Context) {
	if f == nil {
		return list
	}
	return append(list, f)
}

// of is the walk for the protocol of c's request.
func of(walks *[2]*walk, c *Context) *walk {
	if c.X.Request.Scheme == "https" {
		return walks[1]
	}
	return walks[0]
}

// Closed says why no request may be served by this chain: a plugin in it did not
// compile. Nil when all did. One that names a consumer or a group closes nothing here, it
// answers 503 to whom it names.
func (ch *Chain) Closed() *spec.Problem { return ch.closed }

// Rewrite runs the rewrite phase, of global plugins alone: it comes before routing.
func (ch *Chain) Rewrite(c *Context) {
	c.Directory = ch.directory
	for _, f := range of(&ch.global, c).rewrite {
		f(c)
	}
}

// Access runs the access phase. A Reply ends the request here, the plugins after
// the one that made it are left out of this phase only.
//
// Each plugin is resolved when its turn comes: one that runs before
// authentication never sees the consumer, so the variant configured for that
// consumer does not apply to it.
func (ch *Chain) Access(c *Context) *Reply {
	c.Directory = ch.directory
	w := of(&ch.walks, c)
	c.ran = w
	if !w.scoped {
		for _, f := range w.access {
			if reply := f(c); reply != nil {
				return reply
			}
		}
		return nil
	}
	var reply *Reply
	c.picked = slices.Grow(c.picked[:0], len(w.choices))[:len(w.choices)]
	for i := range w.choices {
		u := w.choices[i].pick(ch.directory, c.Consumer)
		c.picked[w.choices[i].at] = u
		if u != nil && reply == nil && u.instance.Access != nil {
			reply = u.instance.Access(c)
		}
	}
	return reply
}

// Header runs the header phase of the plugins that Access chose; of the global
// plugins alone when Access did not run, because the request ended before it.
func (ch *Chain) Header(c *Context) {
	w := ch.chosen(c)
	if !w.scoped || c.ran == nil {
		for _, f := range w.header {
			f(c)
		}
		return
	}
	for _, u := range c.picked {
		if u != nil && u.instance.Header != nil {
			u.instance.Header(c)
		}
	}
}

// Log runs the log phase of the same plugins as Header.
func (ch *Chain) Log(c *Context) {
	w := ch.chosen(c)
	if !w.scoped || c.ran == nil {
		for _, f := range w.log {
			f(c)
		}
		return
	}
	for _, u := range c.picked {
		if u != nil && u.instance.Log != nil {
			u.instance.Log(c)
		}
	}
}

func (ch *Chain) chosen(c *Context) *walk {
	if c.ran != nil {
		return c.ran
	}
	c.Directory = ch.directory
	return of(&ch.global, c)
}

// Step is one plugin of a chain, for people who ask why.
type Step struct {
	Plugin string // "key-auth"
	ID     string // id of the plugin entity
	Scope  string // "route+service", "consumer", "global", ...
}

// Names are the steps of a request that no consumer was found for, in the order of Access;
// secure chooses between requests by TLS and in clear.
func (ch *Chain) Names(secure bool) []Step { return ch.NamesFor(nil, secure) }

// NamesFor are the steps for a consumer who is known from the start, which is
// where plugins that run before authentication differ from a real request.
func (ch *Chain) NamesFor(consumer *spec.Consumer, secure bool) []Step {
	w := ch.walks[0]
	if secure {
		w = ch.walks[1]
	}
	steps := make([]Step, 0, len(w.choices))
	for i := range w.choices {
		if u := w.choices[i].pick(ch.directory, consumer); u != nil {
			steps = append(steps, Step{Plugin: u.plugin.Name, ID: u.plugin.ID, Scope: scopeOf(u.plugin)})
		}
	}
	return steps
}

func scopeOf(p *spec.Plugin) string {
	scope := ""
	for _, part := range []struct{ name, id string }{{"route", p.Route}, {"service", p.Service}, {"consumer", p.Consumer}, {"consumer_group", p.ConsumerGroup}} {
		switch {
		case part.id == "":
		case scope == "":
			scope = part.name
		default:
			scope += "+" + part.name
		}
	}
	if scope == "" {
		return "global"
	}
	return scope
}
