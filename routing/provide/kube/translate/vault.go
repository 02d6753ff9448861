package translate

import (
	"maps"

	"github.com/keyway-edge/keyway/routing/spec"
)

// Declare says which vaults documents beside this one declare, and for whom.
func (s *State) Declare(vaults []*spec.Vault) {
	next := make(map[string]*spec.Vault, len(vaults))
	for _, v := range vaults {
		next[v.Prefix] = v
	}
	if !maps.Equal(s.vaults, next) {
		s.vaults = next
		s.touch(Ref{Kind: declaredVaults})
	}
}

// kongVault claims the prefix of a vault.
func (w *run) kongVault() {
	v, ok := w.subject.(*KongVault)
	if !ok || !w.ours(v.Annotations[classAnnotation]) {
		return
	}
	w.give(Ref{unitPrefix, "", v.Spec.Prefix}, claim{Object: RefOf(v), Created: v.CreationTimestamp})
}

// prefix makes the vault of the oldest claim of its prefix.
func (w *run) prefix() {
	best := w.first(w.collected(w.self), "spec.prefix", "the prefix "+w.self.Name)
	if best == nil {
		return
	}
	v, ok := w.look(best.Object.Kind, "", best.Object.Name).(*KongVault)
	if !ok {
		return
	}
	w.subject = v
	tags := append(w.tags(v), v.Spec.Tags...)
	values := map[string]any{"name": v.Spec.Backend, "prefix": v.Spec.Prefix, "tags": tags}
	if v.Spec.Description != "" {
		values["description"] = v.Spec.Description
	}
	if v.Spec.Config != nil {
		values["config"] = v.Spec.Config
	}
	w.compose(map[string][]any{"vaults": {values}}, map[string]string{"vaults.name": "spec.backend", "vaults.prefix": "spec.prefix", "vaults.config": "spec.config", "vaults.tags": "spec.tags"})
}
