package spec

import (
	"slices"
	"strings"
)

// The lists of memberships and of plugins of groups, as databases are exported.
const (
	listMembers      = "consumer_group_consumers"
	listGroupPlugins = "consumer_group_plugins"
)

// membership is one entry of consumer_group_consumers: it becomes a group of its consumer.
type membership struct {
	Meta
	Consumer, Group string // ids
}

// Kind is "consumer_group_consumers".
func (*membership) Kind() string { return listMembers }

func (m *membership) fields(visit func(field)) {
	visit(field{"consumer", &m.Consumer, ofConsumer})
	visit(field{"consumer_group", &m.Group, ofGroup})
}

// isHead says that a key at the top of a file is no list: it says how to read the rest, or
// is for the tool that wrote the file.
func isHead(name string) bool {
	switch name {
	case "_format_version", "_transform", "_comment", "_workspace", "_konnect", "_ignore", "_info", "_plugin_configs":
		return true
	}
	return false
}

// exported says that entities of a kind, or a file for "", may have a list that is no
// kind of a Document.
func exported(kind, list string) bool {
	switch list {
	case listMembers:
		return kind == "" || kind == "consumers" || kind == "consumer_groups"
	case listGroupPlugins:
		return kind == "" || kind == "consumer_groups"
	}
	return false
}

// export reads a list that is no kind of a Document; parent is what it was written inside
// of, nil for a file.
func (l *loader) export(list string, n *node, parent Entity) {
	for i, item := range l.records(list, n, parent) {
		if item == nil {
			continue
		}
		at := itoa(i+1) + "."
		if list == listMembers {
			l.membership(at, item, parent)
			continue
		}
		through := ""
		if parent != nil {
			through = "consumer_group"
		} else if v := item.get("consumer_group"); v == nil || v.shape == shapeNull {
			l.problems = append(l.problems, &Problem{Pos: l.pos(item), Entity: list, Field: at + "consumer_group", Reason: ReasonRequired, Message: "required field missing"})
		}
		for _, name := range []string{"route", "service", "consumer"} {
			if v := item.get(name); v != nil && v.shape != shapeNull {
				l.problems = append(l.problems, &Problem{Pos: l.pos(v), Entity: list, Field: at + name, Reason: ReasonConflict, Message: "expected nothing: what is in this list is for a group alone; write it in 'plugins'"})
			}
		}
		l.as = list
		l.entity("plugins", item, parent, through)
		l.as = ""
	}
}

func (l *loader) membership(at string, n *node, parent Entity) {
	m := &membership{}
	m.Pos = l.pos(n)
	before := len(l.problems)
	o := newObject(l, m, n, at)
	if o.parent = parent; parent != nil {
		o.through = map[string]string{"consumers": "consumer", "consumer_groups": "consumer_group"}[parent.Kind()]
	}
	o.decode()
	for _, p := range l.problems[before:] {
		p.Entity = listMembers
	}
	l.members = append(l.members, m)
}

// joinGroups puts consumers into the groups that a list of memberships says, once foreign
// keys are ids.
func (l *loader) joinGroups() {
	if len(l.members) == 0 {
		return
	}
	consumers := make(map[string]*Consumer, len(l.doc.Consumers))
	for _, c := range l.doc.Consumers {
		consumers[c.ID] = c
	}
	for _, m := range l.members {
		if c := consumers[m.Consumer]; c != nil {
			c.Groups = append(c.Groups, m.Group)
		}
	}
}

// records answers the entries of a list, nil for those that are no records, which it reports.
func (l *loader) records(list string, n *node, parent Entity) []*node {
	// An empty map is what some tools write for an empty list.
	if n.shape == shapeNull || n.shape == shapeObject && len(n.items) == 0 {
		return nil
	}
	if n.shape != shapeList {
		p := &Problem{Pos: l.pos(n), Field: list, Reason: ReasonType, Message: "expected an array"}
		if parent != nil {
			p.Entity, p.ID, p.Name = parent.Kind(), parent.Base().ID, label(parent)
		}
		l.problems = append(l.problems, p)
		return nil
	}
	records := make([]*node, len(n.items))
	for i, item := range n.items {
		if list == "snis" && parent != nil && item.shape == shapeText {
			name := *item
			item = &node{shape: shapeObject, line: name.line, col: name.col, keys: []key{{"name", name.line, name.col}}, items: []*node{&name}}
		}
		if item.shape != shapeObject {
			l.problems = append(l.problems, &Problem{Pos: l.pos(item), Entity: list, Reason: ReasonType, Message: "expected a record"})
			continue
		}
		records[i] = item
	}
	return records
}

// unknown reports a key of a file, or of an entity of a kind, that nothing here is made of.
// What of the format needs something that is not in this build may be empty; what says
// nothing about traffic is left out, which is noted.
func (l *loader) unknown(pos Pos, kind, at, name string, v *node) {
	why, known := foreignList(kind, name)
	switch {
	case !known:
		l.report(pos, at+name, ReasonUnknown, "unknown field")
	case v.shape == shapeNull || (v.shape == shapeList || v.shape == shapeObject) && len(v.items) == 0:
	case why != "":
		l.report(pos, at+name, ReasonUnknown, "expected nothing: "+why)
	case v.shape != shapeList:
		l.report(pos, at+name, ReasonType, "expected an array")
	default:
		l.ignored = append(l.ignored, &Problem{Pos: pos, Field: at + name, Reason: ReasonUnknown, Message: "it says nothing about traffic and is left out"})
	}
}

// foreignList answers what a list of the format lacks here, "" for one that says nothing
// about traffic.
func foreignList(kind, name string) (why string, known bool) {
	plugin := ""
	switch name {
	case "basicauth_credentials":
		plugin = "basic-auth"
	case "hmacauth_credentials":
		plugin = "hmac-auth"
	case "jwt_secrets":
		plugin = "jwt"
	case "oauth2_credentials", "oauth2_tokens":
		plugin = "oauth2"
	case "mtls_auth_credentials":
		plugin = "mtls-auth"
	case "filter_chains":
		return "filters in WebAssembly are not in this build", kind == "" || kind == "services" || kind == "routes"
	case "partials", "plugins_partials":
		return "shared parts of plugins are not in this build; write each into the 'config' of its plugins, or use '_plugin_configs'", kind == "" || kind == "plugins" && name == "partials"
	case "keys", "key_sets":
		return "no plugin of this build uses keys", kind == ""
	case "custom_plugins", "cloned_plugins", "custom_entities", "degraphql_routes", "graphql_ratelimiting_advanced_cost_decoration":
		return "it is for plugins that are not in this build", kind == ""
	default:
		return "", kind == "" && slices.Contains(administrative(), name)
	}
	return "credentials of the plugin '" + plugin + "', which is not in this build; those that it has are 'keyauth_credentials'", kind == "" || kind == "consumers"
}

// administrative are the lists of the format about the gateway's own administration.
func administrative() []string {
	return []string{
		"workspaces", "workspace_entities", "workspace_entity_counters", "parameters", "licenses", "clustering_data_planes", "tags",
		"rbac_users", "rbac_roles", "rbac_user_roles", "rbac_user_groups", "rbac_role_endpoints", "rbac_role_entities", "admins", "groups", "group_rbac_roles",
		"audit_objects", "audit_requests", "keyring_meta", "keyring_keys", "login_attempts", "consumer_reset_secrets", "event_hooks",
		"files", "legacy_files", "developers", "document_objects", "applications", "application_instances", "service_packages",
	}
}

// isNote says that every entity of the format may have a field, which means nothing here.
func isNote(name string) bool { return name == "_comment" || name == "_ignore" || name == "ws_id" }

// extras reads what every entity of the format may have beside its fields, and what databases
// and tools write for the default of a setting that is not in this build.
func (o *object) extras() {
	for i, k := range o.n.keys {
		v := o.n.items[i]
		switch k.name {
		case "_comment":
			o.used[i] = true
			if v.shape != shapeText && v.shape != shapeNull {
				o.bad(v, k.name, ReasonType, "expected a string")
			}
		case "_ignore":
			o.used[i] = true
			if v.shape != shapeList && v.shape != shapeNull {
				o.bad(v, k.name, ReasonType, "expected an array")
			}
		case "ws_id":
			o.used[i] = true
			if v.shape != shapeNull && (v.shape != shapeText || !isUUID(strings.ToLower(v.text))) {
				o.bad(v, k.name, ReasonValue, "expected a valid UUID")
			}
		default:
			o.used[i] = o.used[i] || defaulted(o.e.Kind(), k.name, v)
		}
	}
}

// defaulted says that a field that is not in this build has its default.
func defaulted(kind, name string, v *node) bool {
	switch name {
	case "type": // of a client, and nobody who administers
		return kind == "consumers" && (v.shape == shapeNull || v.isInt && v.whole == 0)
	case "username_lower": // follows from the username
		return kind == "consumers" && (v.shape == shapeNull || v.shape == shapeText)
	}
	return false
}
