package spec

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/secrets"
)

// object decodes one record into an entity or a group of its fields.
type object struct {
	l       *loader
	e       Entity
	n       *node
	prefix  string // of field names in problems: "" or "healthchecks.active."
	used    []bool // by index of n.keys
	partial bool   // a record of defaults: nothing is required
	parent  Entity // what the entity was written inside of, nil for nothing
	through string // the field by which it belongs to the parent
}

func newObject(l *loader, e Entity, n *node, prefix string) *object {
	return &object{l: l, e: e, n: n, prefix: prefix, used: make([]bool, len(n.keys))}
}

func (o *object) take(name string) *node {
	for i := range o.n.keys {
		if o.n.keys[i].name == name {
			o.used[i] = true
			return o.n.items[i]
		}
	}
	return nil
}

func (o *object) bad(n *node, field string, reason Reason, message string) {
	o.l.report(o.l.pos(n), o.prefix+field, reason, message)
}

// given says that a field was written and is not null.
func (o *object) given(name string) bool {
	n := o.n.get(name)
	return n != nil && n.shape != shapeNull
}

// decode reads the whole entity; what is nested in it stays for the loader.
func (o *object) decode() {
	switch o.e.(type) {
	case *Service:
		o.url()
	case *Plugin:
		o.take("_config")
	}
	o.extras()
	o.base()
	o.e.fields(o.field)
	if p, ok := o.e.(*Plugin); ok {
		o.pluginConfig(p)
	}
	for i, k := range o.n.keys {
		if !o.used[i] && (o.partial || nests(o.e.Kind(), k.name) == "" && !exported(o.e.Kind(), k.name)) {
			o.l.unknown(Pos{o.l.file.name, k.line, k.col}, o.e.Kind(), o.prefix, k.name, o.n.items[i])
		}
	}
}

func (o *object) base() {
	m := o.e.Base()
	if v := o.take("id"); v != nil && v.shape != shapeNull && !o.partial {
		if text, ok := o.text(v, "id", noRule); ok {
			m.ID = strings.ToLower(text)
			if !isUUID(m.ID) {
				o.bad(v, "id", ReasonValue, "expected a valid UUID")
			}
		}
	}
	if v := o.take("tags"); v != nil && v.shape != shapeNull {
		m.Tags, _ = o.texts(v, "tags", isTag)
	}
	t, milli := o.e.(*Target)
	for _, at := range []struct {
		name  string
		whole *int64
	}{{"created_at", &m.CreatedAt}, {"updated_at", &m.UpdatedAt}} {
		v := o.take(at.name)
		switch {
		case v == nil || v.shape == shapeNull:
		case milli && (v.shape != shapeNumber || math.Abs(v.num) > 1<<42):
			o.bad(v, at.name, ReasonType, "expected a number")
		case milli:
			ms := int64(math.Round(v.num * 1000))
			if *at.whole = ms / 1000; at.name == "created_at" {
				t.CreatedMilli = ms
			} else {
				t.UpdatedMilli = ms
			}
		case !v.isInt:
			o.bad(v, at.name, ReasonType, "expected an integer")
		default:
			*at.whole = v.whole
		}
	}
}

// field reads one field if it was written.
func (o *object) field(f field) {
	v := o.take(f.name)
	if f.name == o.through && o.parent != nil && f.rule.refers != "" {
		if v != nil && v.shape != shapeNull {
			o.bad(v, f.name, ReasonConflict, "expected nothing, since it is written inside of its entry in '"+f.rule.refers+"'; remove one of the two")
		}
		at := f.at.(*string)
		o.l.links = append(o.l.links, link{owner: o.e, field: f.name, refers: f.rule.refers, at: at, parent: o.parent})
		*at = "parent" // so that checks see it set until it is resolved
		return
	}
	if v == nil || v.shape == shapeNull {
		if v == nil && f.rule.written {
			o.bad(o.n, f.name, ReasonRequired, "required field missing; null is a value of it")
			return
		}
		if o.partial || !f.rule.required && (v == nil || !f.rule.notNull) {
			return
		}
		if v == nil {
			v = o.n
		}
		if v == o.n && isSet(f.at) {
			return // a record of defaults had it
		}
		o.bad(v, f.name, ReasonRequired, "required field missing")
		return
	}
	if f.rule.refers != "" {
		o.foreign(v, f)
		return
	}
	o.value(v, f)
}

func isSet(at any) bool {
	text, ok := at.(*string)
	return ok && *text != ""
}

func (o *object) value(v *node, f field) {
	switch at := f.at.(type) {
	case *string:
		if text, ok := o.text(v, f.name, f.rule); ok {
			*at = text
		}
	case *int:
		if n, ok := o.integer(v, f.name, f.rule); ok {
			*at = int(n)
		}
	case **int:
		if n, ok := o.integer(v, f.name, f.rule); ok {
			whole := int(n)
			*at = &whole
		}
	case *int64:
		if n, ok := o.integer(v, f.name, f.rule); ok {
			*at = n
		}
	case *float64:
		if v.shape != shapeNumber {
			o.bad(v, f.name, ReasonType, "expected a number")
		} else if o.within(v, f.name, f.rule) {
			*at = v.num
		}
	case *bool:
		if yes, ok := v.asBool(); ok {
			*at = yes
		} else {
			o.bad(v, f.name, ReasonType, "expected a boolean")
		}
	case **bool:
		if yes, ok := v.asBool(); ok {
			*at = &yes
		} else {
			o.bad(v, f.name, ReasonType, "expected a boolean")
		}
	case *[]string:
		if list, ok := o.texts(v, f.name, f.rule); ok {
			*at = list
		}
	case *[]int:
		o.integers(v, f, at)
	case *[]Endpoint:
		o.endpoints(v, f.name, at)
	case *map[string][]string:
		o.headers(v, f, at)
	case *Secret:
		o.secret(v, f, at)
	case *[]Secret:
		o.secrets(v, f, at)
	case *[]VaultRule:
		o.vaultRules(v, f.name, at)
	case *map[string]any:
		o.config(v, f.name, at)
	case records:
		o.records(v, f.name, at)
	case optional:
		o.value(v, field{f.name, at.begin(), f.rule})
	case group:
		if v.shape != shapeObject {
			o.bad(v, f.name, ReasonType, "expected a record")
			return
		}
		inner := newObject(o.l, o.e, v, o.prefix+f.name+".")
		inner.partial = o.partial
		at(inner.field)
		inner.rest()
	}
}

// rest reports the keys that no field took.
func (o *object) rest() {
	for i, k := range o.n.keys {
		if !o.used[i] {
			message := "unknown field"
			if strings.HasPrefix(o.prefix, "ordering.") {
				message = otherPhase
			}
			o.l.report(Pos{o.l.file.name, k.line, k.col}, o.prefix+k.name, ReasonUnknown, message)
		}
	}
}

func (o *object) text(v *node, name string, r *rule) (string, bool) {
	if v.shape != shapeText {
		o.bad(v, name, ReasonType, "expected a string")
		return "", false
	}
	text := v.text
	if r == routePaths && o.l.file.migrate {
		text = migratePath(text)
	}
	if r.oneOf != nil && !slices.Contains(r.oneOf, text) {
		o.bad(v, name, ReasonValue, "expected one of: "+strings.Join(r.oneOf, ", "))
		return "", false
	}
	if r.check != nil {
		if why := r.check(text); why != "" {
			o.bad(v, name, ReasonValue, why)
			return "", false
		}
	}
	return text, true
}

func (o *object) integer(v *node, name string, r *rule) (int64, bool) {
	if v.shape != shapeNumber || !v.isInt {
		o.bad(v, name, ReasonType, "expected an integer")
		return 0, false
	}
	if r.oneOf != nil && !slices.Contains(r.oneOf, strconv.FormatInt(v.whole, 10)) {
		o.bad(v, name, ReasonValue, "expected one of: "+strings.Join(r.oneOf, ", "))
		return 0, false
	}
	return v.whole, o.within(v, name, r)
}

func (o *object) within(v *node, name string, r *rule) bool {
	if r.bounds == nil || v.num >= r.bounds[0] && v.num <= r.bounds[1] {
		return true
	}
	o.bad(v, name, ReasonValue, between(*r.bounds))
	return false
}

func between(bounds [2]float64) string {
	return "value should be between " + number(bounds[0]) + " and " + number(bounds[1])
}

// texts reads a list of texts; of a set, what occurs again is left out. An empty list is null.
func (o *object) texts(v *node, name string, r *rule) ([]string, bool) {
	items, ok := o.items(v, name, r)
	if !ok || len(items) == 0 {
		return nil, ok
	}
	list := make([]string, 0, len(items))
	var seen map[string]bool
	if r.set {
		seen = make(map[string]bool, len(items))
	}
	for i, item := range items {
		at := name + "." + itoa(i+1)
		if item.shape == shapeNull {
			o.bad(item, at, ReasonRequired, "required field missing")
			ok = false
			continue
		}
		text, fine := o.text(item, at, r)
		ok = ok && fine
		if r.set && seen[text] {
			continue
		}
		if r.set {
			seen[text] = true
		}
		list = append(list, text)
	}
	return list, ok
}

func (o *object) items(v *node, name string, r *rule) ([]*node, bool) {
	if v.shape == shapeList {
		return v.items, true
	}
	if v.shape == shapeObject && len(v.items) == 0 {
		return nil, true
	}
	want := "expected an array"
	if r.set {
		want = "expected a set"
	}
	o.bad(v, name, ReasonType, want)
	return nil, false
}

func (o *object) integers(v *node, f field, at *[]int) {
	items, ok := o.items(v, f.name, f.rule)
	if !ok {
		return
	}
	list := make([]int, 0, len(items))
	for i, item := range items {
		if n, fine := o.integer(item, f.name+"."+itoa(i+1), f.rule); fine {
			list = append(list, int(n))
		}
	}
	*at = list
}

func (o *object) endpoints(v *node, name string, at *[]Endpoint) {
	items, ok := o.items(v, name, endpointSet)
	if !ok {
		return
	}
	*at = nil
	for i, item := range items {
		path := name + "." + itoa(i+1)
		if item.shape != shapeObject {
			o.bad(item, path, ReasonType, "expected a record")
			continue
		}
		inner := newObject(o.l, o.e, item, o.prefix+path+".")
		var e Endpoint
		inner.field(field{"ip", &e.IP, endpointIP})
		inner.field(field{"port", &e.Port, endpointPort})
		inner.rest()
		if !inner.given("ip") && !inner.given("port") {
			o.bad(item, path, ReasonConflict, "at least one of these fields must be non-empty: 'ip', 'port'")
		}
		*at = append(*at, e)
	}
}

func (o *object) headers(v *node, f field, at *map[string][]string) {
	if v.shape == shapeList && len(v.items) == 0 {
		*at = nil
		return
	}
	if v.shape != shapeObject {
		o.bad(v, f.name, ReasonType, "expected a map")
		return
	}
	headers, ok := make(map[string][]string, len(v.items)), true
	for i, k := range v.keys {
		list, fine := o.texts(v.items[i], f.name, noRule)
		headers[k.name], ok = list, ok && fine
	}
	if why := f.rule.checkMap(headers); ok && why != "" {
		o.bad(v, f.name, ReasonValue, why)
	}
	if *at = headers; len(headers) == 0 {
		*at = nil
	}
}

// secret reads a text that may be a reference. Nothing of a literal is ever shown.
func (o *object) secret(v *node, f field, at *Secret) {
	text, ok := o.text(v, f.name, f.rule)
	if !ok {
		return
	}
	if !strings.HasPrefix(text, "{vault://") {
		*at = Secret{Value: secrets.NewValue([]byte(text))}
		return
	}
	ref, err := secrets.ParseRef(text)
	if err != nil {
		o.bad(v, f.name, ReasonValue, err.Error())
		return
	}
	*at = Secret{Ref: ref}
}

// foreign reads a foreign key: an id or a name, bare or in a map.
func (o *object) foreign(v *node, f field) {
	if list, ok := f.at.(*[]string); ok && f.rule.named {
		o.members(v, f, list)
		return
	} else if ok {
		ids, ok := o.texts(v, f.name, f.rule)
		if !ok {
			return
		}
		*list = ids
		for i := range ids {
			ids[i] = strings.ToLower(ids[i])
			o.l.links = append(o.l.links, link{
				owner: o.e, field: o.prefix + f.name + "." + itoa(i+1), refers: f.rule.refers, at: &ids[i], pos: o.l.pos(v.items[i]),
			})
		}
		return
	}
	to := v
	if v.shape == shapeObject && len(v.items) == 1 {
		switch v.keys[0].name {
		case "id", "name", "username", "prefix":
			to = v.items[0]
		}
	}
	if to.shape != shapeText || to.text == "" {
		o.bad(v, f.name, ReasonType, "expected the id or the name of an entry in '"+f.rule.refers+"'")
		return
	}
	at := f.at.(*string)
	*at = to.text
	o.l.links = append(o.l.links, link{
		owner: o.e, field: o.prefix + f.name, refers: f.rule.refers, at: at, pos: o.l.pos(to),
	})
}

// url writes out the shorthand of a service for protocol, host, port and path. It
// decides: what these four say besides it is not looked at.
func (o *object) url() {
	v := o.n.get("url")
	if v == nil || v.shape == shapeNull {
		o.take("url")
		return
	}
	text, ok := o.text(v, "url", noRule)
	protocol, rest, isURL := strings.Cut(text, "://")
	host, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	if ok && (!isURL || host == "") {
		o.bad(v, "url", ReasonValue, "expected <protocol>://<host>[:<port>][/<path>]")
		ok = false
	}
	port := int64(80)
	if protocol == "https" {
		port = 443
	}
	if h := splitHost(host); h.port != "" {
		host = strings.TrimSuffix(host, ":"+h.port)
		// What is too long for a number is as much out of range as this.
		if n, err := strconv.ParseInt(h.port, 10, 32); err == nil {
			port = n
		} else {
			port = math.MaxInt32
		}
	}
	written := &node{shape: shapeObject, line: o.n.line, col: o.n.col}
	for i, k := range o.n.keys {
		if !ok && k.name != "url" || !slices.Contains([]string{"url", "protocol", "host", "port", "path"}, k.name) {
			written.keys, written.items = append(written.keys, k), append(written.items, o.n.items[i])
		}
	}
	add := func(name string, value node) {
		value.line, value.col = v.line, v.col
		written.keys = append(written.keys, key{name, v.line, v.col})
		written.items = append(written.items, &value)
	}
	if ok {
		add("protocol", node{shape: shapeText, text: protocol})
		add("host", node{shape: shapeText, text: host})
		add("port", node{shape: shapeNumber, num: float64(port), whole: port, isInt: true})
		if path != "" {
			add("path", node{shape: shapeText, text: path})
		}
	}
	o.n, o.used = written, make([]bool, len(written.keys))
}
