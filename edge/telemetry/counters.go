package telemetry

import (
	"sync/atomic"
	"time"
)

// latencyBounds are the upper bounds of the latency histograms, in seconds.
var latencyBounds = [...]float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}

// histogram counts durations in fixed buckets. The zero value is ready.
type histogram struct {
	buckets [len(latencyBounds) + 1]atomic.Uint64
	nanos   atomic.Int64
}

func (h *histogram) observe(d time.Duration) {
	s := d.Seconds()
	i := 0
	for i < len(latencyBounds) && s > latencyBounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.nanos.Add(int64(d))
}

// read answers the count, the sum in seconds and the cumulative buckets.
func (h *histogram) read() (uint64, float64, map[float64]uint64) {
	cumulative := make(map[float64]uint64, len(latencyBounds))
	var n uint64
	for i := range latencyBounds {
		n += h.buckets[i].Load()
		cumulative[latencyBounds[i]] = n
	}
	n += h.buckets[len(latencyBounds)].Load()
	return n, time.Duration(h.nanos.Load()).Seconds(), cumulative
}

// source says who made a response.
type source int

const (
	bySource source = iota // the upstream
	byNode                 // this node
	sources
)

var sourceNames = [sources]string{"service", "keyway"}

// traffic is what the request path counts. The zero value is ready.
type traffic struct {
	responses [sources][6]atomic.Uint64 // by status class; 0 for no status
	broken    atomic.Uint64             // exchanges that did not reach their last byte
	latency   histogram                 // first byte in to last byte out
	upstream  histogram                 // first attempt to response head
	own       histogram                 // what is left
	bytesIn   atomic.Int64
	bytesOut  atomic.Int64
	retries   atomic.Uint64
}

// rotationKey labels keyway_credential_rotations_total.
type rotationKey struct{ kind, source, result string }
