package main

import (
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
)

func TestSelectorSettings(t *testing.T) {
	s, err := readSettings("", []string{"KEYWAY_KUBE_LABEL_SELECTOR=team=shop,tier in (web, api),!internal", "KEYWAY_KUBE_NAMESPACE_SELECTOR=edge"}, nil)
	if err != nil || s.Kube.Selectors.Namespaces != "edge" {
		t.Fatalf("%+v, %v", s, err)
	}
	takes := s.takes()
	for _, c := range []struct {
		kind   string
		labels map[string]string
		want   bool
	}{
		{"Ingress", map[string]string{"team": "shop", "tier": "api"}, true},
		{"Ingress", map[string]string{"team": "shop", "tier": "db"}, false},
		{"Ingress", map[string]string{"team": "shop", "tier": "api", "internal": ""}, false},
		{"HTTPRoute", nil, false},
		{"KongConsumer", nil, false},
		{"KongPlugin", nil, true},
		{"Service", nil, true},
		{"KongVault", nil, true},
	} {
		o := translate.New(c.kind)
		o.Common().Labels = c.labels
		if takes(o) != c.want {
			t.Errorf("%s with %v: %v", c.kind, c.labels, !c.want)
		}
	}
	if all, err := readSettings("", nil, nil); err != nil || !all.takes()(translate.New("Ingress")) {
		t.Errorf("without a selector: %v", err)
	}
	_, err = readSettings("", []string{"KEYWAY_KUBE_NAMESPACES=shop", "KEYWAY_KUBE_NAMESPACE_SELECTOR=team=a"}, nil)
	if err == nil || !strings.Contains(err.Error(), `setting kube_namespace_selector (from KEYWAY_KUBE_NAMESPACE_SELECTOR): "team=a" stands beside kube_namespaces (from KEYWAY_KUBE_NAMESPACES); expected one of the two`) {
		t.Errorf("both: %v", err)
	}
}
