package telemetry

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyway-edge/keyway/edge"
)

// streams is what is counted of streams. The zero value is ready.
type streams struct {
	ended sync.Map // streamResult -> *atomic.Uint64
	open  sync.Map // protocol -> *streamCount
}

type streamResult struct{ protocol, result string }

// streamCount is one protocol's.
type streamCount struct{ open, in, out atomic.Int64 }

func (s *streams) of(protocol string) *streamCount {
	if c, ok := s.open.Load(protocol); ok {
		return c.(*streamCount)
	}
	c, _ := s.open.LoadOrStore(protocol, new(streamCount))
	return c.(*streamCount)
}

// StreamOpened counts a stream in.
func (t *Telemetry) StreamOpened(protocol string) { t.streams.of(protocol).open.Add(1) }

// StreamCarried counts bytes from clients and to them.
func (t *Telemetry) StreamCarried(protocol string, in, out int64) {
	c := t.streams.of(protocol)
	c.in.Add(in)
	c.out.Add(out)
}

// StreamClosed counts a stream out and logs it. Datagrams that began no session are
// counted alone: whoever forges their senders would write the log.
func (t *Telemetry) StreamClosed(ctx context.Context, end *edge.StreamEnd) {
	if end.Opened {
		t.streams.of(end.Protocol).open.Add(-1)
	}
	countIn(&t.streams.ended, streamResult{end.Protocol, end.Result})
	if t.opts.Access != nil && (end.Opened || end.Protocol != "udp") {
		t.opts.Access.stream(ctx, end)
	}
}

// stream logs one stream. Those that did not end by themselves are always logged.
func (a *AccessLog) stream(ctx context.Context, end *edge.StreamEnd) {
	if a.sample < 1 && end.Err == nil && rand.Float64() >= a.sample {
		return
	}
	attrs := make([]slog.Attr, 0, 20)
	attrs = append(attrs,
		slog.String("client", end.Client.String()),
		slog.String("listener", end.Listener),
		slog.String("local", end.Local.String()),
		slog.String("protocol", end.Protocol),
		slog.String("result", end.Result),
		slog.Int64("bytes_in", end.In),
		slog.Int64("bytes_out", end.Out),
		ms("total_ms", end.Took),
	)
	if end.ServerName != "" {
		attrs = append(attrs, slog.String("sni", end.ServerName))
	}
	if end.Certificate != "" {
		attrs = append(attrs, slog.String("certificate", end.Certificate))
	}
	if end.Route != nil {
		attrs = append(attrs, slog.String("route", nameOr(end.Route.Name, end.Route.ID)))
	}
	if end.Service != nil {
		attrs = append(attrs, slog.String("service", nameOr(end.Service.Name, end.Service.ID)))
	}
	if end.Upstream != "" {
		attrs = append(attrs, slog.String("upstream", end.Upstream), slog.Int("tries", end.Tries))
	}
	attrs = append(attrs, slog.Uint64("generation", end.Generation))
	if end.Err != nil {
		attrs = append(attrs, slog.String("reason", end.Err.Error()))
	}
	a.log.LogAttrs(ctx, slog.LevelInfo, "stream", attrs...)
}

func (c *collector) streams(out chan<- prometheus.Metric) {
	s := &c.t.streams
	s.open.Range(func(key, v any) bool {
		protocol, n := key.(string), v.(*streamCount)
		emit(out, "keyway_stream_sessions_open", "Streams now", prometheus.GaugeValue, float64(n.open.Load()), labels{"protocol", protocol})
		emit(out, "keyway_stream_bytes_total", "Bytes of streams", prometheus.CounterValue, float64(n.in.Load()), labels{"protocol", protocol, "direction", "in"})
		emit(out, "keyway_stream_bytes_total", "Bytes of streams", prometheus.CounterValue, float64(n.out.Load()), labels{"protocol", protocol, "direction", "out"})
		return true
	})
	s.ended.Range(func(key, v any) bool {
		r := key.(streamResult)
		emit(out, "keyway_stream_sessions_total", "Streams that ended, by how", prometheus.CounterValue, float64(v.(*atomic.Uint64).Load()), labels{"protocol", r.protocol, "result", r.result})
		return true
	})
}

// Listeners is how those stand that documents declare.
type Listeners struct {
	States   []edge.ListenerState
	Failures uint64 // times that one could not be opened
}

// listeners samples the listeners that documents declare.
func (c *collector) listeners(out chan<- prometheus.Metric) {
	if c.t.opts.Listeners == nil {
		return
	}
	l := c.t.opts.Listeners()
	counts := map[string]int{"open": 0, "failing": 0, "settings": 0}
	for _, st := range l.States {
		counts[st.State]++
	}
	for state, n := range counts {
		emit(out, "keyway_listeners", "Listeners that documents declare, by state", prometheus.GaugeValue, float64(n), labels{"state", state})
	}
	emit(out, "keyway_listener_failures_total", "Times that a listener of documents could not be opened", prometheus.CounterValue, float64(l.Failures), nil)
}
