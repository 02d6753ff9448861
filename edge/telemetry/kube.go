package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Kube is how a node stands with its cluster.
type Kube struct {
	Kinds         []KubeKind
	Documents     uint64        // made of what changed
	Translating   time.Duration // in all
	Refused       []KubeRefused
	Written       uint64 // statuses and events
	WriteFailures uint64
	Leads         bool // this replica writes
}

// KubeKind is how objects of a kind are followed. Of several namespaces times are those of
// the one that is worst off.
type KubeKind struct {
	Kind                   string
	Objects                int
	Synced                 time.Time // when the server last told something of them, zero for never
	Failing                time.Time // since when they cannot be followed, zero while they can
	Lists, ListFailures    uint64
	Watches, WatchFailures uint64
}

// KubeRefused is how many values of objects were refused.
type KubeRefused struct {
	Kind, Effect string
	Values       int
}

// kube samples what is known of the cluster.
func (c *collector) kube(out chan<- prometheus.Metric, now time.Time) {
	if c.t.opts.Kube == nil {
		return
	}
	k := c.t.opts.Kube()
	if k == nil {
		return
	}
	for i := range k.Kinds {
		x := &k.Kinds[i]
		l := labels{"kind", x.Kind}
		emit(out, "keyway_kube_objects", "Objects of a cluster that are followed", prometheus.GaugeValue, float64(x.Objects), l)
		if !x.Synced.IsZero() {
			emit(out, "keyway_kube_synced_seconds", "Time since the API server told something of them: a list, an event, a bookmark", prometheus.GaugeValue, now.Sub(x.Synced).Seconds(), l)
		}
		stale := 0.0
		if !x.Failing.IsZero() {
			stale = now.Sub(x.Failing).Seconds()
		}
		emit(out, "keyway_kube_stale_seconds", "Time since they cannot be followed, 0 while they can", prometheus.GaugeValue, stale, l)
		for _, o := range []struct {
			name, help string
			all, bad   uint64
		}{
			{"keyway_kube_lists_total", "Lists that were asked for, in pages", x.Lists, x.ListFailures},
			{"keyway_kube_watches_total", "Watches that were begun", x.Watches, x.WatchFailures},
		} {
			emit(out, o.name, o.help, prometheus.CounterValue, float64(o.all-o.bad), labels{"kind", x.Kind, "result", "ok"})
			emit(out, o.name, o.help, prometheus.CounterValue, float64(o.bad), labels{"kind", x.Kind, "result", "failed"})
		}
	}
	emitSummary(out, "keyway_kube_translation_seconds", "Making a document of what changed", k.Documents, k.Translating.Seconds(), nil)
	for _, r := range k.Refused {
		emit(out, "keyway_kube_refused", "Values of objects that are refused", prometheus.GaugeValue, float64(r.Values), labels{"kind", r.Kind, "effect", r.Effect})
	}
	const writes = "Statuses and events that were to be written"
	emit(out, "keyway_kube_writes_total", writes, prometheus.CounterValue, float64(k.Written), labels{"result", "ok"})
	emit(out, "keyway_kube_writes_total", writes, prometheus.CounterValue, float64(k.WriteFailures), labels{"result", "failed"})
	emit(out, "keyway_kube_leader", "1 while this replica writes statuses and events", prometheus.GaugeValue, one(k.Leads), nil)
}
