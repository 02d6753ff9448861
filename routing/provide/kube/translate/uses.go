package translate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// mostUses is how many combinations of entities one plugin object may be used by.
const mostUses = 50_000

// settleUses marks the entities that are said to use plugins and did not come into the unit's
// part of the document. That they use them stays said: it may be why they are left out, and
// a plugin for one consumer must not become one for all of them meanwhile.
func (w *run) settleUses() {
	var made map[string]bool // by id
	for c, v := range w.gives {
		if c.Kind != collectUses || w.self.Kind == unitPlugin { // itself, of a global one
			continue
		}
		if made == nil {
			made = w.users()
		}
		list, _ := v.([]use)
		for i := range list {
			list[i].Out = !made[list[i].ID]
		}
	}
}

// users are the ids of the entities in the unit's part of the document that can use plugins.
func (w *run) users() map[string]bool {
	ids := map[string]bool{}
	if w.doc == nil {
		return ids
	}
	for _, kind := range []string{"routes", "services", "consumers", "consumer_groups"} {
		for e := range w.doc.Entities(kind) {
			ids[e.Base().ID] = true
		}
	}
	return ids
}

// scope is what one plugin of a document is for. Empty is everything.
type scope struct{ Route, Service, Consumer, Group string }

// name tells scopes apart.
func (s scope) name() string {
	name := strings.Join([]string{s.Route, s.Service, s.Consumer}, " ")
	if s.Group != "" {
		name += " " + s.Group
	}
	return name
}

// scoped is a plugin object's claim to a scope. Between several of a kind the older one
// goes first.
type scoped struct {
	Plugin  Ref // unit
	Scope   scope
	Created time.Time
	Several bool // the object has other scopes too
}

// uses makes of all who use a plugin object the scopes in which it applies. One that is
// used by consumers or groups of them and by routes or services applies where both are met.
func (w *run) uses() {
	unit := pluginUnit(w.self.Namespace, w.self.Name)
	state, _ := w.value(unit).(pluginState)
	if state.Missing != "" || state.Closed != "" {
		return // who uses it is closed
	}
	var routes, services []string
	var people []scope // consumers and groups of them
	global, out := false, map[string]bool{}
	for _, s := range w.collected(w.self) {
		list, _ := s.v.([]use)
		for _, u := range list {
			if u.Out {
				out[u.ID] = true
			}
			switch u.Kind {
			case "route":
				routes = append(routes, u.ID)
			case "service":
				services = append(services, u.ID)
			case "consumer":
				people = append(people, scope{Consumer: u.ID})
			case "group":
				people = append(people, scope{Group: u.ID})
			default:
				global = true
			}
		}
	}
	schema := w.cfg.Schemas[state.Plugin]
	if why := unfit(schema, len(routes) > 0, len(services) > 0, len(people) > 0); why != "" {
		w.say("plugin " + unit.Name + ": " + why)
		w.blame(unit, "plugin", why)
		return
	}
	if (len(routes)+len(services))*max(len(people), 1) > mostUses {
		w.say("plugin " + unit.Name + " is used by too many routes, services and consumers together")
		w.blame(unit, "plugin", "expected to be used by fewer routes, services and consumers together")
		return
	}
	if state.Values["ordering"] != nil && len(people) > 0 {
		w.findOf(unit.subject(), "ordering", "expected nothing beside consumers: their plugins run in their fixed place", Ignored)
	}
	var scopes []scoped
	add := func(s scope) {
		if out[s.Route] || out[s.Service] || out[s.Consumer] || out[s.Group] {
			return // there is no such entity
		}
		scopes = append(scopes, scoped{Plugin: unit, Scope: s, Created: state.Created})
	}
	if global {
		add(scope{})
	}
	if len(people) == 0 {
		people = []scope{{}}
	}
	for _, who := range people {
		for _, id := range services {
			add(scope{Service: id, Consumer: who.Consumer, Group: who.Group})
		}
		for _, id := range routes {
			add(scope{Route: id, Consumer: who.Consumer, Group: who.Group})
		}
		if len(routes)+len(services) == 0 && who != (scope{}) {
			add(who)
		}
	}
	for _, s := range scopes {
		s.Several = len(scopes) > 1
		w.give(Ref{unitScope, state.Plugin, s.Scope.name()}, s)
	}
}

// unfit says why a plugin cannot be used in these ways, "" if it can.
func unfit(schema spec.PluginSchema, routes, services, consumers bool) string {
	switch {
	case consumers && schema.NoConsumer:
		return "expected not to be used by consumers, for which " + schema.Name + " cannot be"
	case routes && schema.NoRoute:
		return "expected not to be used by routes, for which " + schema.Name + " cannot be"
	case services && schema.NoService:
		return "expected not to be used by services, for which " + schema.Name + " cannot be"
	}
	return ""
}

// blame notes a finding of the object of another unit.
func (w *run) blame(unit Ref, field, message string) {
	w.findOf(unit.subject(), field, message, Closed)
}

// scope makes the plugin of one scope.
func (w *run) scope() {
	var best *scoped
	for _, s := range w.collected(w.self) {
		c, ok := s.v.(scoped)
		if !ok {
			continue
		}
		if best == nil || c.before(best) {
			best = &c
		}
	}
	if best == nil {
		return
	}
	state, _ := w.value(best.Plugin).(pluginState)
	if state.Values == nil {
		return
	}
	values := maps.Clone(state.Values)
	if best.Scope.Consumer != "" || best.Scope.Group != "" {
		delete(values, "ordering") // see uses
	}
	for field, id := range map[string]string{"route": best.Scope.Route, "service": best.Scope.Service, "consumer": best.Scope.Consumer, "consumer_group": best.Scope.Group} {
		if id != "" {
			values[field] = id
		}
	}
	if name, ok := values["instance_name"].(string); ok && best.Several {
		sum := sha256.Sum256([]byte(w.self.Name))
		values["instance_name"] = name + "-" + hex.EncodeToString(sum[:5])
	}
	w.compose(map[string][]any{"plugins": {values}}, nil)
	if best.Scope == (scope{}) {
		for _, s := range w.collected(w.self) {
			if c, ok := s.v.(scoped); ok && c.Plugin != best.Plugin {
				w.blame(c.Plugin, "metadata.labels[global]", "expected one global plugin of a kind; "+best.Plugin.subject().String()+" is older")
			}
		}
	}
}

func (s *scoped) before(o *scoped) bool {
	return cmp.Or(s.Created.Compare(o.Created), s.Plugin.compare(o.Plugin)) < 0
}
