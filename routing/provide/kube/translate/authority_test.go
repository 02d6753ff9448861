package translate

import (
	"slices"
	"strings"
	"testing"
)

// authorityMap is a ConfigMap shop/<name> with a certificate, as YAML, and an id that ends so.
func authorityMap(name, id, cert string) string {
	return "kind: AuthorityMap\nmetadata: {name: " + name + ", namespace: shop, labels: {konghq.com/ca-cert: \"true\"}, annotations: {kubernetes.io/ingress.class: keyway}}\ndata:\n  id: 00000000-0000-4000-8000-00000000000" + id + "\n  cert: " + cert + "\n---\n"
}

// certOf is the certificate in the text of a bundle.
func certOf(bundle string) string {
	_, cert, _ := strings.Cut(bundle, "ca.crt: ")
	return strings.TrimSuffix(cert, "\n---\n")
}

// TestAuthorityTwice has one certificate under two ids, and in a bundle of a Gateway too: a
// document has it once.
func TestAuthorityTwice(t *testing.T) {
	b := bundleOf(t, "infra", "b")
	two := authorityMap("a", "1", certOf(b)) + authorityMap("b", "2", certOf(b))
	service := func(text string) string {
		return with(text, "Service", "web", "konghq.com/ca-certificates-configmaps: 'b,a', konghq.com/protocol: https")
	}
	doc := whole(t, service(classes+two+ingress("/", "Prefix")))
	if len(doc.CACertificates) != 1 || !slices.Equal(doc.Services[0].CACertificates, []string{"00000000-0000-4000-8000-000000000001"}) {
		t.Errorf("of two ids: %+v, services %+v", doc.CACertificates, doc.Services[0])
	}
	doc = whole(t, service(withFrontend(t, `default: {validation: {caCertificateRefs: [{group: "", kind: ConfigMap, name: b}]}}`)+b+two+ingress("/", "Prefix")))
	if len(doc.CACertificates) != 1 || len(doc.TLSPolicies) != 1 || !slices.Equal(doc.Services[0].CACertificates, doc.TLSPolicies[0].CACertificates) {
		t.Errorf("of a Gateway too: %+v, services %+v, policies %+v", doc.CACertificates, doc.Services[0], doc.TLSPolicies)
	}
}

// TestAuthorityThatIsNone closes the services that are verified by it.
func TestAuthorityThatIsNone(t *testing.T) {
	text := with(classes, "Service", "web", "konghq.com/ca-certificates-configmaps: a, konghq.com/protocol: https") + authorityMap("a", "1", "nothing") + ingress("/", "Prefix")
	doc := whole(t, text)
	if doc.Routes[0].Closed == "" || len(doc.CACertificates) > 0 {
		t.Errorf("route %+v, authorities %+v", doc.Routes[0], doc.CACertificates)
	}
	if f := found(t, text); !strings.Contains(f, "ConfigMap shop/a: data.cert: ") || !strings.Contains(f, "Service shop/web: metadata.annotations[konghq.com/ca-certificates-configmaps]: expected 'a' to have the certificate") {
		t.Error(f)
	}
}
