package spec

import "iter"

// list is one list of a document, for whoever does the same with lists of every kind.
// Lists of one kind are of one type.
type list interface {
	at(i int) Entity
	// array is where its entities are, nil for none, and how many they are.
	array() (first any, size int)
	// adopt takes the entities of another list that are what its own are, at the same places;
	// and if that is all of them the other one's array. Its own must be nobody else's.
	adopt(o list)
	// fill makes it what others have, one after the other, with room for so many. It never
	// writes into what another document has.
	fill(room int, from iter.Seq[list])
}

func sizeOf(l list) int {
	_, n := l.array()
	return n
}

// oneArray says that two lists are the same array, and so have the same entities without a look.
func oneArray(a, b list) bool {
	first, n := a.array()
	other, m := b.array()
	return n == m && first == other
}

// same says that two lists have the very same entities, in the same order.
func same(a, b list) bool {
	n := sizeOf(a)
	if n != sizeOf(b) {
		return false
	}
	for i := range n {
		if a.at(i) != b.at(i) {
			return false
		}
	}
	return true
}

// list answers the list of a kind, nil for an unknown one.
func (d *Document) list(kind string) list {
	switch kind {
	case "services":
		return listOf[*Service]{&d.Services}
	case "routes":
		return listOf[*Route]{&d.Routes}
	case "upstreams":
		return listOf[*Upstream]{&d.Upstreams}
	case "targets":
		return listOf[*Target]{&d.Targets}
	case "consumers":
		return listOf[*Consumer]{&d.Consumers}
	case "consumer_groups":
		return listOf[*ConsumerGroup]{&d.ConsumerGroups}
	case "keyauth_credentials":
		return listOf[*KeyAuth]{&d.KeyAuths}
	case "acls":
		return listOf[*ACL]{&d.ACLs}
	case "plugins":
		return listOf[*Plugin]{&d.Plugins}
	case "certificates":
		return listOf[*Certificate]{&d.Certificates}
	case "snis":
		return listOf[*SNI]{&d.SNIs}
	case "ca_certificates":
		return listOf[*CACertificate]{&d.CACertificates}
	case "vaults":
		return listOf[*Vault]{&d.Vaults}
	case "x_keyway_tls_policies":
		return listOf[*TLSPolicy]{&d.TLSPolicies}
	case "x_keyway_issuers":
		return listOf[*Issuer]{&d.Issuers}
	case "x_keyway_listeners":
		return listOf[*Listener]{&d.Listeners}
	}
	return nil
}

type listOf[E Entity] struct{ of *[]E }

func (l listOf[E]) at(i int) Entity { return (*l.of)[i] }

func (l listOf[E]) array() (first any, size int) {
	if len(*l.of) == 0 {
		return nil, 0
	}
	return &(*l.of)[0], len(*l.of)
}

func (l listOf[E]) adopt(o list) {
	was, ok := o.(listOf[E])
	if !ok {
		return
	}
	mine, other := *l.of, *was.of
	all := len(mine) == len(other)
	for i := range min(len(mine), len(other)) {
		if Entity(mine[i]) == Entity(other[i]) {
			continue
		}
		if !twins(mine[i].Base(), other[i].Base()) {
			all = false
			continue
		}
		mine[i] = other[i]
	}
	if all {
		*l.of = other
	}
}

// twins says that two entities of a kind are the same in all but where they are in memory.
func twins(a, b *Meta) bool {
	return a.sum != 0 && a.sum == b.sum && a.ID == b.ID && a.Pos == b.Pos && a.CreatedAt == b.CreatedAt && a.UpdatedAt == b.UpdatedAt
}

func (l listOf[E]) fill(room int, from iter.Seq[list]) {
	if *l.of = nil; room > 0 {
		*l.of = make([]E, 0, room)
	}
	for more := range from {
		if more, ok := more.(listOf[E]); ok {
			*l.of = append(*l.of, *more.of...)
		}
	}
}

// SharesRefs says that two documents refer to the same, with the same rules, because they
// share the lists of all kinds that have to do with it, as documents of Join do. It is
// quick, and false where it cannot tell.
func (d *Document) SharesRefs(o *Document) bool { return d.sharesAll(o, refers) }

// SharesAllBut says that two documents differ in no other kind of entity than one, because
// they share the lists of all others. It is quick, and false where it cannot tell.
func (d *Document) SharesAllBut(kind string, o *Document) bool {
	return d.sharesAll(o, func(k string) bool { return k != kind })
}

func (d *Document) sharesAll(o *Document, which func(kind string) bool) bool {
	for _, kind := range Kinds() {
		if which(kind) && !oneArray(d.list(kind), o.list(kind)) {
			return false
		}
	}
	return true
}

// Present are the kinds of entities that the document has some of, in the order of Kinds.
func (d *Document) Present() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, kind := range Kinds() {
			if sizeOf(d.list(kind)) > 0 && !yield(kind) {
				return
			}
		}
	}
}

// Share has a document that nobody else knows yet share the entities of another that are the
// same, and lists of which all are, so that it is seen at a glance that nothing of them differs.
func (d *Document) Share(prev *Document) {
	for _, kind := range Kinds() {
		d.list(kind).adopt(prev.list(kind))
	}
}
