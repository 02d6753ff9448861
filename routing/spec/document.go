package spec

import "iter"

// String is "file:line", the file alone where there are no lines.
func (p Pos) String() string {
	switch {
	case p.File == "":
		return "line " + itoa(p.Line)
	case p.Line == 0:
		return p.File
	}
	return p.File + ":" + itoa(p.Line)
}

// Fresh is how many of its entities were read for this document; the others a Loader
// took over from the document before.
func (d *Document) Fresh() int { return d.fresh }

// Ignored are the lists of the format that were read and left out, since they say nothing
// about traffic.
func (d *Document) Ignored() Problems { return d.ignored }

// add appends an entity to its list.
func (d *Document) add(e Entity) {
	switch e := e.(type) {
	case *Service:
		d.Services = append(d.Services, e)
	case *Route:
		d.Routes = append(d.Routes, e)
	case *Upstream:
		d.Upstreams = append(d.Upstreams, e)
	case *Target:
		d.Targets = append(d.Targets, e)
	case *Consumer:
		d.Consumers = append(d.Consumers, e)
	case *ConsumerGroup:
		d.ConsumerGroups = append(d.ConsumerGroups, e)
	case *KeyAuth:
		d.KeyAuths = append(d.KeyAuths, e)
	case *ACL:
		d.ACLs = append(d.ACLs, e)
	case *Plugin:
		d.Plugins = append(d.Plugins, e)
	case *Certificate:
		d.Certificates = append(d.Certificates, e)
	case *SNI:
		d.SNIs = append(d.SNIs, e)
	case *CACertificate:
		d.CACertificates = append(d.CACertificates, e)
	case *Vault:
		d.Vaults = append(d.Vaults, e)
	case *TLSPolicy:
		d.TLSPolicies = append(d.TLSPolicies, e)
	case *Issuer:
		d.Issuers = append(d.Issuers, e)
	case *Listener:
		d.Listeners = append(d.Listeners, e)
	}
}

// Entities is every entity of a kind (see Kinds), in the document's order; none
// for an unknown kind.
func (d *Document) Entities(kind string) iter.Seq[Entity] {
	l := d.list(kind)
	return func(yield func(Entity) bool) {
		for i := 0; l != nil && i < sizeOf(l); i++ {
			if !yield(l.at(i)) {
				return
			}
		}
	}
}

// all is every entity, by kind.
func (d *Document) all() iter.Seq[Entity] {
	return func(yield func(Entity) bool) {
		for _, kind := range Kinds() {
			for e := range d.Entities(kind) {
				if !yield(e) {
					return
				}
			}
		}
	}
}
