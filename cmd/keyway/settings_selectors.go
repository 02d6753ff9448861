package main

import (
	"fmt"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/keyway-edge/keyway/routing/provide/kube"
	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
)

// selectorSettings are which of a cluster's objects a node takes, by their labels.
func selectorSettings() []setting {
	const form = "a selector of labels such as team=shop,tier in (web, api),!internal"
	return []setting{
		{key: "kube_label_selector", def: "", form: form, meaning: "which Ingresses, TCPIngresses, UDPIngresses, Gateways, ListenerSets, routes and KongConsumers are taken, by their labels, and with them what they name; all when empty", apply: labelSelector(func(s *kube.Selectors) *string { return &s.Labels })},
		{key: "kube_namespace_selector", def: "", form: form, meaning: "namespaces whose objects are served, by their labels as they are at the time, in place of kube_namespaces; all when empty", apply: labelSelector(func(s *kube.Selectors) *string { return &s.Namespaces })},
		{key: "kube_secret_selector", def: "", form: form, meaning: "which Secrets are taken, by their labels; others are as if they were not there, whoever names them; all when empty", apply: labelSelector(func(s *kube.Selectors) *string { return &s.Secrets })},
		{key: "kube_config_map_selector", def: "", form: form, meaning: "which ConfigMaps are taken, likewise", apply: labelSelector(func(s *kube.Selectors) *string { return &s.ConfigMaps })},
	}
}

// labelSelector reads a selector in the syntax of Kubernetes, all of it.
func labelSelector(at func(s *kube.Selectors) *string) func(*settings, string) error {
	return func(s *settings, v string) error {
		*at(&s.Kube.Selectors) = v
		if _, err := labels.Parse(v); err != nil {
			return fmt.Errorf("%q: %w", v, err)
		}
		return nil
	}
}

// takes says for the webhook whether the node takes an object, by its labels.
func (s *settings) takes() func(translate.Object) bool {
	selector, err := labels.Parse(s.Kube.Selectors.Labels)
	if err != nil { // which the settings were refused with
		selector = labels.Nothing()
	}
	return func(o translate.Object) bool {
		return !kube.Labelled(o.Kind()) || selector.Matches(labels.Set(o.Common().Labels))
	}
}

// agreeOnCluster checks what settings of a cluster say of each other.
func (s *settings) agreeOnCluster(values map[string]origined) []error {
	var errs []error
	if len(s.Kube.Admission) > 0 && !s.Kube.On {
		errs = append(errs, fmt.Errorf("setting admission_tls_listen (from %s): there is no cluster whose objects could be judged; expected off, or kubernetes on", values["admission_tls_listen"].from))
	}
	if s.Kube.Selectors.Namespaces != "" && len(s.Kube.Namespaces) > 0 {
		errs = append(errs, fmt.Errorf("setting kube_namespace_selector (from %s): %q stands beside kube_namespaces (from %s); expected one of the two, a selector of namespaces or their names", values["kube_namespace_selector"].from, s.Kube.Selectors.Namespaces, values["kube_namespaces"].from))
	}
	return errs
}
