package translate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// custom is a KongCustomEntity of a namespace, made on a day.
func custom(namespace, name string, day int, kind, fields string) string {
	return fmt.Sprintf("kind: KongCustomEntity\nmetadata: {name: %s, namespace: %s, creationTimestamp: \"2026-01-%02dT00:00:00Z\"}\nspec: {type: %s, controllerName: keyway, fields: {%s}}\n---\n", name, namespace, day, kind, fields)
}

// tlsIngress is an Ingress shop/i for a.test and b.test with the certificate of a Secret.
func tlsIngress() string {
	return strings.Replace(ingress("/", "Prefix"), "  rules:", "  tls: [{hosts: [a.test, b.test], secretName: pair}]\n  rules:", 1) + "---\n"
}

// policies are the names of the TLS policies of server names.
func policies(d *spec.Document) map[string]string {
	names, of := map[string]string{}, map[string]string{}
	for _, p := range d.TLSPolicies {
		names[p.ID] = p.Name
	}
	for _, s := range d.SNIs {
		of[s.Name] = names[s.TLSPolicy]
	}
	return of
}

func TestCustomEntities(t *testing.T) {
	authority := authorityMap("ca", "1", certOf(bundleOf(t, "x", "y")))
	policy := custom("shop", "partners", 1, typePolicy, `name: partners, client_auth: required, min_version: "1.3", ca_certificates: [00000000-0000-4000-8000-000000000001], tags: [mine]`)
	name := custom("shop", "a", 2, typeSNI, "name: A.test, certificate: pair, x_keyway_tls_policy: partners")
	doc := whole(t, classes+authority+policy+name+tlsIngress())
	if got := policies(doc); len(got) != 2 || got["a.test"] != "kongcustomentity.shop.partners" || got["b.test"] != "" {
		t.Errorf("%v", got)
	}
	p := doc.TLSPolicies[0]
	if p.MinVersion != "1.3" || p.ClientAuth != "required" || !slices.Equal(p.CACertificates, []string{doc.CACertificates[0].ID}) || !slices.Contains(p.Tags, "mine") || !slices.Contains(p.Tags, "k8s-kind:KongCustomEntity") {
		t.Errorf("%+v", p)
	}
	if f := found(t, classes+authority+policy+name+tlsIngress()); f != "" {
		t.Error(f)
	}
	// A name alone, and one of another class.
	doc = whole(t, classes+custom("shop", "c", 1, typeSNI, "name: '*.c.test', certificate: other")+strings.Replace(name, "controllerName: keyway", "controllerName: kong", 1))
	if got := policies(doc); len(got) != 1 || len(doc.Certificates) != 1 || doc.SNIs[0].Name != "*.c.test" {
		t.Errorf("%v", got)
	}
}

// TestCustomEntityThatIsRefused names the field; a server name whose policy is not right lets nobody in.
func TestCustomEntityThatIsRefused(t *testing.T) {
	const good = "name: p, min_version: '1.3'"
	sni := func(fields string) string { return custom("shop", "a", 2, typeSNI, fields) }
	const of = "name: a.test, certificate: pair, x_keyway_tls_policy: p"
	for name, c := range map[string]struct {
		text   string
		policy string // of a.test
		why    string
	}{
		"right":             {custom("shop", "p", 1, typePolicy, good) + sni(of), "kongcustomentity.shop.p", ""},
		"no policy":         {sni(of), nobodyPolicy, "KongCustomEntity shop/a: spec.fields.x_keyway_tls_policy: expected the name of an entity of type x_keyway_tls_policies in namespace shop; there is no 'p'"},
		"another space":     {custom("other", "p", 1, typePolicy, good) + sni(of), nobodyPolicy, "KongCustomEntity other/p: metadata.namespace: expected a namespace that the setting kube_custom_entities of the node names"},
		"bad value":         {custom("shop", "p", 1, typePolicy, "name: p, min_version: '9'") + sni(of), nobodyPolicy, "KongCustomEntity shop/p: spec.fields.min_version: "},
		"unknown field":     {custom("shop", "p", 1, typePolicy, "name: p, colour: red") + sni(of), nobodyPolicy, "KongCustomEntity shop/p: spec.fields.colour: unknown field"},
		"bad sni":           {sni("name: a.test, certificate: pair, x_keyway_tls_policy: 5"), nobodyPolicy, "spec.fields.x_keyway_tls_policy: "},
		"field of an sni":   {sni("name: a.test, certificate: pair, colour: red"), nobodyPolicy, "KongCustomEntity shop/a: spec.fields.colour: unknown field"},
		"bad tags":          {sni("name: a.test, certificate: pair, tags: red"), nobodyPolicy, "KongCustomEntity shop/a: spec.fields.tags: "},
		"no authority":      {custom("shop", "p", 1, typePolicy, "name: p, client_auth: required, ca_certificates: [00000000-0000-4000-8000-000000000009]") + sni(of), nobodyPolicy, "KongCustomEntity shop/p: spec.fields.ca_certificates[0]: expected the id of an authority"},
		"lent authority":    {custom("shop", "p", 1, typePolicy, "name: p, client_auth: required, ca_certificates: [00000000-0000-4000-8000-000000000001]") + strings.Replace(authorityMap("ca", "1", certOf(bundleOf(t, "x", "y"))), "namespace: shop", "namespace: other", 1) + sni(of), nobodyPolicy, "KongCustomEntity shop/p: spec.fields.ca_certificates[0]: expected the id of an authority in a Secret or ConfigMap of namespace shop"},
		"no certificate in": {custom("shop", "p", 1, typePolicy, "name: p, client_auth: required, ca_certificates: [00000000-0000-4000-8000-000000000001]") + authorityMap("ca", "1", "none") + sni(of), nobodyPolicy, "KongCustomEntity shop/p: spec.fields.ca_certificates[0]: expected ConfigMap shop/ca to have the certificate"},
		"node's secrets":    {custom("shop", "p", 1, typePolicy, "name: p, client_auth: required, ca_certificates: [00000000-0000-4000-8000-000000000001], crls: ['{vault://node.kubernetes/kube-system/admin/token}']") + authorityMap("ca", "1", certOf(bundleOf(t, "x", "y"))) + sni(of), nobodyPolicy, "KongCustomEntity shop/p: spec.fields.crls: expected a reference into a vault that a KongVault or a document declares, not 'node.kubernetes'"},
		"id":                {custom("shop", "p", 1, typePolicy, good+", id: 00000000-0000-4000-8000-000000000001") + sni(of), nobodyPolicy, "spec.fields.id: expected none"},
		"no certificate":    {sni("name: a.test"), "", "spec.fields.certificate: expected the name of a Secret of namespace shop"},
		"bad host":          {sni("name: 'a..test', certificate: pair"), "", "spec.fields.name: expected the name of a host"},
		"no name":           {custom("shop", "p", 1, typePolicy, "min_version: '1.3'"), "", "spec.fields.name: expected a name"},
		"vaults":            {custom("shop", "v", 1, "vaults", "name: env, prefix: vars"), "", "spec.type: expected x_keyway_tls_policies or snis, not 'vaults': KongVaults make those"},
		"unknown type":      {custom("shop", "v", 1, "degraphql_routes", "uri: /x"), "", "spec.type: expected x_keyway_tls_policies or snis, not 'degraphql_routes': there is no such type here"},
		"parent":            {strings.Replace(custom("shop", "p", 1, typePolicy, good), "fields:", "parentRef: {kind: KongPlugin, name: x}, fields:", 1), "", "spec.parentRef: expected none"},
		"no fields at all":  {strings.Replace(custom("shop", "p", 1, typePolicy, good), "fields: {"+good+"}", "fields: 5", 1), "", "spec.fields: expected an object"},
		"older policy":      {custom("shop", "p", 1, typePolicy, good) + custom("shop", "q", 2, typePolicy, "name: p") + sni(of), "kongcustomentity.shop.p", "KongCustomEntity shop/q: spec.fields.name: expected a name that no other policy of the namespace has"},
		"older sni":         {custom("shop", "p", 1, typePolicy, good) + sni(of) + custom("shop", "b", 3, typeSNI, "name: a.test, certificate: pair"), "kongcustomentity.shop.p", "KongCustomEntity shop/b: spec.fields.name: expected nobody before it to ask for a.test; KongCustomEntity shop/a is older"},
		"another's pair":    {sni("name: a.test, certificate: own"), "", "KongCustomEntity shop/a: spec.fields.name: expected nobody before it to ask for a certificate for a.test; Ingress shop/i is older"},
	} {
		t.Run(name, func(t *testing.T) {
			text := classes + c.text + tlsIngress()
			doc := whole(t, text)
			if got, there := policies(doc)["a.test"]; !there || got != c.policy {
				t.Errorf("policy %q, there %t", got, there)
			}
			if f := found(t, text); !strings.Contains(f, c.why) || c.why == "" && f != "" || strings.Contains(f, "; it is left out") {
				t.Error(f)
			}
		})
	}
}

// TestCustomEntityGetsWorse keeps the last good form, and closes what one guarded that is deleted.
func TestCustomEntityGetsWorse(t *testing.T) {
	text := classes + custom("shop", "p", 1, typePolicy, "name: p, min_version: '1.3'") + custom("shop", "a", 2, typeSNI, "name: a.test, certificate: pair, x_keyway_tls_policy: p") + tlsIngress()
	s := state(t, text)
	s.Document()
	for _, bad := range []string{custom("shop", "p", 1, typePolicy, "name: p, min_version: '9'"), custom("shop", "a", 2, typeSNI, "name: 'a..test', certificate: pair")} {
		o := manifests(t, bad)[0]
		o.Common().ResourceVersion = "2"
		s.Put(o)
		if got := policies(s.Document())["a.test"]; got != "kongcustomentity.shop.p" || s.Document().TLSPolicies[0].MinVersion != "1.3" {
			t.Errorf("policy %q, %+v", got, s.Document().TLSPolicies)
		}
		if f := lines(s.Findings()); !strings.Contains(f, "its last good form serves") {
			t.Error(f)
		}
	}
	s.Delete(Ref{KindCustomEntity, "shop", "p"})
	if got := policies(s.Document())["a.test"]; got != nobodyPolicy {
		t.Errorf("without its policy: %q", got)
	}
	if p := s.Document().TLSPolicies[0]; p.ClientAuth != "required" || !p.CRLRequired || len(p.CACertificates) != 1 {
		t.Errorf("who is let in: %+v", p)
	}
	s.Delete(Ref{KindCustomEntity, "shop", "a"})
	if got := policies(s.Document()); got["a.test"] != "" || len(s.Document().TLSPolicies) > 0 {
		t.Errorf("with neither: %v", got)
	}
}

// TestCustomEntitiesUnread closes server names for which nobody knows who is let in, where
// KongCustomEntities are served.
func TestCustomEntitiesUnread(t *testing.T) {
	s := state(t, classes+tlsIngress())
	s.Unread(map[Kinds]bool{{KindCustomEntity, ""}: true})
	if got := policies(s.Document()); got["a.test"] != nobodyPolicy || got["b.test"] != nobodyPolicy {
		t.Errorf("unread: %v", got)
	}
	s.Unread(nil)
	if got := policies(s.Document()); got["a.test"] != "" {
		t.Errorf("read: %v", got)
	}
	s = state(t, classes+tlsIngress())
	s.cfg.CustomEntities = []string{"other"}
	s.Unread(map[Kinds]bool{{KindCustomEntity, ""}: true})
	if got := policies(s.Document()); got["a.test"] != "" {
		t.Errorf("not asked for: %v", got)
	}
}

func TestCustomEntitiesOfAllNamespaces(t *testing.T) {
	s := state(t, classes+custom("other", "a", 1, typeSNI, "name: a.test, certificate: pair"))
	s.cfg.CustomEntities = []string{"*"}
	if got := policies(s.Document()); len(got) != 1 {
		t.Errorf("%v, %v", got, s.Findings())
	}
}

// TestVaultOfAnOlderPrefix is not served, and does not say that it is.
func TestVaultOfAnOlderPrefix(t *testing.T) {
	text := classes
	for i, name := range []string{"late", "early"} {
		text += fmt.Sprintf("kind: KongVault\nmetadata: {name: %s, creationTimestamp: \"2026-01-0%dT00:00:00Z\", annotations: {kubernetes.io/ingress.class: keyway}}\nspec: {backend: env, prefix: vars}\n---\n", name, 2-i)
	}
	if doc := whole(t, text); len(doc.Vaults) != 1 || !slices.Contains(doc.Vaults[0].Tags, "k8s-name:early") {
		t.Errorf("%+v", doc.Vaults)
	}
	s := state(t, text)
	s.Document()
	if f := s.Findings(); len(f) != 1 || f[0].Object.Name != "late" || f[0].Effect != Closed {
		t.Errorf("%v", f)
	}
}
