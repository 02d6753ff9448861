package main

import (
	"cmp"
	"slices"
	"time"

	"github.com/keyway-edge/keyway/edge/telemetry"
	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
	kubecluster "github.com/keyway-edge/keyway/secrets/kube/cluster"
)

// kubeFacts is what metrics tell of the cluster, nil without one.
func (n *node) kubeFacts() *telemetry.Kube {
	if n.cluster == nil {
		return nil
	}
	f := n.cluster.objects.Facts()
	k := &telemetry.Kube{Documents: f.Documents, Translating: f.Translating, Written: f.Written, WriteFailures: f.WriteFailures, Leads: f.Leads}
	sources := f.Sources
	if n.owners != nil {
		sources = append(sources, n.owners.certs.Facts()...)
	}
	k.Kinds = kubeKinds(sources)
	for r, values := range f.Refused {
		k.Refused = append(k.Refused, telemetry.KubeRefused{Kind: r.Kind, Effect: string(r.Effect), Values: values})
	}
	return k
}

// kubeKinds adds up sources of one kind.
func kubeKinds(sources []kubecluster.Facts) []telemetry.KubeKind {
	var list []telemetry.KubeKind
	for _, s := range sources {
		kind := translate.Shown(s.Kind)
		if kind != s.Kind {
			kind += " (" + s.Kind + ")" // several sources have Secrets, by their labels
		}
		i := slices.IndexFunc(list, func(k telemetry.KubeKind) bool { return k.Kind == kind })
		if i < 0 {
			i, list = len(list), append(list, telemetry.KubeKind{Kind: kind, Synced: s.Synced})
		}
		k := &list[i]
		k.Objects += s.Objects
		k.Lists, k.ListFailures = k.Lists+s.Lists.Done, k.ListFailures+s.Lists.Failed
		k.Watches, k.WatchFailures = k.Watches+s.Watches.Done, k.WatchFailures+s.Watches.Failed
		if s.Synced.Before(k.Synced) {
			k.Synced = s.Synced
		}
		k.Failing = earlier(k.Failing, s.Failing)
	}
	slices.SortFunc(list, func(a, b telemetry.KubeKind) int { return cmp.Compare(a.Kind, b.Kind) })
	return list
}

// earlier is the earlier of two times, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
