package translate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// pluginState is what others read of a plugin object.
type pluginState struct {
	Missing string // there is no such object
	Closed  string // it is not right: what it is to guard is closed
	Plugin  string // "rate-limiting"
	Values  map[string]any
	Created time.Time
}

// pluginRef is what an annotation calls a plugin.
type pluginRef struct{ namespace, name string }

// use says that an entity uses a plugin.
type use struct {
	Kind string // route, service, consumer, group
	ID   string // of the entity
	Out  bool   // the entity is left out of the document
}

// pluginUnit names the unit of a plugin object; cluster-wide ones have no namespace.
func pluginUnit(namespace, name string) Ref { return Ref{unitPlugin, namespace, name} }

// plugin checks a plugin object by itself.
func (w *run) plugin() {
	p, ok := w.subject.(*Plugin)
	if !ok {
		w.say(pluginState{Missing: "there is no such object"})
		return
	}
	if p.cluster && !w.ours(p.Annotations[classAnnotation]) {
		w.say(pluginState{Missing: "it is of another class"})
		return
	}
	values := map[string]any{"name": p.Plugin, "enabled": !p.Disabled, "tags": w.tags(p), "config": w.config(p)}
	if len(p.Protocols) > 0 {
		values["protocols"] = p.Protocols
	}
	if len(p.Ordering) > 0 {
		values["ordering"] = p.Ordering
	}
	if p.ConsumerRef != "" {
		w.refuse("consumerRef", "expected nothing; name the plugin in the annotation konghq.com/plugins of the consumer instead")
	}
	state := pluginState{Plugin: p.Plugin, Values: values, Created: p.CreationTimestamp}
	if !w.refused && w.compose(map[string][]any{"plugins": {values}}, map[string]string{"plugins.name": "plugin"}) {
		w.permitted(w.doc.Plugins[0], "config")
	}
	w.doc = nil // it is only one of the plugin's uses that goes into the document
	if w.refused {
		state = pluginState{Plugin: p.Plugin, Closed: w.why}
	} else if p.InstanceName != "" {
		values["instance_name"] = p.InstanceName
	}
	w.say(state)
	if p.cluster && p.Labels["global"] == "true" {
		w.give(Ref{collectUses, "", p.Name}, []use{{Kind: "global"}})
	}
}

// permitted refuses references to secrets that an object may not use in a field: those of
// the node itself, and those that the rules of a vault keep from it.
func (w *run) permitted(e spec.Entity, field string) {
	if w.alone {
		return
	}
	shown := field
	if _, custom := w.subject.(*CustomEntity); custom {
		shown = "spec.fields." + field
	}
	for _, ref := range spec.Refs(e) {
		w.reads[Ref{Kind: declaredVaults}] = struct{}{}
		vault := w.vaults[ref.Vault]
		known := len(w.collected(Ref{unitPrefix, "", ref.Vault})) > 0
		switch {
		case vault == nil && !known:
			w.refuse(shown, "expected a reference into a vault that a KongVault or a document declares, not '"+ref.Vault+"'")
		case vault != nil && !vault.Allows(ref.Resource, spec.UseOf(e, field, ref)):
			w.refuse(shown, "the rules (x_keyway_allow) of vault '"+ref.Vault+"' do not let this object use '"+ref.Resource+"'")
		}
	}
}

// config is the config of a plugin object, with what is in Secrets.
func (w *run) config(p *Plugin) map[string]any {
	config := p.Config
	switch {
	case p.ConfigFrom != nil && len(p.Config) > 0:
		w.refuse("configFrom", "expected nothing beside config; remove one of the two")
	case p.ConfigFrom != nil && len(p.Patches) > 0:
		w.refuse("configPatches", "expected nothing beside configFrom; remove one of the two")
	case p.ConfigFrom != nil:
		v, ok := w.fromSecret(p, p.ConfigFrom, "configFrom")
		if config, _ = v.(map[string]any); ok && config == nil {
			w.refuse("configFrom", "expected an object in JSON in that key")
		}
	}
	for i, patch := range p.Patches {
		field := fmt.Sprintf("configPatches[%d]", i)
		if v, ok := w.fromSecret(p, &patch.ValueFrom, field+".valueFrom"); ok {
			patched, err := put(config, patch.Path, v)
			if err != nil {
				w.refuse(field+".path", err.Error())
				continue
			}
			config = patched
		}
	}
	if config == nil {
		config = map[string]any{}
	}
	return config
}

// fromSecret reads a value in JSON from a Secret. Nothing of it is shown.
func (w *run) fromSecret(p *Plugin, from *ConfigSource, field string) (any, bool) {
	ref := from.SecretKeyRef
	if !p.cluster {
		if ref.Namespace != "" && ref.Namespace != p.Namespace {
			w.refuse(field+".secretKeyRef.namespace", "expected nothing: a KongPlugin's Secrets are of its own namespace")
			return nil, false
		}
		ref.Namespace = p.Namespace
	}
	if !objectName(ref.Name) || !objectName(ref.Namespace) {
		w.refuse(field+".secretKeyRef", "expected the name of a Secret, and of its namespace for a KongClusterPlugin")
		return nil, false
	}
	s, ok := w.look(KindSecret, ref.Namespace, ref.Name).(*Secret)
	if !ok {
		w.refuse(field+".secretKeyRef.name", "expected the name of a Secret in namespace "+ref.Namespace+"; there is no '"+ref.Name+"', or it may not be read"+w.labelledOnly(KindSecret))
		return nil, false
	}
	data, ok := s.Data[ref.Key]
	if !ok {
		w.refuse(field+".secretKeyRef.key", "expected a key of Secret "+ref.Namespace+"/"+ref.Name+"; it has no '"+ref.Key+"'")
		return nil, false
	}
	var v any
	if json.Unmarshal(data, &v) != nil {
		w.refuse(field+".secretKeyRef.key", "expected JSON in that key")
		return nil, false
	}
	return v, true
}

// put answers a config with a value at a JSON pointer (RFC 6901), with the objects on
// the way to it.
func put(config map[string]any, pointer string, v any) (map[string]any, error) {
	rest, ok := strings.CutPrefix(pointer, "/")
	if !ok {
		return nil, fmt.Errorf("expected a JSON pointer such as /redis/password, not '%s'", pointer)
	}
	first, deeper, more := strings.Cut(rest, "/")
	name := strings.NewReplacer("~1", "/", "~0", "~").Replace(first)
	next := maps.Clone(config)
	if next == nil {
		next = map[string]any{}
	}
	if more {
		inner, isObject := next[name].(map[string]any)
		if !isObject && next[name] != nil {
			return nil, fmt.Errorf("expected a JSON pointer through objects; '%s' is none", name)
		}
		patched, err := put(inner, "/"+deeper, v)
		if err != nil {
			return nil, err
		}
		v = patched
	}
	next[name] = v
	return next, nil
}

// plugins reads which plugins an object uses, and says that entities do. What is not
// there or not right would leave them open: it is refused, or the reason answered for
// which they are closed.
func (w *run) plugins(m *Meta, kind string, ids []string) (closed string) {
	text, field := annotated(m, "plugins")
	seen := map[string]string{}
	for _, item := range commaList(text) {
		ref := pluginRef{m.Namespace, item}
		if ns, name, elsewhere := strings.Cut(item, ":"); elsewhere {
			ref = pluginRef{strings.TrimSpace(ns), strings.TrimSpace(name)}
			if !w.lends(RefOf(w.subject), ref.namespace, konghq, KindPlugin, ref.name) {
				w.refuse(field, "expected plugins of namespace "+m.Namespace+", or ones that a ReferenceGrant in "+ref.namespace+" lends to "+w.subject.Kind()+"s of it, not '"+item+"'"+w.outside(ref.namespace))
				continue
			}
		}
		unit := pluginUnit(ref.namespace, ref.name)
		state, _ := w.value(unit).(pluginState)
		if state.Missing != "" && !strings.Contains(item, ":") && !w.unreadable(KindPlugin, ref.namespace) {
			unit = pluginUnit("", ref.name)
			state, _ = w.value(unit).(pluginState)
		}
		if state.Missing != "" {
			w.refuse(field, "expected the name of a KongPlugin in namespace "+ref.namespace+" or of a KongClusterPlugin; '"+ref.name+"': "+state.Missing)
			continue
		}
		if other, twice := seen[state.Plugin]; twice && state.Plugin != "" {
			w.refuse(field, "expected one plugin of a kind; '"+other+"' and '"+item+"' are both "+state.Plugin)
			continue
		}
		seen[state.Plugin] = item
		closed = cmp.Or(closed, w.use(unit, state, kind, ids))
	}
	return closed
}

// use says that entities use a plugin, and answers why they are closed, "" if they are not.
func (w *run) use(unit Ref, state pluginState, kind string, ids []string) (closed string) {
	users := Ref{collectUses, unit.Namespace, unit.Name}
	reason, _ := w.peeked(users).(string) // for closing what uses the plugin
	list, _ := w.gives[users].([]use)
	for _, id := range ids {
		if u := (use{Kind: kind, ID: id}); !slices.Contains(list, u) {
			list = append(list, u)
		}
	}
	if len(list) > 0 {
		w.give(users, list)
	}
	return cmp.Or(state.Closed, reason)
}

// usePlugins says that a route uses plugins of its namespace that filters name. What is
// not there or not right would leave it open: it is refused, or the reason answered for
// which it is closed.
func (w *run) usePlugins(refs []pluginRef, route string) (closed string) {
	for _, ref := range refs {
		unit := pluginUnit(ref.namespace, ref.name)
		state, _ := w.value(unit).(pluginState)
		if state.Missing != "" {
			w.refuse("spec.rules.filters.extensionRef", "expected the name of a KongPlugin in namespace "+ref.namespace+"; '"+ref.name+"': "+state.Missing)
			continue
		}
		closed = cmp.Or(closed, w.use(unit, state, "route", []string{route}))
	}
	return closed
}

// peeked reads the value of a unit that is made after what asks, which is made again when
// it differs.
func (w *run) peeked(unit Ref) any {
	w.reads[unit.published()] = struct{}{}
	if u := w.units[unit]; u != nil {
		return u.value
	}
	return nil
}

const konghq = "configuration.konghq.com"
