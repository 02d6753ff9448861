package spec

import (
	"slices"
	"testing"
)

// TestKindsThatReferToNothing holds Refs and SharesRefs to the fields of the kinds that they
// leave out.
func TestKindsThatReferToNothing(t *testing.T) {
	var look func(kind string, fields group)
	look = func(kind string, fields group) {
		fields(func(f field) {
			switch at := f.at.(type) {
			case *Secret, *[]Secret, *map[string]any:
				t.Errorf("%s.%s may hold a reference, and Refs does not look at it", kind, f.name)
			case optional:
				look(kind, at.begin())
			}
		})
	}
	for _, e := range []Entity{&Route{}, &Target{}} {
		if refers(e.Kind()) {
			t.Errorf("%s: expected a kind without references", e.Kind())
		}
		look(e.Kind(), e.fields)
	}
	for _, kind := range Kinds() {
		if (kind == "routes" || kind == "targets") == refers(kind) {
			t.Errorf("%s: refers %v", kind, refers(kind))
		}
		doc := &Document{}
		doc.list(kind).fill(1, slices.Values([]list{(&Document{
			Services: []*Service{{}}, Routes: []*Route{{}}, Upstreams: []*Upstream{{}}, Targets: []*Target{{}}, Consumers: []*Consumer{{}}, ConsumerGroups: []*ConsumerGroup{{}}, KeyAuths: []*KeyAuth{{}}, ACLs: []*ACL{{}}, Plugins: []*Plugin{{}},
			Certificates: []*Certificate{{}}, SNIs: []*SNI{{}}, CACertificates: []*CACertificate{{}}, Vaults: []*Vault{{}}, TLSPolicies: []*TLSPolicy{{}}, Issuers: []*Issuer{{}}, Listeners: []*Listener{{}},
		}).list(kind)}))
		if (&Document{}).SharesRefs(doc) == refers(kind) || !doc.SharesRefs(doc) {
			t.Errorf("%s: a document that has one more shares its references: %v", kind, !refers(kind))
		}
	}
}
