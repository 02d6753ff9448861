package spec

import (
	"iter"
	"net/url"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/secrets"
)

// Use is one reference and the object that needs it.
type Use struct {
	Ref    secrets.Ref
	Kind   string // "services"
	ID     string
	Name   string // "" for an entity without one
	Field  string // dotted: "config.redis.password"
	Tags   []string
	entity Entity
}

// issuerVault is how references name an issuer; a prefix has no dot, so that no
// document can write one.
const issuerVault = "issuer."

// IssuerVault is the name under which the broker knows an issuer.
func (i *Issuer) IssuerVault() string { return issuerVault + i.Name }

// Pair answers where the pair of a certificate comes from; see Pairs.
func (d *Document) Pair(c *Certificate) (cert, key Secret) { return d.Pairs()(c) }

// Pairs answers a function that says where the pair of a certificate comes from: its
// own fields, or the two references through which an issuer's pair is fetched,
// two keys of one resource, so that they always come from one lease. Its value is a
// JSON object with "cert", a PEM chain, and "key", PEM too.
func (d *Document) Pairs() func(*Certificate) (cert, key Secret) {
	vaults := make(map[string]string, len(d.Issuers))
	for _, i := range d.Issuers {
		vaults[i.ID] = i.IssuerVault()
	}
	names := map[string][]string{}
	if len(vaults) > 0 {
		for _, s := range d.SNIs {
			if !strings.HasSuffix(s.Name, "*") {
				names[s.Certificate] = append(names[s.Certificate], s.Name)
			}
		}
	}
	return func(c *Certificate) (cert, key Secret) {
		if c.Issuer == "" {
			return c.Cert, c.Key
		}
		vault := vaults[c.Issuer]
		if vault == "" {
			return Secret{}, Secret{}
		}
		base := "{vault://" + vault + "/" + c.ID + "/"
		query := "?" + url.Values{"names": {strings.Join(slices.Sorted(slices.Values(names[c.ID])), ",")}, "key_type": {c.KeyType}}.Encode() + "}"
		return issued(base + "cert" + query), issued(base + "key" + query)
	}
}

func issued(text string) Secret {
	r, err := secrets.ParseRef(text)
	if err != nil {
		return Secret{}
	}
	return Secret{Ref: r}
}

// Refs is every reference in the document, also in the configs of plugins and
// vaults and those through which issued pairs come, in a fixed order; one that is
// used twice comes twice.
func (d *Document) Refs() iter.Seq[secrets.Ref] {
	return func(yield func(secrets.Ref) bool) {
		for u := range d.Uses() {
			if !yield(u.Ref) {
				return
			}
		}
	}
}

// Uses is every reference in the document with the object and the field that
// need it, in the order of Refs.
func (d *Document) Uses() iter.Seq[Use] {
	return func(yield func(Use) bool) {
		pairs := d.Pairs()
		for e := range d.all() {
			if e.Base().bare || !refers(e.Kind()) {
				continue
			}
			for _, u := range uses(e, pairs) {
				if !yield(u) {
					return
				}
			}
		}
	}
}

// refers says that entities of a kind may hold references. Those that may not are most of
// what big documents have.
func refers(kind string) bool { return kind != "routes" && kind != "targets" }

// uses are the references of one entity.
func uses(e Entity, pairs func(*Certificate) (cert, key Secret)) []Use {
	var list []Use
	m := e.Base()
	add := func(field string, r secrets.Ref) {
		list = append(list, Use{Ref: r, Kind: e.Kind(), ID: m.ID, Name: label(e), Field: field, Tags: m.Tags, entity: e})
	}
	walkRefs(e.fields, "", add)
	if c, ok := e.(*Certificate); ok && c.Issuer != "" {
		if cert, key := pairs(c); !cert.Ref.IsZero() {
			add("cert", cert.Ref)
			add("key", key.Ref)
		}
	}
	return list
}

// UseOf is the use of a reference by an entity.
func UseOf(e Entity, field string, r secrets.Ref) Use {
	m := e.Base()
	return Use{Ref: r, Kind: e.Kind(), ID: m.ID, Name: label(e), Field: field, Tags: m.Tags, entity: e}
}

// Refs are the references in one entity, but for those of an issued pair.
func Refs(e Entity) []secrets.Ref {
	var refs []secrets.Ref
	walkRefs(e.fields, "", func(_ string, r secrets.Ref) { refs = append(refs, r) })
	return refs
}

func walkRefs(fields group, prefix string, add func(field string, r secrets.Ref)) {
	one := func(name string, s *Secret) {
		if !s.Ref.IsZero() {
			add(name, s.Ref)
		}
	}
	fields(func(f field) {
		name := dotted(prefix, f.name)
		switch at := f.at.(type) {
		case *Secret:
			one(name, at)
		case *[]Secret:
			for i := range *at {
				one(name+"."+itoa(i+1), &(*at)[i])
			}
		case *map[string]any:
			configRefs(*at, name, add)
		case optional:
			if at.given {
				walkRefs(at.group, name, add)
			}
		}
	})
}

// configRefs finds references by their form: decoding lets them stand in
// referenceable fields only.
func configRefs(v any, name string, add func(field string, r secrets.Ref)) {
	switch v := v.(type) {
	case string:
		if strings.HasPrefix(v, "{vault://") {
			if r, err := secrets.ParseRef(v); err == nil {
				add(name, r)
			}
		}
	case []any:
		for i, item := range v {
			configRefs(item, dotted(name, itoa(i+1)), add)
		}
	case map[string]any:
		for _, k := range sortedKeys(v) {
			configRefs(v[k], dotted(name, k), add)
		}
	}
}
