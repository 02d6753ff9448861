package telemetry

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyway-edge/keyway/certs/ocsp"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// Options is what a Telemetry is made of.
type Options struct {
	Version, NodeID string
	Current         func() *edge.Snapshot // the snapshot in force, nil before the first
	Ledger          Ledger                // nil for none
	Broker          func() secrets.Stats  // nil for none
	Credentials     func() *secrets.Set   // what the broker knows now, nil for none
	Staples         func() []ocsp.Status  // nil for none
	Issuers         func() []Issuer       // that order certificates, nil for none
	Owned           func() []Owned        // certificates in use that cert-manager issues, nil for none
	Kube            func() *Kube          // of a cluster, nil for none
	Keys            func() []KeyRing      // of sessions and of Encrypted Client Hello, nil for none
	Events          *Events               // nil for none
	LastGood        func() LastGood       // nil for none
	Upgrades        func() Upgrades       // nil for none
	Listeners       func() Listeners      // that documents declare, nil for none
	Access          *AccessLog            // nil for off
	Overload        *edge.Overload        // nil for none
	Mirrors         *edge.Mirrors         // nil for none
	Log             *slog.Logger
}

// LastGood is how the last known good state on disk stands.
type LastGood struct {
	On       bool
	Written  time.Time // of the last good write, zero for none
	Bytes    int
	Failures uint64 // writes that failed
	Stale    bool   // the last write failed
}

// Ledger takes an event for each change.
type Ledger interface {
	Append(secrets.Event) error
}

// Telemetry observes a node. It implements the observers that edge declares and
// the recorder of the prometheus plugin.
type Telemetry struct {
	opts     Options
	registry *prometheus.Registry
	started  time.Time

	traffic traffic
	kong    kongFamilies
	streams streams

	open     sync.Map // endpoint name -> *connCount
	shakes   sync.Map // shake -> *atomic.Uint64
	refused  sync.Map // refusal -> *atomic.Uint64
	shakeDur histogram

	mu        sync.Mutex // guards the group below
	rotations map[rotationKey]uint64
	rejected  map[string]uint64 // by check
	builds    map[string]uint64 // by result
	buildLast time.Duration
	rotateDur map[string]*histogram // by kind
	told      map[string]bool       // problems of the last build

	ledgerFailed atomic.Uint64
}

type connCount struct{ open, total atomic.Int64 }

// refusal is a listener and why it refused a connection.
type refusal struct{ listener, reason string }

type shake struct{ result, version, group, cipher string }

// New makes a Telemetry.
func New(opts Options) *Telemetry {
	t := &Telemetry{
		opts: opts, registry: prometheus.NewRegistry(), started: time.Now(),
		rotations: map[rotationKey]uint64{}, rejected: map[string]uint64{}, builds: map[string]uint64{"clean": 0, "quarantined": 0, "failed": 0},
		rotateDur: map[string]*histogram{"certificate": {}, "secret": {}},
	}
	t.registry.MustRegister(&collector{t})
	return t
}

// Finished counts an exchange and logs it.
func (t *Telemetry) Finished(f *edge.Finished) {
	x := f.X
	src := byNode
	if x.Response.FromUpstream {
		src = bySource
	}
	class := x.Response.Status / 100
	if class < 0 || class > 5 {
		class = 0
	}
	t.traffic.responses[src][class].Add(1)
	if f.Err != nil {
		t.traffic.broken.Add(1)
	}
	t.traffic.latency.observe(x.Elapsed)
	own := x.Elapsed
	if !x.UpstreamStart.IsZero() && !x.UpstreamHead.IsZero() {
		up := x.UpstreamHead.Sub(x.UpstreamStart)
		t.traffic.upstream.observe(up)
		own -= up
	}
	t.traffic.own.observe(max(own, 0))
	t.traffic.bytesIn.Add(x.BytesIn)
	t.traffic.bytesOut.Add(x.BytesOut)
	if n := len(x.Attempts); n > 1 {
		t.traffic.retries.Add(uint64(n - 1))
	}
	if t.opts.Access != nil {
		t.opts.Access.write(f)
	}
}

func (t *Telemetry) endpoint(name string) *connCount {
	if c, ok := t.open.Load(name); ok {
		return c.(*connCount)
	}
	c, _ := t.open.LoadOrStore(name, new(connCount))
	return c.(*connCount)
}

// Opened counts an accepted connection in.
func (t *Telemetry) Opened(endpoint string) {
	c := t.endpoint(endpoint)
	c.open.Add(1)
	c.total.Add(1)
}

// Closed counts a connection out.
func (t *Telemetry) Closed(endpoint string) { t.endpoint(endpoint).open.Add(-1) }

// Handshake counts a TLS handshake by its result, version, key exchange group and
// cipher suite.
func (t *Telemetry) Handshake(_ string, state *tls.ConnectionState, took time.Duration, err error) {
	key := shake{result: handshakeResult(err)}
	if state != nil {
		key.version = tls.VersionName(state.Version)
		key.group = state.CurveID.String()
		key.cipher = tls.CipherSuiteName(state.CipherSuite)
		if state.DidResume {
			key.result = "resumed"
		}
		t.shakeDur.observe(took)
	}
	countIn(&t.shakes, key)
}

// Refused counts a connection that was closed before its first request.
func (t *Telemetry) Refused(endpoint, reason string) { countIn(&t.refused, refusal{endpoint, reason}) }

// countIn adds one under a key, of which there are few.
func countIn(m *sync.Map, key any) {
	n, ok := m.Load(key)
	if !ok {
		n, _ = m.LoadOrStore(key, new(atomic.Uint64))
	}
	n.(*atomic.Uint64).Add(1)
}

// handshakeResult sorts handshake errors into few classes, so that the label stays bounded.
func handshakeResult(err error) string {
	if err == nil {
		return "full"
	}
	var ne net.Error
	var record tls.RecordHeaderError
	var alert tls.AlertError
	text := err.Error()
	switch {
	case errors.As(err, &ne) && ne.Timeout():
		return "timeout"
	case errors.As(err, &record):
		return "not_tls"
	case errors.As(err, &alert):
		return "refused_by_client"
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed), strings.Contains(text, "connection reset"):
		return "closed_by_client"
	case strings.Contains(text, "no certificates configured"):
		return "unknown_name"
	case strings.Contains(text, "remote error"):
		return "refused_by_client"
	case strings.Contains(text, "client didn't provide a certificate"), strings.Contains(text, "failed to verify certificate"):
		return "client_certificate"
	case strings.Contains(text, "protocol version"):
		return "version"
	case strings.Contains(text, "cipher suite"), strings.Contains(text, "curve"):
		return "parameters"
	}
	return "failed"
}

// Built notes what a build changed: one ledger event, one log line and one count
// for each credential, and one for the documents.
func (t *Telemetry) Built(s *edge.Snapshot, r *edge.Report) {
	result := "clean"
	if len(s.Problems) > 0 {
		result = "quarantined"
	}
	now := time.Now()
	t.mu.Lock()
	t.builds[result]++
	t.buildLast = r.Took
	for _, x := range r.Rotations {
		t.rotations[rotationKey{x.Kind, x.Source, x.Result}]++
		if x.Check != "" {
			t.rejected[x.Check]++
		}
		if x.Result == "activated" && x.Old > 0 && !x.Modified.IsZero() {
			t.rotateDur[x.Kind].observe(now.Sub(x.Modified))
		}
	}
	t.mu.Unlock()
	for i := range r.Rotations {
		t.record(s, &r.Rotations[i])
	}
	if r.NewDoc {
		t.append(secrets.Event{Time: now, Kind: "document", Subject: "documents", Result: result, Reason: changes(r.Changes), Generation: s.Generation, Actor: "node"})
	}
	for _, p := range t.fresh(s.Problems) {
		t.opts.Log.Warn("object is quarantined or served with a remark", slog.String("entity", p.Entity), slog.String("name", p.Name), slog.String("id", p.ID), slog.String("field", p.Field), slog.String("reason", string(p.Reason)), slog.String("message", p.Message))
	}
}

// fresh are the problems that the build before did not have: a problem is told once, and
// not with each change of something else.
func (t *Telemetry) fresh(all spec.Problems) (list spec.Problems) {
	told := make(map[string]bool, len(all))
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range all {
		key := p.Entity + " " + p.ID + " " + p.Error()
		if told[key] = true; !t.told[key] {
			list = append(list, p)
		}
	}
	t.told = told
	return list
}

// BuildFailed counts documents that did not load.
func (t *Telemetry) BuildFailed() {
	t.mu.Lock()
	t.builds["failed"]++
	t.mu.Unlock()
}

func (t *Telemetry) record(s *edge.Snapshot, x *edge.Rotation) {
	say := t.opts.Log.Info
	if x.Result != "activated" {
		say = t.opts.Log.Warn
	}
	attrs := []any{
		slog.String("kind", x.Kind), slog.String("name", x.Name), slog.String("source", x.Source), slog.String("result", x.Result),
		slog.String("check", x.Check), slog.String("reason", x.Reason), slog.Int("old_version", x.Old), slog.Int("new_version", x.New),
		slog.String("fingerprint", x.NewFingerprint), slog.Uint64("generation", s.Generation),
	}
	if x.Serial != "" {
		attrs = append(attrs, slog.String("serial", x.Serial), slog.Time("not_after", x.NotAfter))
	}
	say("credential changed", attrs...)
	now := time.Now()
	t.append(secrets.Event{
		Time: now, Kind: x.Kind, Subject: x.Name, Source: x.Source, Result: x.Result, Check: x.Check, Reason: x.Reason,
		OldVersion: x.Old, NewVersion: x.New, OldFingerprint: x.OldFingerprint, NewFingerprint: x.NewFingerprint, Generation: s.Generation,
		Actor: cmp.Or(x.Actor, "node"), Origin: x.Origin, Took: x.Took(now),
	})
}

func (t *Telemetry) append(e secrets.Event) {
	if t.opts.Ledger == nil {
		return
	}
	if err := t.opts.Ledger.Append(e); err != nil {
		t.ledgerFailed.Add(1)
		t.opts.Log.Error("writing to the ledger failed", slog.Any("error", err))
	}
}

// changes says in words what of a document changed.
func changes(all spec.Changes) string {
	var b strings.Builder
	for _, c := range all {
		if len(c.Added)+len(c.Removed)+len(c.Changed) > 0 {
			fmt.Fprintf(&b, "%s: %d added, %d removed, %d changed; ", c.Kind, len(c.Added), len(c.Removed), len(c.Changed))
		}
	}
	return strings.TrimSuffix(b.String(), "; ")
}

// ledgerFailures is what the ledger itself counts, which knows of its syncs too, or
// what was met here.
func (t *Telemetry) ledgerFailures() uint64 {
	n := t.ledgerFailed.Load() + t.opts.Events.ledgerFailures()
	if l, ok := t.opts.Ledger.(interface{ Stats() secrets.LedgerStats }); ok {
		n = max(n, l.Stats().Failures)
	}
	return n
}
