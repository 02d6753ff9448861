package translate

import (
	"cmp"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

// Config is what a State is told once.
type Config struct {
	// Class is the name of the class of objects that are ours.
	Class string
	// Controllers are the names by which an IngressClass may call this controller.
	Controllers []string
	// GatewayControllers are the names by which a GatewayClass may call this controller.
	GatewayControllers []string
	// GatewayAddresses are addresses of the node of which each Gateway gets one of its own;
	// none for Gateways that share all of them.
	GatewayAddresses []string
	// CustomEntities are the namespaces whose KongCustomEntities are served, * for all.
	CustomEntities []string
	// NamespaceSelector is by which labels the namespaces are selected whose objects are put,
	// "" for no such selection. Those alone are put as Namespaces too.
	NamespaceSelector string
	// SecretSelector and ConfigMapSelector are which labels the Secrets and ConfigMaps have
	// that are put, "" for no such selection.
	SecretSelector, ConfigMapSelector string
	// Shared says that a node with another selection may call itself the same controller:
	// what it says in a status of what is not here stays.
	Shared bool
	// Vault is the prefix of references to Secrets: {vault://<Vault>/<namespace>/<name>/<key>}.
	Vault string
	// Schemas are the plugins of this build.
	Schemas spec.Schemas
}

// State is the objects of a cluster and the document made of them. It is of one
// goroutine.
type State struct {
	cfg         Config
	objects     map[Ref]Object
	slices      map[Ref]map[string]*EndpointSlice // by Service
	grants      map[string]map[string]*Grant      // by namespace
	vaults      map[string]*spec.Vault            // that other documents declare, by prefix
	unread      map[Kinds]bool                    // of which nobody knows what there is
	secrets     map[Ref]struct{}                  // and ConfigMaps that units read
	units       map[Ref]*unit
	collections map[Ref]map[Ref]any // what units say of one thing
	readers     map[Ref]map[Ref]struct{}
	asked       map[Ref]int // by how many units one is needed
	dirty       [ranks]map[Ref]struct{}
	good        map[Ref]Object // what a unit was made of when nothing was wrong
	wrong       map[Ref]struct{}
	parts       map[Ref]*part      // of units that have something in the document
	order       map[string][]*part // by the kind of entity that units have there, in order of their names
	disordered  map[string]bool    // kinds of which more or fewer units have something
	kinds       map[string]bool    // of entities that differ from the document's
	document    *spec.Document
	left        spec.Problems // what was left out of leftOf for what other documents have
	leftOf      *spec.Document
	displaced   map[Ref]*displaced // by object and by unit: what these are of
	alone       bool               // one object is judged by itself: others are taken for right
	counted     func(Ref)          // of tests: told of each unit that is made
}

// NewState makes a State without objects.
func NewState(cfg Config) *State {
	s := &State{
		cfg: cfg, objects: map[Ref]Object{}, slices: map[Ref]map[string]*EndpointSlice{}, grants: map[string]map[string]*Grant{}, secrets: map[Ref]struct{}{}, units: map[Ref]*unit{},
		collections: map[Ref]map[Ref]any{}, readers: map[Ref]map[Ref]struct{}{}, asked: map[Ref]int{}, parts: map[Ref]*part{},
		good: map[Ref]Object{}, wrong: map[Ref]struct{}{}, kinds: map[string]bool{}, order: map[string][]*part{}, disordered: map[string]bool{},
	}
	for i := range s.dirty {
		s.dirty[i] = map[Ref]struct{}{}
	}
	return s
}

// part is what a unit has in the document.
type part struct {
	of  Ref
	doc *spec.Document
}

// unit is what was made of one thing.
type unit struct {
	doc      *spec.Document // entities, nil for none
	value    any            // what other units read of it
	gives    map[Ref]any    // to collections
	reads    map[Ref]struct{}
	needs    map[Ref]struct{}
	findings []Finding
	status   any // what the object's status is to say, nil for nothing
}

// Put takes an object, new or changed. It does no work beside noting what is to be done.
func (s *State) Put(o Object) {
	r := RefOf(o)
	old := s.objects[r]
	if old != nil && old.Common().UID == o.Common().UID && old.Common().ResourceVersion == o.Common().ResourceVersion && o.Common().ResourceVersion != "" {
		return
	}
	s.objects[r] = o
	s.moved(r, old, o)
}

// Delete takes an object away.
func (s *State) Delete(r Ref) {
	old := s.objects[r]
	if old == nil {
		return
	}
	delete(s.objects, r)
	s.moved(r, old, nil)
}

// Object answers an object, nil for none.
func (s *State) Object(r Ref) Object { return s.objects[r] }

// Objects are those of a kind, in no order.
func (s *State) Objects(kind string) iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for r, o := range s.objects {
			if r.Kind == kind && !yield(o) {
				return
			}
		}
	}
}

// moved notes what an object's change makes necessary.
func (s *State) moved(r Ref, old, now Object) {
	if slice, ok := old.(*EndpointSlice); ok {
		s.file(slice, nil)
	}
	if slice, ok := now.(*EndpointSlice); ok {
		s.file(slice, slice)
	}
	if r.Kind == KindGrant {
		s.lend(r, now)
	}
	if u := r.unit(); u.Kind != "" && (now != nil || s.units[u] != nil) {
		s.soil(u)
	}
	s.touch(r)
}

// file keeps a slice, or nil in its place, with those of its Service.
func (s *State) file(slice, now *EndpointSlice) {
	of := Ref{collectSlices, slice.Namespace, slice.ServiceName()}
	if now != nil {
		if s.slices[of] == nil {
			s.slices[of] = map[string]*EndpointSlice{}
		}
		s.slices[of][slice.Name] = now
	} else if delete(s.slices[of], slice.Name); len(s.slices[of]) == 0 {
		delete(s.slices, of)
	}
	s.touch(of)
}

// lend keeps a grant, or nil in its place, with those of its namespace.
func (s *State) lend(r Ref, now Object) {
	if g, ok := now.(*Grant); ok {
		if s.grants[r.Namespace] == nil {
			s.grants[r.Namespace] = map[string]*Grant{}
		}
		s.grants[r.Namespace][r.Name] = g
	} else if delete(s.grants[r.Namespace], r.Name); len(s.grants[r.Namespace]) == 0 {
		delete(s.grants, r.Namespace)
	}
	s.touch(Ref{Kind: collectGrants, Namespace: r.Namespace})
}

// Wanted are the Secrets and ConfigMaps that something names and that nobody else watches.
func (s *State) Wanted() map[Ref]struct{} { return s.secrets }

// touch has whatever read something made again.
func (s *State) touch(r Ref) {
	for u := range s.readers[r] {
		s.soil(u)
	}
}

func (s *State) soil(u Ref) { s.dirty[u.rank()][u] = struct{}{} }

// Document makes what is to be made and answers the document, the same one for as
// long as nothing in it changed.
func (s *State) Document() *spec.Document {
	for {
		u, ok := s.next()
		if !ok {
			break
		}
		s.make(u, false)
	}
	if s.document != nil && len(s.kinds) == 0 {
		return s.document
	}
	s.sort()
	s.document = spec.Join(s.document, func(kind string) bool { return s.kinds[kind] }, func(kind string) iter.Seq[*spec.Document] {
		return func(yield func(*spec.Document) bool) {
			for _, p := range s.order[kind] {
				if !yield(p.doc) {
					return
				}
			}
		}
	})
	clear(s.kinds)
	return s.document
}

// sort brings the parts of kinds in order of which there are more or fewer.
func (s *State) sort() {
	if len(s.disordered) == 0 {
		return
	}
	for kind := range s.disordered {
		s.order[kind] = s.order[kind][:0]
	}
	for _, p := range s.parts {
		for kind := range p.doc.Present() {
			if s.disordered[kind] {
				s.order[kind] = append(s.order[kind], p)
			}
		}
	}
	for kind := range s.disordered {
		slices.SortFunc(s.order[kind], func(a, b *part) int { return a.of.compare(b.of) })
	}
	clear(s.disordered)
}

func (r Ref) compare(o Ref) int {
	return cmp.Or(strings.Compare(r.Kind, o.Kind), strings.Compare(r.Namespace, o.Namespace), strings.Compare(r.Name, o.Name))
}

// next is a unit of the lowest rank that has to be made: what gives to collections
// goes before what reads them.
func (s *State) next() (Ref, bool) {
	for i := range s.dirty {
		for u := range s.dirty[i] {
			return u, true
		}
	}
	return Ref{}, false
}

// make makes one unit, or takes it away where nothing asks for it. Whoever pulls asks.
func (s *State) make(r Ref, pulled bool) {
	delete(s.dirty[r.rank()], r)
	old := s.units[r]
	if !pulled && !s.wanted(r) {
		if old != nil {
			s.replace(r, old, nil)
			delete(s.good, r)
		}
		return
	}
	if old == nil {
		// What is read while it is made may ask for it again.
		s.units[r] = &unit{}
	}
	subject := s.objects[r.subject()]
	w := &run{State: s, self: r, subject: subject}
	w.unit = unit{reads: map[Ref]struct{}{}, needs: map[Ref]struct{}{}}
	if of := r.subject(); of.Kind != "" {
		w.reads[of] = struct{}{}
	}
	if s.counted != nil {
		s.counted(r)
	}
	w.translate()
	if good := s.good[r]; !w.refused {
		if subject != nil {
			s.good[r] = subject
		}
	} else if good != nil && good != subject && subject != nil && good.Common().UID == subject.Common().UID {
		w = w.fallBack(good)
	}
	w.settleUses()
	s.replace(r, old, &w.unit)
}

// fallBack makes the unit of the object's last good form, if that is still good.
func (w *run) fallBack(good Object) *run {
	again := &run{State: w.State, self: w.self, subject: good}
	again.unit = unit{reads: maps.Clone(w.reads), needs: map[Ref]struct{}{}}
	again.translate()
	if again.refused {
		return w
	}
	for i := range w.findings {
		if w.findings[i].Effect == Closed {
			w.findings[i].Effect = Kept
		}
	}
	again.findings, again.unit.status = w.findings, w.unit.status
	return again
}

// replace puts a unit in place of another and notes what that makes necessary.
func (s *State) replace(r Ref, old, now *unit) {
	if old == nil {
		old = &unit{}
	}
	next := now
	if next == nil {
		next = &unit{}
		delete(s.units, r)
	} else {
		s.units[r] = next
	}
	for read := range old.reads {
		if _, still := next.reads[read]; !still {
			delete(s.readers[read], r)
			if len(s.readers[read]) == 0 {
				delete(s.readers, read)
				delete(s.secrets, read)
			}
		}
	}
	for read := range next.reads {
		if s.readers[read] == nil {
			s.readers[read] = map[Ref]struct{}{}
			if Followed(read.Kind) {
				s.secrets[read] = struct{}{}
			}
		}
		s.readers[read][r] = struct{}{}
	}
	for need := range next.needs {
		if _, had := old.needs[need]; !had {
			if s.asked[need]++; s.units[need] == nil {
				s.soil(need)
			}
		}
	}
	for need := range old.needs {
		if _, still := next.needs[need]; still {
			continue
		}
		if s.asked[need]--; s.asked[need] == 0 {
			delete(s.asked, need)
			s.soil(need)
		}
	}
	s.collect(r, old.gives, next.gives)
	if !reflect.DeepEqual(old.value, next.value) {
		s.touch(r.published())
	}
	s.compare(old.doc, next.doc)
	switch p := s.parts[r]; {
	case next.doc == nil && p != nil:
		delete(s.parts, r)
	case next.doc != nil && p == nil:
		s.parts[r] = &part{r, next.doc}
	case p != nil:
		p.doc = next.doc
	}
	if delete(s.wrong, r); len(next.findings) > 0 {
		s.wrong[r] = struct{}{}
	}
}

// collect notes what a unit says in collections.
func (s *State) collect(r Ref, old, now map[Ref]any) {
	for c := range old {
		if _, still := now[c]; still {
			continue
		}
		if delete(s.collections[c], r); len(s.collections[c]) == 0 {
			delete(s.collections, c)
		}
		s.gathered(c)
	}
	for c, v := range now {
		if s.collections[c] == nil {
			s.collections[c] = map[Ref]any{}
		}
		if was, had := old[c]; had && reflect.DeepEqual(was, v) {
			continue
		}
		s.collections[c][r] = v
		s.gathered(c)
	}
}

// gathered has the unit of a collection made.
func (s *State) gathered(c Ref) {
	s.touch(c)
	if u := c.unit(); u.Kind != "" {
		s.soil(u)
	}
}

// compare notes the kinds of entities in which two parts differ.
func (s *State) compare(old, now *spec.Document) {
	if old == now {
		return
	}
	for _, c := range spec.Diff(old, now) {
		s.kinds[c.Kind] = true
	}
	if old == nil || now == nil {
		for kind := range cmp.Or(old, now).Present() {
			s.disordered[kind] = true
		}
		return
	}
	before, after := slices.Collect(old.Present()), slices.Collect(now.Present())
	for _, kind := range slices.Concat(before, after) {
		if slices.Contains(before, kind) != slices.Contains(after, kind) {
			s.disordered[kind] = true
		}
	}
}

// Findings is everything that was refused, in order of object and field.
func (s *State) Findings() []Finding {
	var list []Finding
	for r := range s.wrong {
		list = append(list, s.units[r].findings...)
	}
	slices.SortFunc(list, func(a, b Finding) int {
		return cmp.Or(a.Object.compare(b.Object), strings.Compare(a.Field, b.Field), strings.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(list, func(a, b Finding) bool { return a == b })
}
