package telemetry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
	"github.com/keyway-edge/keyway/secrets"
)

// ledger keeps events, or fails.
type ledger struct {
	events []secrets.Event
	err    error
}

func (l *ledger) Append(e secrets.Event) error {
	if l.err == nil {
		l.events = append(l.events, e)
	}
	return l.err
}

// health is a Health.
type health struct {
	why      []string
	rejected []Problem
}

func (h health) NotReady() []string  { return h.why }
func (h health) Rejected() []Problem { return h.rejected }
func (h health) Remarks() []string   { return nil }

func snapshot(t *testing.T) *edge.Snapshot {
	t.Helper()
	doc, problems := spec.Load([]spec.Source{{Name: "t.yaml", Data: []byte("_format_version: \"3.0\"\nservices: [{name: s, host: up, routes: [{name: r, paths: [/]}]}]\nupstreams: [{name: up, targets: [{target: \"127.0.0.1:9\"}]}]\nconsumers: [{username: c}]\n")}}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	pools := upstream.NewPools(upstream.Settings{})
	t.Cleanup(pools.Close)
	b := &edge.Builder{Config: &edge.Config{}, Pools: pools, Env: policy.Env{}}
	s, _ := b.Build(nil, edge.Inputs{Document: doc, Now: time.Now()})
	return s
}

func newTelemetry(t *testing.T, change func(*Options)) *Telemetry {
	t.Helper()
	s := snapshot(t)
	o := Options{Version: "1.2", NodeID: "node", Current: func() *edge.Snapshot { return s }, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	return New(o)
}

// scrape answers the metrics as a scraper reads them.
func scrape(t *testing.T, tel *Telemetry) string {
	t.Helper()
	w := httptest.NewRecorder()
	tel.StatusHandler(health{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("/metrics answered %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	all := strings.Split(text, "\n")
	for _, l := range lines {
		if !slices.Contains(all, l) {
			name, _, _ := strings.Cut(l, "{")
			near := slices.DeleteFunc(slices.Clone(all), func(x string) bool { return !strings.HasPrefix(x, name) })
			t.Errorf("no line %q; there is\n%s", l, strings.Join(near, "\n"))
		}
	}
}

// finished is an exchange that was served.
func finished(s *edge.Snapshot, status int) *edge.Finished {
	began := time.Now()
	x := &exchange.Exchange{
		Conn: &exchange.Conn{Protocol: "HTTP/1.1", TLS: &tls.ConnectionState{Version: tls.VersionTLS13, ServerName: "a.test"}, CertSerial: "a.test@3"},
		Ctx:  context.Background(), RequestID: "0123", Start: began, Elapsed: 30 * time.Millisecond, UpstreamStart: began, UpstreamHead: began.Add(20 * time.Millisecond),
		Attempts: []exchange.Attempt{{Address: "127.0.0.1:8"}, {Address: "127.0.0.1:9", Status: status}}, BytesIn: 100, BytesOut: 200,
	}
	x.Request = exchange.Request{Method: "GET", Host: "a.test", Target: "/p?apikey=topsecret", Path: "/p", Query: "apikey=topsecret", HasQuery: true}
	x.Request.Fields.Add("apikey", "topsecret")
	x.Request.Fields.Add("Authorization", "Bearer topsecret")
	x.Response = exchange.Response{Status: status, FromUpstream: true}
	c := &policy.Context{
		X: x, Route: s.Document.Routes[0], Service: s.Document.Services[0], Consumer: s.Document.Consumers[0],
		Credential: &policy.Identity{Plugin: "key-auth", ID: "k1", Version: 4}, ClientIP: netip.MustParseAddr("192.0.2.7"),
	}
	return &edge.Finished{X: x, Context: c, Snapshot: s, Source: "service"}
}

func TestFinishedCounts(t *testing.T) {
	tel := newTelemetry(t, nil)
	s := tel.opts.Current()
	for _, status := range []int{200, 204, 404, 503, 0, 999} {
		tel.Finished(finished(s, status))
	}
	own := finished(s, 429)
	own.X.Response.FromUpstream, own.X.Attempts, own.Err = false, nil, errors.New("client gone")
	tel.Finished(own)
	wantLines(t, scrape(t, tel),
		`keyway_http_requests_total{code="2xx",source="service"} 2`, `keyway_http_requests_total{code="4xx",source="service"} 1`,
		`keyway_http_requests_total{code="5xx",source="service"} 1`, `keyway_http_requests_total{code="none",source="service"} 2`,
		`keyway_http_requests_total{code="4xx",source="keyway"} 1`, `keyway_http_broken_total 1`, `keyway_http_upstream_retries_total 6`,
		`keyway_http_bytes_total{direction="in"} 700`, `keyway_http_bytes_total{direction="out"} 1400`,
		`keyway_http_request_seconds_bucket{le="0.025"} 0`, `keyway_http_request_seconds_bucket{le="0.05"} 7`, `keyway_http_request_seconds_count 7`,
		`keyway_http_upstream_seconds_bucket{le="0.025"} 7`, `keyway_http_own_seconds_bucket{le="0.01"} 7`,
	)
}

func TestConnectionsAndHandshakes(t *testing.T) {
	tel := newTelemetry(t, nil)
	tel.Opened("proxy")
	tel.Opened("proxy")
	tel.Closed("proxy")
	tel.Refused("proxy", "max_connections")
	tel.Refused("proxy", "max_connections")
	state := &tls.ConnectionState{Version: tls.VersionTLS13, CurveID: tls.X25519, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	tel.Handshake("a.test", state, time.Millisecond, nil)
	resumed := *state
	resumed.DidResume = true
	tel.Handshake("a.test", &resumed, time.Millisecond, nil)
	// Whatever a client provokes, the label stays one of few.
	for i := range 50 {
		tel.Handshake("", nil, 0, errors.New("tls: strange thing number "+strings.Repeat("x", i)))
	}
	tel.Handshake("", nil, 0, io.EOF)
	tel.Handshake("", nil, 0, tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"})
	tel.Handshake("", nil, 0, errors.New("tls: client didn't provide a certificate"))
	text := scrape(t, tel)
	wantLines(t, text,
		`keyway_connections_open{listener="proxy"} 1`, `keyway_connections_total{listener="proxy"} 2`, `keyway_connections_refused_total{listener="proxy",reason="max_connections"} 2`,
		`keyway_tls_handshakes_total{cipher="TLS_AES_128_GCM_SHA256",group="X25519",result="full",version="TLS 1.3"} 1`, `keyway_tls_handshakes_total{cipher="TLS_AES_128_GCM_SHA256",group="X25519",result="resumed",version="TLS 1.3"} 1`,
		`keyway_tls_handshakes_total{cipher="",group="",result="failed",version=""} 50`, `keyway_tls_handshakes_total{cipher="",group="",result="closed_by_client",version=""} 1`,
		`keyway_tls_handshakes_total{cipher="",group="",result="not_tls",version=""} 1`, `keyway_tls_handshakes_total{cipher="",group="",result="client_certificate",version=""} 1`,
		`keyway_tls_handshake_seconds_count 2`,
	)
	if n := strings.Count(text, "keyway_tls_handshakes_total{"); n != 6 {
		t.Errorf("%d series of handshakes", n)
	}
}

func TestBuiltIsCountedLoggedAndKept(t *testing.T) {
	l := &ledger{}
	var log strings.Builder
	tel := newTelemetry(t, func(o *Options) { o.Ledger, o.Log = l, slog.New(slog.NewJSONHandler(&log, nil)) })
	s := tel.opts.Current()
	tel.Built(s, &edge.Report{Took: 20 * time.Millisecond, NewDoc: true, Changes: spec.Diff(nil, s.Document), Rotations: []edge.Rotation{
		{Kind: "certificate", Name: "a.test", Source: "document", Result: "activated", Old: 1, New: 2, OldFingerprint: "aa", NewFingerprint: "bb", Modified: time.Now().Add(-time.Second)},
		{Kind: "certificate", Name: "b.test", Source: "document", Result: "refused", Check: "key_mismatch", Reason: "the key is another's", Old: 1, New: 1},
		{Kind: "secret", Name: "{vault://env/x}", Source: "env", Result: "activated", New: 1, Modified: time.Now()},
	}})
	tel.BuildFailed()
	wantLines(t, scrape(t, tel),
		`keyway_credential_rotations_total{kind="certificate",result="activated",source="document"} 1`, `keyway_credential_rotations_total{kind="secret",result="activated",source="env"} 1`,
		`keyway_credential_rejected_total{check="key_mismatch"} 1`, `keyway_snapshot_builds_total{result="clean"} 1`, `keyway_snapshot_builds_total{result="failed"} 1`,
		`keyway_credential_rotation_seconds_count{kind="certificate"} 1`, `keyway_credential_rotation_seconds_count{kind="secret"} 0`,
		`keyway_snapshot_generation 1`, `keyway_snapshot_build_seconds 0.02`, `keyway_ledger_failures_total 0`,
	)
	if len(l.events) != 4 {
		t.Fatalf("%d events in the ledger, want one for each change and one for the documents", len(l.events))
	}
	if e := l.events[0]; e.OldFingerprint != "aa" || e.NewFingerprint != "bb" || e.NewVersion != 2 || e.Generation != 1 || e.Time.IsZero() {
		t.Errorf("event %+v", e)
	}
	if e := l.events[3]; e.Kind != "document" || !strings.Contains(e.Reason, "services: 1 added, 0 removed, 0 changed") {
		t.Errorf("event %+v", e)
	}
	if n := strings.Count(log.String(), `"level":"WARN"`); n != 1 || !strings.Contains(log.String(), `"check":"key_mismatch"`) {
		t.Errorf("a refusal, and nothing else, is a warning:\n%s", log.String())
	}
	l.err = errors.New("disk full")
	tel.Built(s, &edge.Report{NewDoc: true})
	wantLines(t, scrape(t, tel), `keyway_ledger_failures_total 1`)
}

func TestPrometheusPluginFamilies(t *testing.T) {
	tel := newTelemetry(t, nil)
	f := finished(tel.opts.Current(), 200)
	all := policy.Observe{PerConsumer: true, StatusCode: true, Latency: true, Bandwidth: true, UpstreamHealth: true}
	tel.ObservePlugin(f.Context, all)
	all.PerConsumer = false
	tel.ObservePlugin(f.Context, all)
	nowhere := *f.Context
	nowhere.Route = nil
	tel.ObservePlugin(&nowhere, all)
	wantLines(t, scrape(t, tel),
		`kong_http_requests_total{code="200",consumer="c",route="r",service="s",source="service",workspace="default"} 1`,
		`kong_http_requests_total{code="200",consumer="",route="r",service="s",source="service",workspace="default"} 1`,
		`kong_bandwidth_bytes{consumer="c",direction="ingress",route="r",service="s",workspace="default"} 100`,
		`kong_request_latency_ms_bucket{route="r",service="s",workspace="default",le="25"} 0`, `kong_request_latency_ms_bucket{route="r",service="s",workspace="default",le="50"} 2`,
		`kong_upstream_latency_ms_sum{route="r",service="s",workspace="default"} 40`, `kong_kong_latency_ms_count{route="r",service="s",workspace="default"} 2`,
		`kong_upstream_target_health{address="127.0.0.1:9",state="healthchecks_off",subsystem="http",target="127.0.0.1:9",upstream="up"} 1`,
		`keyway_upstream_target_healthy{target="127.0.0.1:9",upstream="up"} 1`,
		`keyway_upstream_ejections_total{by="traffic",upstream="up"} 0`, `keyway_upstream_refused_total{reason="retry_budget",upstream="up"} 0`,
	)
}

// TestLawMetricNames holds every name to snake case and a prefix of this product
// or of the format.
func TestLawMetricNames(t *testing.T) {
	tel := newTelemetry(t, func(o *Options) {
		o.Broker = func() secrets.Stats {
			return secrets.Stats{States: map[secrets.State]int{secrets.Active: 1}, Sources: []secrets.SourceStats{{Name: "env", Fetches: 1, LastGood: time.Now()}}}
		}
	})
	f := finished(tel.opts.Current(), 200)
	tel.Finished(f)
	tel.ObservePlugin(f.Context, policy.Observe{PerConsumer: true, StatusCode: true, Latency: true, Bandwidth: true, UpstreamHealth: true})
	tel.Handshake("", nil, 0, io.EOF)
	tel.Opened("proxy")
	tel.Refused("proxy", "max_connections")
	tel.Built(tel.opts.Current(), &edge.Report{Rotations: []edge.Rotation{{Kind: "secret", Result: "refused", Check: "parse"}}})
	families, err := tel.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`^(keyway|kong)(_[a-z0-9]+)+$`)
	label := regexp.MustCompile(`^[a-z]+(_[a-z0-9]+)*$`)
	for _, fam := range families {
		if !name.MatchString(fam.GetName()) || fam.GetHelp() == "" {
			t.Errorf("family %q, help %q", fam.GetName(), fam.GetHelp())
		}
		for _, m := range fam.GetMetric() {
			for _, l := range m.GetLabel() {
				if !label.MatchString(l.GetName()) {
					t.Errorf("%s: label %q", fam.GetName(), l.GetName())
				}
			}
			if counter := m.GetCounter() != nil; counter != strings.HasSuffix(fam.GetName(), "_total") && fam.GetName() != "kong_bandwidth_bytes" {
				t.Errorf("%s: exactly counters end in _total", fam.GetName())
			}
		}
	}
	if len(families) < 30 {
		t.Errorf("only %d families were looked at", len(families))
	}
}

func TestStatus(t *testing.T) {
	tel := newTelemetry(t, nil)
	ask := func(tel *Telemetry, h Health, path string) (int, map[string]any) {
		t.Helper()
		w := httptest.NewRecorder()
		tel.StatusHandler(h).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		var v map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
			t.Fatalf("%s: %q: %v", path, w.Body, err)
		}
		return w.Code, v
	}
	code, v := ask(tel, health{}, "/status")
	counts, _ := v["counts"].(map[string]any)
	if code != 200 || v["ready"] != true || v["version"] != "1.2" || v["generation"] != 1.0 || counts["services"] != 1.0 || counts["consumers"] != 1.0 {
		t.Errorf("%d %v", code, v)
	}
	if list, ok := v["problems"].([]any); !ok || len(list) != 0 {
		t.Errorf("problems must be an empty list, not %v", v["problems"])
	}
	code, v = ask(tel, health{why: []string{"draining"}, rejected: []Problem{ProblemOf(&spec.Problem{Pos: spec.Pos{File: "a.yaml", Line: 3}, Entity: "routes", Reason: spec.ReasonValue, Message: "m"})}}, "/status")
	problem := v["problems"].([]any)[0].(map[string]any)
	if code != 200 || v["ready"] != false || problem["where"] != "a.yaml:3" || problem["reason"] != "value" {
		t.Errorf("%d %v", code, v)
	}
	if code, v = ask(tel, health{}, "/status/ready"); code != 200 || v["message"] != "ready" {
		t.Errorf("%d %v", code, v)
	}
	if code, v = ask(tel, health{why: []string{"first reason", "second"}}, "/status/ready"); code != 503 || v["message"] != "first reason" || len(v["reasons"].([]any)) != 2 {
		t.Errorf("%d %v", code, v)
	}
	if code, v = ask(tel, health{why: []string{"first reason"}}, "/status/live"); code != 200 || v["message"] != "alive" {
		t.Errorf("a node that is not ready lives: %d %v", code, v)
	}
	if code, _ = ask(tel, health{}, "/other"); code != 404 {
		t.Errorf("an unknown path answered %d", code)
	}
	early := newTelemetry(t, func(o *Options) { o.Current = func() *edge.Snapshot { return nil } })
	if code, v = ask(early, health{why: []string{"no configuration"}}, "/status"); code != 200 || v["generation"] != 0.0 {
		t.Errorf("before the first snapshot: %d %v", code, v)
	}
	scrape(t, early)
}
