package translate

import (
	"reflect"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

func TestOrderingOfPlugins(t *testing.T) {
	base := classes + kong + ingress("/", "Prefix", "konghq.com/plugins=limit,auth")
	with := func(ordering string) string {
		return strings.Replace(base, "config: {minute: 5}", "config: {minute: 5}\nordering: "+ordering, 1)
	}
	limit := func(d *spec.Document) *spec.Plugin {
		t.Helper()
		for _, p := range d.Plugins {
			if p.Name == "rate-limiting" {
				return p
			}
		}
		t.Fatalf("no rate-limiting among %v", d.Plugins)
		return nil
	}
	for _, c := range []struct {
		ordering string
		want     *spec.Ordering
	}{
		{"{before: {access: [key-auth]}}", &spec.Ordering{Before: []string{"key-auth"}}},
		{"{after: {access: [key-auth]}, before: {}}", &spec.Ordering{After: []string{"key-auth"}}},
		{"{}", nil},
	} {
		if got := limit(whole(t, with(c.ordering))).Ordering; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: ordering is %+v, want %+v", c.ordering, got, c.want)
		}
		if text := found(t, with(c.ordering)); strings.Contains(text, "ordering") {
			t.Errorf("%s: %s", c.ordering, text)
		}
	}
	for ordering, want := range map[string]string{
		"{before: {access: [kay-auth]}}":     "KongPlugin shop/limit: ordering.before.access.1: plugin 'kay-auth' is not in this build",
		"{before: {rewrite: [key-auth]}}":    "KongPlugin shop/limit: ordering.before.rewrite: unknown field; expected access",
		"{after: {access: [rate-limiting]}}": "KongPlugin shop/limit: ordering.after.access.1: expected names of other plugins",
	} {
		if f := found(t, with(ordering)); !strings.Contains(f, want) || whole(t, with(ordering)).Routes[0].Closed == "" {
			t.Errorf("%s: %s", ordering, f)
		}
	}
	// Of those who use it the consumer has no ordering of it, and hears that.
	const annotated = "annotations: {kubernetes.io/ingress.class: keyway}"
	text := strings.Replace(with("{before: {access: [key-auth]}}"), annotated, "annotations: {kubernetes.io/ingress.class: keyway, konghq.com/plugins: limit}", 1)
	doc := whole(t, text)
	if p := limit(doc); p.Consumer == "" || p.Ordering != nil || doc.Routes[0].Closed != "" {
		t.Errorf("of a consumer: %+v, closed %q", p, doc.Routes[0].Closed)
	}
	if f := found(t, text); !strings.Contains(f, "KongPlugin shop/limit: ordering: expected nothing beside consumers") {
		t.Error(f)
	}
}
