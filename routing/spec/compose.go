package spec

import (
	"iter"
	"maps"
	"slices"
)

// Compose makes entities of values, by kind, as Load makes them of a file: decoded
// strictly, with ids, defaults and plugin configs complete. name stands in
// problems where a file's name does. Values are in the shapes of Plugin.Config,
// int besides.
//
// It is for what composes documents of parts: a foreign key may also be the id of
// an entity of another part, which is not looked for, and what is unique is so
// within the part. On any problem there is no document.
func Compose(name string, values map[string][]any, schemas Schemas) (*Document, Problems) {
	l := &loader{
		schemas: schemas, part: true,
		doc:     &Document{FormatVersion: "3.0"},
		configs: map[string]namedConfig{},
		repeats: map[string]int{},
		file:    &file{name: name},
	}
	for _, kind := range Kinds() {
		if list := values[kind]; len(list) > 0 {
			l.list(kind, composed(list), nil, "")
		}
	}
	l.identify()
	l.resolve()
	l.unique()
	if len(l.problems) > 0 {
		return nil, l.problems
	}
	l.doc.sum()
	return l.doc, nil
}

// composed makes a node of a value. What is in no shape of a document becomes a
// text that no rule accepts.
func composed(v any) *node {
	n := &node{}
	switch v := v.(type) {
	case nil:
	case bool:
		n.shape, n.yes = shapeBool, v
	case int:
		n.setNumber(float64(v), itoa(v))
	case float64:
		n.setNumber(v, number(v))
	case string:
		n.shape, n.text = shapeText, v
	case []string:
		n.shape, n.items = shapeList, make([]*node, len(v))
		for i, s := range v {
			n.items[i] = &node{shape: shapeText, text: s}
		}
	case []any:
		n.shape, n.items = shapeList, make([]*node, len(v))
		for i := range v {
			n.items[i] = composed(v[i])
		}
	case map[string]any:
		n.shape = shapeObject
		for _, k := range slices.Sorted(maps.Keys(v)) {
			n.keys, n.items = append(n.keys, key{name: k}), append(n.items, composed(v[k]))
		}
	default:
		n.shape, n.text = shapeText, "\x00"
	}
	return n
}

// DeriveID is the id of an entity that has none and is known by a name: a service,
// route, upstream, consumer or group of consumers. It is the same on every node.
func DeriveID(kind, name string) string { return deriveID(kind, name) }

// Join makes one document of parts, in their order. Entities are shared, and so are
// the lists of prev (nil for none) but for those of the kinds that changed says.
func Join(prev *Document, changed func(kind string) bool, parts iter.Seq[*Document]) *Document {
	doc := &Document{}
	if prev != nil {
		*doc = *prev
	}
	doc.FormatVersion = "3.0"
	for _, kind := range Kinds() {
		if prev != nil && !changed(kind) {
			continue
		}
		doc.extend(kind, nil)
		for part := range parts {
			doc.extend(kind, part)
		}
	}
	return doc
}

// extend appends one list of another document; nil empties it.
func (d *Document) extend(kind string, from *Document) {
	clear := from == nil
	if clear {
		from = &Document{}
	}
	switch kind {
	case "services":
		d.Services = extended(d.Services, from.Services, clear)
	case "routes":
		d.Routes = extended(d.Routes, from.Routes, clear)
	case "upstreams":
		d.Upstreams = extended(d.Upstreams, from.Upstreams, clear)
	case "targets":
		d.Targets = extended(d.Targets, from.Targets, clear)
	case "consumer_groups":
		d.ConsumerGroups = extended(d.ConsumerGroups, from.ConsumerGroups, clear)
	case "consumers":
		d.Consumers = extended(d.Consumers, from.Consumers, clear)
	case "keyauth_credentials":
		d.KeyAuths = extended(d.KeyAuths, from.KeyAuths, clear)
	case "acls":
		d.ACLs = extended(d.ACLs, from.ACLs, clear)
	case "plugins":
		d.Plugins = extended(d.Plugins, from.Plugins, clear)
	case "certificates":
		d.Certificates = extended(d.Certificates, from.Certificates, clear)
	case "snis":
		d.SNIs = extended(d.SNIs, from.SNIs, clear)
	case "ca_certificates":
		d.CACertificates = extended(d.CACertificates, from.CACertificates, clear)
	case "vaults":
		d.Vaults = extended(d.Vaults, from.Vaults, clear)
	case "x_keyway_tls_policies":
		d.TLSPolicies = extended(d.TLSPolicies, from.TLSPolicies, clear)
	case "x_keyway_issuers":
		d.Issuers = extended(d.Issuers, from.Issuers, clear)
	case "x_keyway_listeners":
		d.Listeners = extended(d.Listeners, from.Listeners, clear)
	}
}

// extended never writes into an array that an earlier document may have.
func extended[E any](list, more []E, clear bool) []E {
	if clear {
		return nil
	}
	return append(list, more...)
}

// NormalPath is a path as the router compares it: escapes decoded where they may be,
// without dot segments.
func NormalPath(path string) string { return normalPath(path) }

// Merge makes one document of two. What both claim (a name, an id, a server name) is
// base's, and a problem of the other. Who verifies by an authority that both have under
// different ids does so by base's.
func Merge(base, other *Document) (*Document, Problems) {
	if base.empty() {
		return other, nil
	}
	taken := map[claim]Entity{}
	for e := range base.all() {
		for _, c := range append(claims(e), claim{e.Kind(), "id", e.Base().ID}) {
			if c.value != "" {
				taken[c] = e
			}
		}
	}
	rest, authorities := &Document{}, map[string]string{}
	var problems Problems
	for e := range other.all() {
		all := append(claims(e), claim{e.Kind(), "id", e.Base().ID})
		i := slices.IndexFunc(all, func(c claim) bool { return taken[c] != nil })
		if i < 0 {
			rest.add(e)
			continue
		}
		if all[i].field == "cert_digest" {
			authorities[e.Base().ID] = taken[all[i]].Base().ID
		}
		problems = append(problems, &Problem{
			Pos: e.Base().Pos, Entity: e.Kind(), ID: e.Base().ID, Name: label(e), Field: onEntity, Reason: ReasonDuplicate,
			Message: "uniqueness violation: a document of a file has one with the same name, key or id; it is left out",
		})
	}
	rest.verifyBy(authorities)
	return Join(nil, nil, slices.Values([]*Document{base, rest})), problems
}

// verifyBy has those who verify by authorities that have other ids do so by these. Entities
// are of other documents too: it is copies that change.
func (d *Document) verifyBy(ids map[string]string) {
	if len(ids) == 0 {
		return
	}
	for i, s := range d.Services {
		if list := renamed(s.CACertificates, ids); list != nil {
			next := *s
			next.CACertificates = list
			next.note(&next)
			d.Services[i] = &next
		}
	}
	for i, p := range d.TLSPolicies {
		if list := renamed(p.CACertificates, ids); list != nil {
			next := *p
			next.CACertificates = list
			next.note(&next)
			d.TLSPolicies[i] = &next
		}
	}
}

// renamed answers a list with other ids, nil where it stays as it is.
func renamed(list []string, ids map[string]string) []string {
	if !slices.ContainsFunc(list, func(id string) bool { return ids[id] != "" }) {
		return nil
	}
	var next []string
	for _, id := range list {
		if to := ids[id]; to != "" {
			id = to
		}
		if !slices.Contains(next, id) {
			next = append(next, id)
		}
	}
	return next
}

// empty says that a document has nothing in it.
func (d *Document) empty() bool {
	for range d.all() {
		return false
	}
	return true
}
