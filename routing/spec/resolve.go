package spec

import (
	"crypto/sha1" //nolint:gosec // the id rule of the format is UUIDv5, which is SHA-1; nothing is authenticated by it
	"encoding/hex"
	"strings"
)

// rootSpace is the namespace of all derived ids; documents written years ago have
// them in their histories, so it can never change.
const rootSpace = "fd02801f-0957-4a15-a55a-c8d9606f30b5"

// uuid5 derives a name-based id (RFC 9562 section 5.5).
func uuid5(space, name string) string {
	bytes, err := hex.DecodeString(strings.ReplaceAll(space, "-", ""))
	if err != nil {
		return ""
	}
	h := sha1.New() //nolint:gosec // see the import
	h.Write(bytes)
	h.Write([]byte(name))
	u := h.Sum(nil)[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], u[0:4])
	hex.Encode(text[9:13], u[4:6])
	hex.Encode(text[14:18], u[6:8])
	hex.Encode(text[19:23], u[8:10])
	hex.Encode(text[24:36], u[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

func deriveID(kind, name string) string { return uuid5(uuid5(rootSpace, kind), name) }

// remember keeps what the id of an entity without one follows from.
func (l *loader) remember(e Entity, n *node, parent Entity) {
	if e.Base().ID != "" {
		return
	}
	u := unnamed{entity: e}
	switch e := e.(type) {
	case *Target:
		// As it was written: the id was made before the port was completed.
		if v := n.get("target"); v != nil {
			u.content = v.text
		}
	case *Certificate:
		// Never the key: an id goes into logs.
		if v := n.get("cert"); v != nil {
			u.content = "content:" + v.text
		} else {
			u.content = "issued:" + e.Issuer + ":" + firstName(n.get("snis"))
		}
	case *CACertificate:
		if u.content = e.CertDigest; u.content == "" {
			u.content = e.Cert.Ref.String()
		}
	case *Service, *Route, *Consumer:
		if label(e) != "" {
			break
		}
		var b strings.Builder
		b.WriteString("content:")
		if parent != nil {
			b.WriteString(label(parent) + "/")
		}
		n.canonical(&b, func(name string) bool {
			return nests(e.Kind(), name) != "" || exported(e.Kind(), name) || isNote(name)
		})
		u.content = b.String()
	}
	l.unnamed = append(l.unnamed, u)
}

// firstName is the first name in a nested list of SNIs. It tells certificates of one
// issuer apart, whose names may change and whose id should not.
func firstName(snis *node) string {
	if snis == nil || snis.shape != shapeList || len(snis.items) == 0 {
		return ""
	}
	if v := snis.items[0].get("name"); v != nil {
		return v.text
	}
	return snis.items[0].text
}

// identify gives an id to every entity whose id does not follow from another's.
func (l *loader) identify() {
	rest := l.unnamed[:0]
	for _, u := range l.unnamed {
		kind, m := u.entity.Kind(), u.entity.Base()
		switch e := u.entity.(type) {
		case *Target, *KeyAuth, *ACL, *Plugin:
			rest = append(rest, u)
		case *Vault:
			m.ID = deriveID(kind, kind+":*:"+e.Prefix)
		case *CACertificate:
			m.ID = deriveID(kind, l.ordinal(kind+":*:"+u.content))
		default:
			if u.content == "" {
				m.ID = deriveID(kind, label(e))
			} else {
				m.ID = deriveID(kind, l.ordinal(u.content))
			}
		}
	}
	l.unnamed = rest
}

// identifyRest gives an id to the entities that belong to others.
func (l *loader) identifyRest() {
	for _, u := range l.unnamed {
		kind, m := u.entity.Kind(), u.entity.Base()
		switch e := u.entity.(type) {
		case *Target:
			m.ID = deriveID(kind, kind+":*:"+e.Upstream+":"+u.content)
		case *ACL:
			m.ID = deriveID(kind, kind+":*:"+e.Consumer+":"+e.Group)
		case *Plugin:
			scope := e.Route + ":" + e.Service + ":" + e.Consumer
			if e.ConsumerGroup != "" {
				scope += ":" + e.ConsumerGroup
			}
			m.ID = deriveID(kind, kind+":*:"+e.Name+":"+scope)
		case *KeyAuth:
			// Why not from the key: an id goes into logs, and a key that people chose
			// could be guessed from it.
			m.ID = deriveID(kind, l.ordinal(kind+":"+e.Consumer+":"+e.Key.Ref.String()))
		}
	}
}

// ordinal tells entities with the same content apart by their order.
func (l *loader) ordinal(content string) string {
	l.contents = append(l.contents, content)
	l.repeats[content]++
	if n := l.repeats[content]; n > 1 {
		return content + "#" + itoa(n)
	}
	return content
}

// resolve makes every foreign key an id.
func (l *loader) resolve() {
	index := indexOf(l.doc, func() {})
	for _, k := range l.links {
		if k.parent != nil {
			*k.at = k.parent.Base().ID
			continue
		}
		id, ok := index.find(k.refers, *k.at)
		if !ok && l.part && isUUID(*k.at) {
			continue
		}
		if !ok {
			name := k.field
			if _, ok := k.owner.(*membership); ok {
				_, name, _ = strings.Cut(name, ".") // before it stands which one of its list it is
			}
			l.blame(k.owner, k.pos, k.field, ReasonReference,
				"invalid reference '"+name+": "+*k.at+"' (no such entry in '"+k.refers+"')")
			continue
		}
		*k.at = id
	}
	l.joinGroups()
	settle(l.made)
	l.identifyRest()
}

// referred are the kinds that foreign keys lead to.
func referred() []string {
	return []string{"services", "routes", "upstreams", "consumer_groups", "consumers", "certificates", "ca_certificates", "x_keyway_tls_policies", "x_keyway_issuers"}
}

// index leads from names and ids to ids, by kind.
type index map[string]map[string]string

// indexOf is the index of a document. looked is called as it looks at one entity after the other.
func indexOf(d *Document, looked func()) index {
	all := index{}
	for _, kind := range referred() {
		byKey := map[string]string{}
		for e := range d.Entities(kind) {
			looked()
			if name := label(e); name != "" {
				byKey[name] = e.Base().ID
			}
		}
		// An id is stronger than a name that looks like one.
		for e := range d.Entities(kind) {
			looked()
			byKey[e.Base().ID] = e.Base().ID
		}
		all[kind] = byKey
	}
	return all
}

// find answers the id that a foreign key leads to.
func (x index) find(kind, key string) (string, bool) {
	id, ok := x[kind][key]
	if !ok {
		id, ok = x[kind][strings.ToLower(key)]
		ok = ok && isUUID(strings.ToLower(key))
	}
	return id, ok
}

// claim is one thing that only one entity of a kind may have.
type claim struct{ kind, field, value string }

func claims(e Entity) []claim {
	kind := e.Kind()
	switch e := e.(type) {
	case *Service, *Route, *Upstream, *ConsumerGroup, *TLSPolicy, *Issuer:
		return []claim{{kind, "name", label(e)}}
	case *Listener:
		claims := []claim{{kind, "name", e.Name}}
		for _, place := range e.places() {
			claims = append(claims, claim{kind, "port", place})
		}
		return claims
	case *Target:
		return []claim{{kind, "target", e.Upstream + " " + e.Target}}
	case *Consumer:
		return []claim{{kind, "username", e.Username}, {kind, "custom_id", e.CustomID}}
	case *KeyAuth:
		if e.Key.Value.IsZero() {
			return []claim{{kind, "key", e.Key.Ref.String()}}
		}
		return []claim{{kind, "key", "literal " + string(e.Key.Value.Reveal())}}
	case *ACL:
		return []claim{{kind, "group", e.Consumer + " " + e.Group}}
	case *Plugin:
		return []claim{{kind, "instance_name", e.InstanceName}, {kind, "name", strings.Join([]string{e.Name, e.Route, e.Service, e.Consumer, e.ConsumerGroup}, " ")}}
	case *SNI:
		return []claim{{kind, "name", strings.ToLower(e.Name)}}
	case *CACertificate:
		return []claim{{kind, "cert_digest", e.CertDigest}}
	case *Vault:
		return []claim{{kind, "prefix", e.Prefix}}
	}
	return nil
}

// unique reports entities that claim the same name, key or id.
func (l *loader) unique() {
	taken := map[claim]Entity{}
	for e := range l.doc.all() {
		clashes := 0
		for _, c := range append(claims(e), claim{e.Kind(), "id", e.Base().ID}) {
			if c.value == "" {
				continue
			}
			first, ok := taken[c]
			if !ok {
				taken[c] = e
				continue
			}
			// A derived id clashes because the name does: one problem, not two.
			if clashes++; clashes == 1 {
				l.blame(e, e.Base().Pos, onEntity, ReasonDuplicate, clash(e, c, first))
			}
		}
	}
}

func clash(e Entity, c claim, first Entity) string {
	set := " with " + c.field + " set to '" + c.value + "'"
	switch e := e.(type) {
	case *KeyAuth:
		if c.field == "key" {
			set = " with the same key"
		}
	case *Listener:
		if c.field == "port" {
			set = " with port set to '" + itoa(e.Port) + "' on the same address"
		}
	case *Target:
		set = " with target set to '" + e.Target + "' in the same upstream"
	case *ACL:
		set = " with group set to '" + e.Group + "' for the same consumer"
	case *Plugin:
		if c.field == "name" {
			set = " with name set to '" + e.Name + "' for the same route, service, consumer and consumer group"
		}
	}
	return "uniqueness violation: '" + c.kind + "' entity" + set + " already declared at " + first.Base().Pos.String()
}
