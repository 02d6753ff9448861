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
	switch kind {
	case "services":
		return each(d.Services)
	case "routes":
		return each(d.Routes)
	case "upstreams":
		return each(d.Upstreams)
	case "targets":
		return each(d.Targets)
	case "consumers":
		return each(d.Consumers)
	case "consumer_groups":
		return each(d.ConsumerGroups)
	case "keyauth_credentials":
		return each(d.KeyAuths)
	case "acls":
		return each(d.ACLs)
	case "plugins":
		return each(d.Plugins)
	case "certificates":
		return each(d.Certificates)
	case "snis":
		return each(d.SNIs)
	case "ca_certificates":
		return each(d.CACertificates)
	case "vaults":
		return each(d.Vaults)
	case "x_keyway_tls_policies":
		return each(d.TLSPolicies)
	case "x_keyway_issuers":
		return each(d.Issuers)
	case "x_keyway_listeners":
		return each(d.Listeners)
	}
	return func(func(Entity) bool) {}
}

func each[E Entity](list []E) iter.Seq[Entity] {
	return func(yield func(Entity) bool) {
		for _, e := range list {
			if !yield(e) {
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
