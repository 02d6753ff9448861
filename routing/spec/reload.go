package spec

import (
	"bytes"
	"slices"
)

// Loader loads one document after the other and takes over the entities whose text
// did not change: after a change of one route the others are neither parsed nor
// decoded nor checked again. Its answers are Load's. Use it from one goroutine at a time.
//
// What it takes over must not depend on other text. Files that are JSON, that have
// aliases or consumer_group_consumers, or in which entities without names or ids are equal, are
// read as a whole each time.
type Loader struct {
	Schemas Schemas
	// Pause is called between parts of the work; nil for nothing.
	Pause func()

	was *loaded // nil before the first
}

// loaded is what is kept of a document for the one after it.
type loaded struct {
	names, heads []string // of the files
	files        []*file
	configs      map[string]namedConfig
	chunks       map[place]map[string]*chunk // by their text
	claims       map[claim]bool
	ignored      Problems
	doc          *Document
}

// place is one list of one file, or of one entity in it.
type place struct {
	file, list int
	kind       string
	parent     string // kind, id and name, "" for none
}

// chunk is what came of one piece of text. Never changed.
type chunk struct {
	line     int
	entities []Entity // the first one is the outermost
	contents []string // that ids of entities without names were made from
	refs     []textRef
}

// textRef is a foreign key that was written as text.
type textRef struct{ refers, text, id string }

// together is how many new pieces are parsed in one go: a parser costs as much as a
// few entities, and others wait while one works.
const together = 32

// stretch is how many entities that are taken over are looked at between two pauses: some
// hundred microseconds. It is that long for a few new ones.
const (
	stretch = 512
	few     = 64
)

// Load is the function Load.
func (l *Loader) Load(sources []Source) (*Document, Problems) {
	doc, next := l.take(sources)
	if l.was = next; doc != nil {
		return doc, nil
	}
	return Load(sources, l.Schemas)
}

func (l *Loader) pause() {
	if l.Pause != nil {
		l.Pause()
	}
}

// each answers a function that pauses after each so many of its calls.
func (l *Loader) each(many int) func() {
	n := 0
	return func() {
		if n++; n%many == 0 {
			l.pause()
		}
	}
}

// reload is one run of a Loader.
type reload struct {
	*Loader
	*loader
	was, next *loaded
	fresh     []reading
}

// reading is a chunk that is new, with the loader that has read it.
type reading struct {
	*loader
	to *chunk
}

// take answers nil if anything is out of the ordinary, a problem among others.
func (l *Loader) take(sources []Source) (*Document, *loaded) {
	r := &reload{Loader: l, was: l.was, next: &loaded{chunks: map[place]map[string]*chunk{}}}
	r.loader = &loader{schemas: l.Schemas, doc: &Document{FormatVersion: "3.0"}, configs: map[string]namedConfig{}, repeats: map[string]int{}}
	outlines := make([]*outline, len(sources))
	for i, s := range sources {
		o, ok := outlineOf(bytes.TrimPrefix(s.Data, []byte("\ufeff")), r.pause)
		if !ok || isJSON(s.Name) || slices.Contains(r.next.names, s.Name) {
			return nil, nil
		}
		outlines[i] = o
		r.next.names, r.next.heads = append(r.next.names, s.Name), append(r.next.heads, o.head)
	}
	if !r.heads(outlines) {
		return nil, nil
	}
	for i, o := range outlines {
		r.file = r.next.files[i]
		if !r.lists(i, o.lists, nil) {
			return nil, nil
		}
	}
	if !r.finish() {
		return nil, nil
	}
	if r.was != nil {
		r.doc.Share(r.was.doc)
	}
	r.doc.ignored, r.next.doc = r.next.ignored, r.doc
	return r.doc, r.next
}

// heads reads what is no entity, or takes it over with all that depends on it.
func (r *reload) heads(outlines []*outline) bool {
	if r.was != nil && slices.Equal(r.was.names, r.next.names) && slices.Equal(r.was.heads, r.next.heads) {
		r.next.files, r.next.configs, r.next.claims, r.next.ignored = r.was.files, r.was.configs, r.was.claims, r.was.ignored
		r.configs = r.next.configs
		return true
	}
	r.was = nil
	r.next.configs, r.next.claims = r.configs, map[claim]bool{}
	for i, text := range r.next.heads {
		root, problems := parseSource(Source{Name: r.next.names[i], Data: []byte(text)})
		if len(problems) > 0 || !outlines[i].unmark(root) {
			return false
		}
		f := &file{name: r.next.names[i], root: root}
		r.file = f
		r.header(f)
		for j, k := range f.root.keys {
			if !r.head(k, f.root.items[j]) {
				return false
			}
		}
		r.next.files = append(r.next.files, f)
	}
	r.next.ignored = r.loader.ignored
	return len(r.loader.problems) == 0
}

// head reads a list that has no entities, or none of which there are pieces.
func (r *reload) head(k key, v *node) bool {
	switch {
	case isHead(k.name):
		return true
	case newEntity(k.name) == nil && !exported("", k.name):
		r.loader.unknown(Pos{r.file.name, k.line, k.col}, "", "", k.name, v)
		return true
	}
	return v.shape == shapeNull || v.shape == shapeList && len(v.items) == 0
}

// lists reads the lists of a file, or of an entity.
func (r *reload) lists(file int, lists []outlined, parent Entity) bool {
	of := ""
	if parent != nil {
		of = parent.Kind() + " " + parent.Base().ID + " " + label(parent)
	}
	for i, list := range lists {
		if !r.list(place{file, i, list.kind, of}, list.pieces, parent) {
			return false
		}
	}
	return true
}

// list reads one list: what is known is taken over, the rest is read a few pieces at a time.
func (r *reload) list(at place, pieces []piece, parent Entity) bool {
	if r.next.chunks[at] != nil {
		return false // the parent is there twice
	}
	var known map[string]*chunk
	if r.was != nil && at.kind != "ca_certificates" { // which are judged by the time as well
		known = r.was.chunks[at]
	}
	within := make(map[int]*outline) // of large pieces
	for i, p := range pieces {
		if o, ok := p.inside(at.kind); ok {
			within[i], pieces[i].text = o, []byte(o.head)
		}
	}
	chunks, next := make([]*chunk, len(pieces)), make(map[string]*chunk, len(pieces))
	for i := 0; i < len(pieces); {
		if c := known[string(pieces[i].text)]; c != nil {
			chunks[i] = c.moved(pieces[i].line)
			r.refer(chunks[i])
			if i++; i%stretch == 0 {
				r.pause()
			}
			continue
		}
		end := i + 1
		for end < len(pieces) && end < i+together && known[string(pieces[end].text)] == nil && within[end-1] == nil && within[end] == nil {
			end++
		}
		if !r.read(at.kind, pieces[i:end], within[i], parent, chunks[i:end]) {
			return false
		}
		i = end
		r.pause()
	}
	r.next.chunks[at] = next
	for i, c := range chunks {
		if i%stretch == stretch-1 {
			r.pause()
		}
		text := string(pieces[i].text)
		if next[text] != nil {
			return false // twice the same: which of the two is it the next time?
		}
		next[text] = c
		for _, e := range c.entities {
			r.doc.add(e)
		}
		if o := within[i]; o != nil && !r.lists(at.file, o.lists, c.entities[0]) {
			return false
		}
	}
	return true
}

// refer counts what ids of a chunk that is taken over were made from.
func (r *reload) refer(c *chunk) {
	for _, content := range c.contents {
		r.repeats[content]++
	}
}

// read parses a few pieces that follow each other, and decodes each. within is the
// outline of the only one, nil for none.
func (r *reload) read(kind string, pieces []piece, within *outline, parent Entity, to []*chunk) bool {
	through := ""
	if parent != nil {
		through = nests(parent.Kind(), kind)
	}
	var text []byte
	for _, p := range pieces {
		text = append(text, p.text...)
	}
	p := &parser{file: r.file.name}
	root := p.parseYAML(text)
	if len(p.problems) > 0 || p.aliases || root == nil || root.shape != shapeList || len(root.items) != len(pieces) || root.height+1 > maxDepth {
		return false
	}
	for i, item := range root.items {
		if item.shape != shapeObject || item.line != pieces[i].line-pieces[0].line+1 {
			return false
		}
		if within != nil && !within.unmark(item) {
			return false
		}
		one := &loader{schemas: r.schemas, doc: &Document{}, configs: r.configs, repeats: r.repeats, file: r.file, lines: pieces[0].line - 1}
		one.entity(kind, item, parent, through)
		one.identify()
		if len(one.problems)+len(one.members) > 0 {
			return false // a membership would change what an entity says that stays the same
		}
		to[i] = &chunk{line: pieces[i].line, entities: one.made}
		r.fresh = append(r.fresh, reading{one, to[i]})
	}
	return true
}

// finish resolves and compares what is new with the rest.
func (r *reload) finish() bool {
	var index index
	lookup := func(refers, text string) (string, bool) {
		if index == nil {
			index = indexOf(r.doc, r.each(stretch))
		}
		return index.find(refers, text)
	}
	fresh := make(map[*chunk]bool, len(r.fresh))
	resolved := r.each(few)
	for _, f := range r.fresh {
		resolved()
		fresh[f.to] = true
		for _, k := range f.links {
			if k.parent != nil {
				*k.at = k.parent.Base().ID
				continue
			}
			text := *k.at
			id, ok := lookup(k.refers, text)
			if !ok {
				return false
			}
			*k.at = id
			f.to.refs = append(f.to.refs, textRef{k.refers, text, id})
		}
		settle(f.made)
		f.identifyRest()
		f.to.contents = f.contents
	}
	looked := r.each(stretch)
	for _, chunks := range r.next.chunks {
		for _, c := range chunks {
			looked()
			for _, ref := range c.refs {
				if id, ok := lookup(ref.refers, ref.text); !ok || id != ref.id {
					return false
				}
			}
		}
	}
	for _, n := range r.repeats {
		if n > 1 {
			return false
		}
	}
	r.pause()
	if !r.claim(fresh) {
		return false
	}
	noted := r.each(few)
	for c := range fresh {
		noted()
		for _, e := range c.entities {
			e.Base().note(e)
		}
		r.doc.fresh += len(c.entities)
	}
	r.pause()
	r.judgeUses()
	return len(r.loader.problems) == 0
}

// claim takes back what chunks had claimed that are gone, and claims for the new ones.
func (r *reload) claim(fresh map[*chunk]bool) bool {
	claims := r.next.claims
	looked, claimed := r.each(stretch), r.each(few)
	if r.was != nil {
		for at, chunks := range r.was.chunks {
			now := r.next.chunks[at]
			for text, c := range chunks {
				looked()
				if next := now[text]; next == nil || fresh[next] {
					for k := range c.claims() {
						delete(claims, k)
					}
				}
			}
		}
	}
	for c := range fresh {
		claimed()
		for k := range c.claims() {
			if claims[k] {
				return false
			}
			claims[k] = true
		}
	}
	return true
}

// claims are those of all its entities.
func (c *chunk) claims() map[claim]bool {
	all := map[claim]bool{}
	for _, e := range c.entities {
		for _, k := range append(claims(e), claim{e.Kind(), "id", e.Base().ID}) {
			if k.value != "" {
				all[k] = true
			}
		}
	}
	return all
}

// moved answers the chunk as it is in another line.
func (c *chunk) moved(line int) *chunk {
	if line == c.line {
		return c
	}
	next := *c
	next.line, next.entities = line, make([]Entity, len(c.entities))
	for i, e := range c.entities {
		next.entities[i] = copyOf(e)
		next.entities[i].Base().Pos.Line += line - c.line
	}
	return &next
}

// copyOf is a copy of an entity that shares what is beneath it.
func copyOf(e Entity) Entity {
	switch e := e.(type) {
	case *Service:
		c := *e
		return &c
	case *Route:
		c := *e
		return &c
	case *Upstream:
		c := *e
		return &c
	case *Target:
		c := *e
		return &c
	case *Consumer:
		c := *e
		return &c
	case *ConsumerGroup:
		c := *e
		return &c
	case *KeyAuth:
		c := *e
		return &c
	case *ACL:
		c := *e
		return &c
	case *Plugin:
		c := *e
		return &c
	case *Certificate:
		c := *e
		return &c
	case *SNI:
		c := *e
		return &c
	case *CACertificate:
		c := *e
		return &c
	case *Vault:
		c := *e
		return &c
	case *TLSPolicy:
		c := *e
		return &c
	case *Issuer:
		c := *e
		return &c
	case *Listener:
		c := *e
		return &c
	}
	return e
}
