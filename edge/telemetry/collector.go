package telemetry

import (
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/routing/upstream"
)

// labels are pairs of name and value.
type labels []string

// emit sends one sample.
func emit(out chan<- prometheus.Metric, name, help string, kind prometheus.ValueType, v float64, l labels) {
	m := make(prometheus.Labels, len(l)/2)
	for i := 0; i+1 < len(l); i += 2 {
		m[l[i]] = l[i+1]
	}
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, nil, m), kind, v)
}

func emitHistogram(out chan<- prometheus.Metric, name, help string, h *histogram, l labels) {
	m := make(prometheus.Labels, len(l)/2)
	for i := 0; i+1 < len(l); i += 2 {
		m[l[i]] = l[i+1]
	}
	n, sum, buckets := h.read()
	out <- prometheus.MustNewConstHistogram(prometheus.NewDesc(name, help, nil, m), n, sum, buckets)
}

// emitSummary sends a count and a sum.
func emitSummary(out chan<- prometheus.Metric, name, help string, n uint64, sum float64, l labels) {
	m := make(prometheus.Labels, len(l)/2)
	for i := 0; i+1 < len(l); i += 2 {
		m[l[i]] = l[i+1]
	}
	out <- prometheus.MustNewConstSummary(prometheus.NewDesc(name, help, nil, m), n, sum, nil)
}

// collector samples a node when it is scraped.
type collector struct{ t *Telemetry }

// Describe sends nothing: the families depend on what there is to tell.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// broker samples what the broker knows of its credentials and sources.
func (c *collector) broker(out chan<- prometheus.Metric) {
	if c.t.opts.Broker == nil {
		return
	}
	st := c.t.opts.Broker()
	for state, n := range st.States {
		emit(out, "keyway_credentials", "Credentials by state", prometheus.GaugeValue, float64(n), labels{"state", string(state)})
	}
	emit(out, "keyway_credentials_alarmed", "Credentials that their source has not confirmed for an hour, or that are closed", prometheus.GaugeValue, float64(st.Alarmed), nil)
	c.sources(out, st.Sources, time.Now())
}

// lastGood samples the last known good state on disk.
func (c *collector) lastGood(out chan<- prometheus.Metric) {
	if c.t.opts.LastGood == nil {
		return
	}
	g := c.t.opts.LastGood()
	if !g.On {
		return
	}
	if !g.Written.IsZero() {
		emit(out, "keyway_last_good_age_seconds", "Time since the last known good state was written", prometheus.GaugeValue, time.Since(g.Written).Seconds(), nil)
	}
	emit(out, "keyway_last_good_stale", "1 while the last known good state cannot be written", prometheus.GaugeValue, one(g.Stale), nil)
	emit(out, "keyway_last_good_bytes", "Size of the last known good state", prometheus.GaugeValue, float64(g.Bytes), nil)
	emit(out, "keyway_last_good_write_failures_total", "Writes of the last known good state that failed", prometheus.CounterValue, float64(g.Failures), nil)
}

// Collect sends every sample.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	t := c.t
	c.traffic(out)
	c.connections(out)
	c.streams(out)
	c.credentials(out)
	c.broker(out)
	c.slots(out, time.Now())
	c.secrets(out, time.Now())
	c.issuers(out, time.Now())
	c.owned(out, time.Now())
	c.kube(out, time.Now())
	c.keys(out, time.Now())
	c.events(out)
	c.lastGood(out)
	c.upgrades(out)
	c.listeners(out)
	c.snapshot(out)
	t.kong.collect(t, out)
	emit(out, "keyway_process_start_time_seconds", "When this process started", prometheus.GaugeValue, float64(t.started.Unix()), nil)
	emit(out, "keyway_goroutines", "Goroutines", prometheus.GaugeValue, float64(runtime.NumGoroutine()), nil)
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	emit(out, "keyway_heap_bytes", "Bytes of live and not yet collected heap objects", prometheus.GaugeValue, float64(mem.HeapAlloc), nil)
	emit(out, "keyway_build_info", "Version of this node", prometheus.GaugeValue, 1, labels{"version", t.opts.Version, "go", runtime.Version()})
}

func (c *collector) traffic(out chan<- prometheus.Metric) {
	tr := &c.t.traffic
	for s := range sources {
		for class := range tr.responses[s] {
			n := tr.responses[s][class].Load()
			if n == 0 && class != 2 {
				continue
			}
			code := "none"
			if class > 0 {
				code = strconv.Itoa(class) + "xx"
			}
			emit(out, "keyway_http_requests_total", "Requests by class of status and who answered", prometheus.CounterValue, float64(n), labels{"code", code, "source", sourceNames[s]})
		}
	}
	emit(out, "keyway_http_broken_total", "Exchanges that ended before their last byte", prometheus.CounterValue, float64(tr.broken.Load()), nil)
	emit(out, "keyway_http_upstream_retries_total", "Further tries at upstream targets", prometheus.CounterValue, float64(tr.retries.Load()), nil)
	emit(out, "keyway_http_bytes_total", "Bytes of heads and bodies", prometheus.CounterValue, float64(tr.bytesIn.Load()), labels{"direction", "in"})
	emit(out, "keyway_http_bytes_total", "Bytes of heads and bodies", prometheus.CounterValue, float64(tr.bytesOut.Load()), labels{"direction", "out"})
	emitHistogram(out, "keyway_http_request_seconds", "First byte in to last byte out", &tr.latency, nil)
	emitHistogram(out, "keyway_http_upstream_seconds", "First upstream attempt to response head", &tr.upstream, nil)
	emitHistogram(out, "keyway_http_own_seconds", "Time of requests not spent waiting for upstreams", &tr.own, nil)
}

func (c *collector) connections(out chan<- prometheus.Metric) {
	c.t.open.Range(func(name, v any) bool {
		n := v.(*connCount)
		emit(out, "keyway_connections_open", "Client connections now", prometheus.GaugeValue, float64(n.open.Load()), labels{"listener", name.(string)})
		emit(out, "keyway_connections_total", "Client connections accepted", prometheus.CounterValue, float64(n.total.Load()), labels{"listener", name.(string)})
		return true
	})
	c.t.refused.Range(func(key, v any) bool {
		r := key.(refusal)
		emit(out, "keyway_connections_refused_total", "Client connections closed before their first request", prometheus.CounterValue, float64(v.(*atomic.Uint64).Load()), labels{"listener", r.listener, "reason", r.reason})
		return true
	})
	if o := c.t.opts.Overload; o != nil {
		for reason, n := range o.Shed() {
			emit(out, "keyway_requests_refused_total", "Requests answered 503 because there was no room for them", prometheus.CounterValue, float64(n), labels{"reason", reason})
		}
		if o.Memory > 0 {
			emit(out, "keyway_memory_limit_bytes", "Memory that the process may take", prometheus.GaugeValue, float64(o.Memory), nil)
		}
	}
	if m := c.t.opts.Mirrors; m != nil {
		for result, n := range m.Results() {
			emit(out, "keyway_requests_mirrored_total", "Copies of requests that were sent to mirrors, or would have been", prometheus.CounterValue, float64(n), labels{"result", result})
		}
	}
	open, most := edge.Descriptors()
	if open > 0 {
		emit(out, "keyway_descriptors_open", "Descriptors of files and connections that are open", prometheus.GaugeValue, float64(open), nil)
	}
	if most > 0 {
		emit(out, "keyway_descriptors_limit", "Descriptors that may be open", prometheus.GaugeValue, float64(most), nil)
	}
	c.t.shakes.Range(func(key, v any) bool {
		s := key.(shake)
		emit(out, "keyway_tls_handshakes_total", "TLS handshakes by result, version, key exchange group and cipher suite", prometheus.CounterValue, float64(v.(*atomic.Uint64).Load()), labels{"result", s.result, "version", s.version, "group", s.group, "cipher", s.cipher})
		return true
	})
	emitHistogram(out, "keyway_tls_handshake_seconds", "Duration of TLS handshakes that succeeded", &c.t.shakeDur, nil)
}

func (c *collector) credentials(out chan<- prometheus.Metric) {
	t := c.t
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, n := range t.rotations {
		emit(out, "keyway_credential_rotations_total", "Changes of credentials", prometheus.CounterValue, float64(n), labels{"kind", k.kind, "source", k.source, "result", k.result})
	}
	for check, n := range t.rejected {
		emit(out, "keyway_credential_rejected_total", "New versions of credentials that were refused", prometheus.CounterValue, float64(n), labels{"check", check})
	}
	for kind, h := range t.rotateDur {
		emitHistogram(out, "keyway_credential_rotation_seconds", "Change in the source to serving", h, labels{"kind", kind})
	}
	for result, n := range t.builds {
		emit(out, "keyway_snapshot_builds_total", "Snapshot builds", prometheus.CounterValue, float64(n), labels{"result", result})
	}
	emit(out, "keyway_snapshot_build_seconds", "Duration of the last snapshot build", prometheus.GaugeValue, t.buildLast.Seconds(), nil)
	emit(out, "keyway_ledger_failures_total", "Events that could not be written to the ledger", prometheus.CounterValue, float64(t.ledgerFailures()), nil)
}

func (c *collector) snapshot(out chan<- prometheus.Metric) {
	s := c.t.opts.Current()
	if s == nil {
		return
	}
	emit(out, "keyway_snapshot_generation", "Generation of the snapshot in force", prometheus.GaugeValue, float64(s.Generation), nil)
	emit(out, "keyway_snapshot_problems", "Objects quarantined or served with a remark", prometheus.GaugeValue, float64(len(s.Problems)), nil)
	emit(out, "keyway_snapshot_age_seconds", "Age of the snapshot in force", prometheus.GaugeValue, time.Since(s.Built).Seconds(), nil)
	c.upstreams(out, s.Upstreams)
}

// upstreams writes the health of targets, which may have several addresses, and what
// happened to them.
func (c *collector) upstreams(out chan<- prometheus.Metric, set *upstream.Set) {
	type target struct{ upstream, name string }
	var order []target
	up := map[target]float64{}
	for _, h := range set.Health() {
		t := target{h.Upstream, h.Target}
		if _, known := up[t]; !known {
			order = append(order, t)
			up[t] = 0
		}
		if h.State == upstream.Healthy || h.State == upstream.Unchecked {
			up[t] = 1
		}
	}
	for _, t := range order {
		emit(out, "keyway_upstream_target_healthy", "Whether a target is given traffic", prometheus.GaugeValue, up[t], labels{"upstream", t.upstream, "target", t.name})
	}
	for _, t := range set.Tallies() {
		for by, n := range t.Ejections {
			emit(out, "keyway_upstream_ejections_total", "Targets taken out, by what", prometheus.CounterValue, float64(n), labels{"upstream", t.Upstream, "by", by})
		}
		for reason, n := range t.Refused {
			emit(out, "keyway_upstream_refused_total", "Tries that a limit of the upstream forbade", prometheus.CounterValue, float64(n), labels{"upstream", t.Upstream, "reason", reason})
		}
	}
}
