package translate

import (
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// TestWhatMayNotBeRead: where a kind may not be read, what could be open for want of it is
// closed, and open again once there is known to be none.
func TestWhatMayNotBeRead(t *testing.T) {
	closed := func(d *spec.Document) bool { return len(d.Routes) == 1 && d.Routes[0].Closed != "" }
	grouped := strings.Replace(classes+kong+ingress("/", "Prefix"), "credentials: [ann-key, ann-group, gone]", "credentials: [ann-key]\nconsumerGroups: [gold]", 1)
	cluster := "kind: KongClusterPlugin\nmetadata: {name: limit, annotations: {kubernetes.io/ingress.class: keyway}}\nplugin: rate-limiting\nconfig: {minute: 9}\n---\n"
	withParameters := strings.Replace(classes, "spec: {controller: keyway.dev/ingress}", "spec: {controller: keyway.dev/ingress, parameters: {apiGroup: configuration.konghq.com, kind: IngressClassParameters, namespace: shop, name: p}}", 1)
	if withParameters == classes {
		t.Fatal("the class has no parameters")
	}
	_, unclassed, _ := strings.Cut(classes, "---\n")
	named := ingress("/a/(b)", "ImplementationSpecific")
	for name, c := range map[string]struct {
		text   string
		unread Kinds
		why    string
		shut   func(*spec.Document) bool
	}{
		"groups of consumers":   {grouped, Kinds{KindConsumerGroup, "shop"}, "KongConsumer shop/ann: consumerGroups: expected that the account", func(d *spec.Document) bool { return len(d.Consumers) == 0 && len(d.KeyAuths) == 0 }},
		"plugins by name":       {classes + cluster + ingress("/", "Prefix", "konghq.com/plugins=limit"), Kinds{KindPlugin, ""}, "'limit': there is no such object", closed},
		"policies of backends":  {ofGateway(httpAll) + httpRoute("r", "rules: [{"+toWeb+"}]"), Kinds{KindBackendTLS, ""}, "Service shop/web: spec.ports: expected that the account", func(d *spec.Document) bool { return d.Routes[0].Service == "" && d.Routes[0].Split[0].Service == "" }},
		"classes":               {unclassed + named, Kinds{KindIngressClass, ""}, "expected that the account of this node may list and watch objects of kind IngressClass and", closed},
		"parameters of a class": {withParameters + named, Kinds{KindParameters, "shop"}, "objects of kind IngressClass and IngressClassParameters", closed},
	} {
		s := state(t, c.text)
		if d := s.Document(); c.shut(d) {
			t.Errorf("%s: closed although all is read: %v", name, s.Findings())
		}
		first := state(t, c.text)
		first.Unread(map[Kinds]bool{c.unread: true})
		d := first.Document()
		if !c.shut(d) || !strings.Contains(lines(first.Findings()), c.why) {
			t.Errorf("%s: not closed, or not for that: %s", name, lines(first.Findings()))
		}
		first.Unread(map[Kinds]bool{{c.unread.Kind, "elsewhere"}: true})
		if d := first.Document(); c.shut(d) {
			t.Errorf("%s: still closed: %s", name, lines(first.Findings()))
		}
	}
}
