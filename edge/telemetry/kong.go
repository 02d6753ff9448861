package telemetry

import (
	"crypto/tls"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyway-edge/keyway/policy"
)

func tlsName(v uint16) string { return tls.VersionName(v) }

// The bucket bounds of the kong_*_latency_ms families, in milliseconds.
var (
	kongBounds     = []float64{1, 2, 5, 7, 10, 15, 20, 30, 50, 75, 100, 200, 500, 750, 1000, 3000, 6000}
	upstreamBounds = []float64{25, 50, 80, 100, 250, 400, 700, 1000, 2000, 5000, 10000, 30000, 60000}
)

// kongFamilies are the families that the prometheus plugin fills, under the names
// that dashboards of this format read. Label sets are as many as routes, services,
// consumers and statuses there are.
type kongFamilies struct {
	requests  sync.Map // requestKey -> *atomic.Uint64
	latency   sync.Map // latencyKey -> *msHistogram
	bandwidth sync.Map // bandwidthKey -> *atomic.Int64
	upstreams atomic.Bool
}

type requestKey struct {
	service, route, source, consumer string
	code                             int
}

type latencyKey struct{ family, service, route string }

type bandwidthKey struct{ service, route, direction, consumer string }

type msHistogram struct {
	mu      sync.Mutex // guards the group below
	bounds  []float64
	buckets []uint64
	sum     float64
	count   uint64
}

func (h *msHistogram) observe(d time.Duration) {
	v := float64(d.Milliseconds())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sum += v
	h.count++
	for i, b := range h.bounds {
		if v <= b {
			h.buckets[i]++
			return
		}
	}
}

// ObservePlugin counts an exchange for the prometheus plugin.
func (t *Telemetry) ObservePlugin(c *policy.Context, o policy.Observe) {
	k := &t.kong
	service, route, consumer := "", "", ""
	if c.Service != nil {
		service = nameOr(c.Service.Name, c.Service.Host)
	}
	if c.Route != nil {
		route = nameOr(c.Route.Name, c.Route.ID)
	}
	if o.PerConsumer && c.Consumer != nil {
		consumer = nameOr(c.Consumer.Username, c.Consumer.ID)
	}
	if o.UpstreamHealth {
		k.upstreams.Store(true)
	}
	if c.Route == nil {
		return // as the format has it: requests that no route matched are not counted here
	}
	x := c.X
	if o.StatusCode {
		src := "kong"
		if x.Response.FromUpstream {
			src = "service"
		}
		counter(&k.requests, requestKey{service, route, src, consumer, x.Response.Status}).Add(1)
	}
	if o.Latency {
		k.observe(latencyKey{"kong_request_latency_ms", service, route}, upstreamBounds, x.Elapsed)
		own := x.Elapsed
		if !x.UpstreamHead.IsZero() {
			up := x.UpstreamHead.Sub(x.UpstreamStart)
			own -= up
			k.observe(latencyKey{"kong_upstream_latency_ms", service, route}, upstreamBounds, up)
		}
		k.observe(latencyKey{"kong_kong_latency_ms", service, route}, kongBounds, max(own, 0))
	}
	if o.Bandwidth {
		signed(&k.bandwidth, bandwidthKey{service, route, "ingress", consumer}).Add(x.BytesIn)
		signed(&k.bandwidth, bandwidthKey{service, route, "egress", consumer}).Add(x.BytesOut)
	}
}

func counter[K comparable](m *sync.Map, key K) *atomic.Uint64 {
	v, ok := m.Load(key)
	if !ok {
		v, _ = m.LoadOrStore(key, new(atomic.Uint64))
	}
	return v.(*atomic.Uint64)
}

func signed[K comparable](m *sync.Map, key K) *atomic.Int64 {
	v, ok := m.Load(key)
	if !ok {
		v, _ = m.LoadOrStore(key, new(atomic.Int64))
	}
	return v.(*atomic.Int64)
}

func (k *kongFamilies) observe(key latencyKey, bounds []float64, d time.Duration) {
	v, ok := k.latency.Load(key)
	if !ok {
		v, _ = k.latency.LoadOrStore(key, &msHistogram{bounds: bounds, buckets: make([]uint64, len(bounds))})
	}
	v.(*msHistogram).observe(d)
}

// collect writes the families out.
func (k *kongFamilies) collect(t *Telemetry, out chan<- prometheus.Metric) {
	emit(out, "kong_node_info", "Metadata of this node", prometheus.GaugeValue, 1, labels{"node_id", t.opts.NodeID, "version", t.opts.Version})
	emit(out, "kong_datastore_reachable", "Whether the datastore is reachable", prometheus.GaugeValue, 1, nil)
	k.requests.Range(func(key, v any) bool {
		q := key.(requestKey)
		emit(out, "kong_http_requests_total", "HTTP status codes per consumer, service and route", prometheus.CounterValue, float64(v.(*atomic.Uint64).Load()),
			labels{"service", q.service, "route", q.route, "code", strconv.Itoa(q.code), "source", q.source, "workspace", "default", "consumer", q.consumer})
		return true
	})
	k.bandwidth.Range(func(key, v any) bool {
		q := key.(bandwidthKey)
		emit(out, "kong_bandwidth_bytes", "Bytes of requests and responses", prometheus.CounterValue, float64(v.(*atomic.Int64).Load()),
			labels{"service", q.service, "route", q.route, "direction", q.direction, "workspace", "default", "consumer", q.consumer})
		return true
	})
	k.latency.Range(func(key, v any) bool {
		q, h := key.(latencyKey), v.(*msHistogram)
		h.mu.Lock()
		defer h.mu.Unlock()
		cumulative := make(map[float64]uint64, len(h.bounds))
		var n uint64
		for i, b := range h.bounds {
			n += h.buckets[i]
			cumulative[b] = n
		}
		desc := prometheus.NewDesc(q.family, "Latency in milliseconds", nil, prometheus.Labels{"service": q.service, "route": q.route, "workspace": "default"})
		out <- prometheus.MustNewConstHistogram(desc, h.count, h.sum, cumulative)
		return true
	})
	if k.upstreams.Load() {
		k.collectHealth(t, out)
	}
}

// collectHealth writes the state of every target of every upstream.
func (k *kongFamilies) collectHealth(t *Telemetry, out chan<- prometheus.Metric) {
	s := t.opts.Current()
	if s == nil {
		return
	}
	for _, h := range s.Upstreams.Health() {
		for _, state := range []string{"healthchecks_off", "healthy", "unhealthy", "dns_error"} {
			v := 0.0
			if string(h.State) == state {
				v = 1
			}
			emit(out, "kong_upstream_target_health", "Health of targets: 1 in the state of the label", prometheus.GaugeValue, v,
				labels{"upstream", h.Upstream, "target", h.Target, "address", h.Address, "state", state, "subsystem", "http"})
		}
	}
}
