package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// useFacts is one thing that depends on a credential, and what becomes of it when
// the credential dies.
type useFacts struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"` // of the object, its id where it has none
	Field string `json:"field,omitempty"`
	Via   string `json:"via,omitempty"` // the object through which it depends
	Then  string `json:"then"`
}

// uses answers what depends on a reference, or on a certificate by one of its names.
func (n *node) uses(_ context.Context, a control.Action) (any, error) {
	s := n.publisher.Current()
	if s == nil {
		return nil, fmt.Errorf("no configuration is loaded yet")
	}
	list := usesOf(s.Document, a.Name)
	for _, r := range n.vaults.always {
		if r.String() == a.Name {
			list = append(list, useFacts{Kind: "listeners", Name: "default certificate", Field: "tls_cert/tls_key", Then: "unknown names, admin and status over TLS keep the last good pair to its end"})
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("nothing depends on %q: no object of the document refers to it, and no certificate or name is called so", a.Name)
	}
	return list, nil
}

// usesOf is the blast radius of a reference or of a certificate's name.
func usesOf(doc *spec.Document, name string) []useFacts {
	var list []useFacts
	certificates := map[string]string{} // ids, and through what
	for u := range doc.Uses() {
		if u.Ref.String() != name && !sameResource(u.Ref, name) {
			continue
		}
		list = append(list, useFacts{Kind: u.Kind, Name: named(u.Name, u.ID), Field: u.Field, Then: consequence(u.Kind)})
		switch u.Kind {
		case "certificates":
			certificates[u.ID] = u.Field
		case "services":
			list = append(list, routesOf(doc, u.ID, named(u.Name, u.ID))...)
		case "plugins":
			list = append(list, scopeOf(doc, u.ID)...)
		}
	}
	for _, s := range doc.SNIs {
		if s.Name == name || s.Certificate == name {
			certificates[s.Certificate] = ""
		}
	}
	return append(list, dependents(doc, certificates)...)
}

// sameResource says that a name is a reference to the same secret as another field.
func sameResource(r secrets.Ref, name string) bool {
	other, err := secrets.ParseRef(name)
	return err == nil && other.Vault == r.Vault && other.Resource == r.Resource && other.Key == ""
}

func named(name, id string) string {
	if name == "" {
		return id
	}
	return name
}

func consequence(kind string) string {
	switch kind {
	case "certificates":
		return "the last good pair serves to its end"
	case "services":
		return "its routes answer 503"
	case "plugins":
		return "the routes that it serves answer 503"
	case "keyauth_credentials":
		return "the key opens nothing"
	case "ca_certificates":
		return "connections that are judged by it are refused"
	case "x_keyway_tls_policies":
		return "its names refuse clients where crl_required is set"
	case "vaults", "x_keyway_issuers":
		return "nothing new comes from it; what was fetched is used to its end"
	}
	return "it is closed"
}

func routesOf(doc *spec.Document, service, via string) []useFacts {
	var list []useFacts
	for _, r := range doc.Routes {
		switch {
		case r.Service == service:
			list = append(list, useFacts{Kind: "routes", Name: named(r.Name, r.ID), Via: "service " + via, Then: "answers 503"})
		case leadsTo(r, service):
			list = append(list, useFacts{Kind: "routes", Name: named(r.Name, r.ID), Via: "service " + via, Then: "answers 503 for its share"})
		}
	}
	return list
}

// leadsTo says whether requests of a route may go to a service.
func leadsTo(r *spec.Route, service string) bool {
	for id := range r.Services {
		if id == service {
			return true
		}
	}
	return false
}

// scopeOf lists what a plugin serves.
func scopeOf(doc *spec.Document, id string) []useFacts {
	i := slices.IndexFunc(doc.Plugins, func(p *spec.Plugin) bool { return p.ID == id })
	if i < 0 {
		return nil
	}
	p := doc.Plugins[i]
	var list []useFacts
	for _, r := range doc.Routes {
		if (p.Route == "" || p.Route == r.ID) && (p.Service == "" || leadsTo(r, p.Service)) {
			list = append(list, useFacts{Kind: "routes", Name: named(r.Name, r.ID), Via: "plugin " + p.Name, Then: "answers 503"})
		}
	}
	for _, g := range doc.ConsumerGroups {
		if g.ID == p.ConsumerGroup {
			list = append(list, useFacts{Kind: "consumer_groups", Name: g.Name, Via: "plugin " + p.Name, Then: "its consumers are refused with 503 there"})
		}
	}
	for _, c := range doc.Consumers {
		if c.ID == p.Consumer {
			list = append(list, useFacts{Kind: "consumers", Name: named(c.Username, c.ID), Via: "plugin " + p.Name, Then: "is refused with 503 there"})
		}
	}
	return list
}

// dependents lists what certificates are bound to.
func dependents(doc *spec.Document, certificates map[string]string) []useFacts {
	var list []useFacts
	for _, s := range doc.SNIs {
		if _, ok := certificates[s.Certificate]; ok {
			list = append(list, useFacts{Kind: "snis", Name: s.Name, Via: "certificate " + s.Certificate, Then: "handshakes get unrecognized_name once the last good pair has ended"})
			list = append(list, routesFor(doc, s.Name)...)
		}
	}
	for _, s := range doc.Services {
		if _, ok := certificates[s.ClientCertificate]; ok && s.ClientCertificate != "" {
			list = append(list, useFacts{Kind: "services", Name: named(s.Name, s.ID), Field: "client_certificate", Via: "certificate " + s.ClientCertificate, Then: "its routes answer 503"})
		}
	}
	for _, u := range doc.Upstreams {
		if _, ok := certificates[u.ClientCertificate]; ok && u.ClientCertificate != "" {
			list = append(list, useFacts{Kind: "upstreams", Name: u.Name, Field: "client_certificate", Via: "certificate " + u.ClientCertificate, Then: "services that use it answer 503"})
		}
	}
	return list
}

// routesFor lists the routes that name a host which a server name covers.
func routesFor(doc *spec.Document, sni string) []useFacts {
	var list []useFacts
	suffix, wild := strings.CutPrefix(sni, "*.")
	for _, r := range doc.Routes {
		for _, h := range append(slices.Clone(r.Hosts), r.SNIs...) {
			_, rest, _ := strings.Cut(h, ".")
			if h == sni || wild && rest == suffix {
				list = append(list, useFacts{Kind: "routes", Name: named(r.Name, r.ID), Via: "name " + sni, Then: "cannot be reached over TLS"})
				break
			}
		}
	}
	return list
}
