package spec

import (
	"cmp"
	"slices"
)

// Source is one file of a document.
type Source struct {
	Name string // as problems show it; a name ending in .json is read as JSON only
	Data []byte // YAML or JSON, UTF-8
}

// Load makes one Document of all sources: decoded strictly, flattened, with ids,
// defaults and plugin configs complete, every foreign key an id. Entities keep
// the order in which they were written. On any problem the Document is nil and
// every problem is listed, in order of source and position.
//
// What was omitted and is not a default (timestamps) stays zero: equal sources
// make equal documents on every node and at any time, but for certificates of
// authorities, which are refused once they have expired.
func Load(sources []Source, schemas Schemas) (*Document, Problems) {
	l := &loader{
		schemas: schemas,
		doc:     &Document{FormatVersion: "3.0"},
		configs: map[string]namedConfig{},
		repeats: map[string]int{},
	}
	var files []*file
	for _, s := range sources {
		root, problems := parseSource(s)
		l.problems = append(l.problems, problems...)
		if len(problems) > 0 {
			l.unread = true
			continue
		}
		f := &file{name: s.Name, root: root}
		l.file = f
		l.header(f)
		files = append(files, f)
	}
	for _, f := range files {
		l.file = f
		l.body(f)
	}
	// Why: what a file that cannot be read declares is unknown; references into it
	// would all be reported although nothing is wrong with them.
	if !l.unread {
		l.identify()
		l.resolve()
		l.unique()
		l.judgeUses()
	}
	if len(l.problems) == 0 {
		l.doc.sum()
		l.doc.fresh, l.doc.ignored = len(l.made), l.ignored
		return l.doc, nil
	}
	order := make(map[string]int, len(sources))
	for i, s := range sources {
		if _, ok := order[s.Name]; !ok {
			order[s.Name] = i
		}
	}
	slices.SortStableFunc(l.problems, func(a, b *Problem) int {
		return cmp.Or(
			cmp.Compare(order[a.Pos.File], order[b.Pos.File]),
			cmp.Compare(a.Pos.Line, b.Pos.Line),
			cmp.Compare(a.Pos.Col, b.Pos.Col),
		)
	})
	return nil, l.problems
}

// loader is the state of one Load.
type loader struct {
	schemas  Schemas
	doc      *Document
	problems Problems
	unread   bool // a file could not be parsed
	part     bool // foreign keys may lead out of what is loaded; see Compose
	file     *file
	configs  map[string]namedConfig // _plugin_configs of all files
	repeats  map[string]int         // how often an unnamed entity with this content was seen
	contents []string               // that ids were made from, each to be had once
	links    []link
	unnamed  []unnamed
	members  []*membership
	as       string            // the list that plugins are read from, "" for their own
	lists    map[Entity]string // where entities were written that have another list of their own
	ignored  Problems          // see Document.Ignored
	made     []Entity          // in the order in which they were written
	lines    int               // before the text that nodes count from
}

// file is one parsed source and what its head says about the rest of it.
type file struct {
	name     string
	root     *node
	migrate  bool             // paths as before format 3.0
	tags     []string         // _info.select_tags: every entity gets them
	defaults map[string]*node // _info.defaults by kind: they come before the format's own
}

type namedConfig struct {
	node *node
	pos  Pos
}

// link is a foreign key that is still the text or the parent that was written.
type link struct {
	owner  Entity
	field  string
	refers string
	at     *string
	parent Entity // the child was written inside of it; nil for text
	pos    Pos
}

// unnamed is an entity whose id follows from its content.
type unnamed struct {
	entity  Entity
	content string
}

func (l *loader) pos(n *node) Pos { return Pos{l.file.name, l.lines + n.line, n.col} }

func (l *loader) report(pos Pos, field string, reason Reason, message string) {
	l.problems = append(l.problems, &Problem{Pos: pos, Field: field, Reason: reason, Message: message})
}

// blame reports a problem of a whole entity, after its decoding.
func (l *loader) blame(e Entity, pos Pos, field string, reason Reason, message string) {
	l.problems = append(l.problems, &Problem{
		Pos: pos, Entity: l.listOf(e), ID: e.Base().ID, Name: label(e), Field: field, Reason: reason, Message: message,
	})
}

// listOf is the name of the list in which an entity was written.
func (l *loader) listOf(e Entity) string { return cmp.Or(l.lists[e], e.Kind()) }

// header reads the keys that say how to read the rest.
func (l *loader) header(f *file) {
	if f.root == nil {
		f.root = &node{shape: shapeObject, line: 1, col: 1}
	}
	if f.root.shape != shapeObject {
		l.report(l.pos(f.root), "", ReasonSyntax, "expected a map of entities")
		f.root = &node{shape: shapeObject, line: 1, col: 1}
		return
	}
	switch v := f.root.get("_format_version"); {
	case v == nil || v.shape == shapeNull:
		l.report(l.pos(f.root), "_format_version", ReasonRequired, "required field missing")
	case v.shape != shapeText:
		l.report(l.pos(v), "_format_version", ReasonType, `expected a string; write it in quotes: "3.0"`)
	case v.text == "1.1" || v.text == "2.1":
		f.migrate = true
	case v.text != "3.0":
		l.report(l.pos(v), "_format_version", ReasonValue, "expected one of: 1.1, 2.1, 3.0")
	}
	for i, k := range f.root.keys {
		v := f.root.items[i]
		switch k.name {
		case "_transform":
			if v.shape != shapeBool && v.shape != shapeNull {
				l.report(l.pos(v), k.name, ReasonType, "expected a boolean")
			}
		case "_comment", "_workspace":
			if v.shape != shapeText && v.shape != shapeNull {
				l.report(l.pos(v), k.name, ReasonType, "expected a string")
			}
		case "_konnect":
			if v.shape != shapeObject && v.shape != shapeNull {
				l.report(l.pos(v), k.name, ReasonType, "expected a map")
			}
		case "_ignore":
			if v.shape != shapeList && v.shape != shapeNull {
				l.report(l.pos(v), k.name, ReasonType, "expected an array")
			}
		case "_info":
			l.info(f, v)
		case "_plugin_configs":
			l.pluginConfigs(v)
		}
	}
}

// info reads the part that decK writes for itself.
func (l *loader) info(f *file, info *node) {
	if info.shape == shapeNull {
		return
	}
	if info.shape != shapeObject {
		l.report(l.pos(info), "_info", ReasonType, "expected a map")
		return
	}
	for i, k := range info.keys {
		v := info.items[i]
		switch k.name {
		case "select_tags":
			o := newObject(l, nil, info, "_info.")
			f.tags, _ = o.texts(v, "select_tags", isTag)
		case "defaults":
			l.infoDefaults(f, v)
		case "default_lookup_tags", "consumer_group_policy_overrides", "skip_hash_for_basic_auth", "include_plugin_definitions":
			// These steer the tool that wrote the file, not what it declares.
		default:
			l.report(Pos{f.name, k.line, k.col}, "_info."+k.name, ReasonUnknown, "unknown field")
		}
	}
}

func (l *loader) infoDefaults(f *file, defaults *node) {
	if defaults.shape == shapeNull {
		return
	}
	if defaults.shape != shapeObject {
		l.report(l.pos(defaults), "_info.defaults", ReasonType, "expected a map")
		return
	}
	kinds := map[string]string{"service": "services", "route": "routes", "upstream": "upstreams", "target": "targets"}
	f.defaults = map[string]*node{}
	for i, k := range defaults.keys {
		v := defaults.items[i]
		kind, ok := kinds[k.name]
		if !ok {
			l.report(Pos{f.name, k.line, k.col}, "_info.defaults."+k.name, ReasonUnknown, "unknown field")
			continue
		}
		if v.shape != shapeObject {
			l.report(l.pos(v), "_info.defaults."+k.name, ReasonType, "expected a record")
			continue
		}
		o := newObject(l, newEntity(kind), v, "_info.defaults."+k.name+".")
		o.partial = true
		o.decode()
		l.links = l.links[:0] // of an entity that is only there to check the defaults
		f.defaults[kind] = v
	}
}

func (l *loader) pluginConfigs(configs *node) {
	if configs.shape == shapeNull {
		return
	}
	if configs.shape != shapeObject {
		l.report(l.pos(configs), "_plugin_configs", ReasonType, "expected a map")
		return
	}
	for i, k := range configs.keys {
		v, pos := configs.items[i], Pos{l.file.name, k.line, k.col}
		if first, ok := l.configs[k.name]; ok {
			l.report(pos, "_plugin_configs."+k.name, ReasonDuplicate, "already declared at "+first.pos.String())
			continue
		}
		if v.shape != shapeObject {
			l.report(l.pos(v), "_plugin_configs."+k.name, ReasonType, "expected a record")
			continue
		}
		l.configs[k.name] = namedConfig{v, pos}
	}
}

// body reads the entities of one file.
func (l *loader) body(f *file) {
	for i, k := range f.root.keys {
		v := f.root.items[i]
		switch {
		case isHead(k.name): // read by header
		case exported("", k.name):
			l.export(k.name, v, nil)
		case newEntity(k.name) == nil:
			l.unknown(Pos{f.name, k.line, k.col}, "", "", k.name, v)
		default:
			l.list(k.name, v, nil, "")
		}
	}
}

// list reads a list of entities. parent is what they were written inside of, and
// through the field they belong to it.
func (l *loader) list(kind string, n *node, parent Entity, through string) {
	for _, item := range l.records(kind, n, parent) {
		if item != nil {
			l.entity(kind, item, parent, through)
		}
	}
}

// entity reads one entity and what is nested in it.
func (l *loader) entity(kind string, n *node, parent Entity, through string) {
	e := newEntity(kind)
	e.Base().Pos = l.pos(n)
	if d := l.file.defaults[kind]; d != nil {
		// Problems of the defaults themselves were reported once, with the head.
		reported := l.problems
		o := newObject(l, e, d, "")
		o.partial = true
		o.decode()
		l.problems = reported
	}
	before := len(l.problems)
	o := newObject(l, e, n, "")
	o.parent, o.through = parent, through
	o.decode()
	for _, tag := range l.file.tags {
		if m := e.Base(); !slices.Contains(m.Tags, tag) {
			m.Tags = append(m.Tags, tag)
		}
	}
	if len(l.problems) == before {
		o.judge()
	} else if c, ok := e.(*Consumer); ok {
		o.judgeConsumer(c)
	}
	if l.as != "" {
		if l.lists == nil {
			l.lists = map[Entity]string{}
		}
		l.lists[e] = l.as
	}
	for _, p := range l.problems[before:] {
		p.Entity, p.ID, p.Name = l.listOf(e), e.Base().ID, label(e)
	}
	l.doc.add(e)
	l.made = append(l.made, e)
	l.remember(e, n, parent)
	for i, k := range n.keys {
		if field := nests(kind, k.name); field != "" {
			l.list(k.name, n.items[i], e, field)
		} else if exported(kind, k.name) {
			l.export(k.name, n.items[i], e)
		}
	}
}
