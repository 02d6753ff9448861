package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
	"github.com/keyway-edge/keyway/certs/ocsp"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
	"github.com/keyway-edge/keyway/secrets"
)

const day = 24 * time.Hour

// serving is a snapshot with one certificate for each leaf, named n0.test, n1.test and so on.
func serving(t *testing.T, now time.Time, leaves ...certtest.Leaf) *edge.Snapshot {
	t.Helper()
	ca := certtest.NewCA(t, "root")
	doc := &spec.Document{}
	for i, l := range leaves {
		id, name := fmt.Sprintf("00000000-0000-4000-8000-%012d", i), fmt.Sprintf("n%d.test", i)
		l.Names = []string{name}
		p := ca.Issue(l)
		doc.Certificates = append(doc.Certificates, &spec.Certificate{Meta: spec.Meta{ID: id}, Cert: spec.Secret{Value: p.Cert}, Key: spec.Secret{Value: p.Key}})
		doc.SNIs = append(doc.SNIs, &spec.SNI{Name: name, Certificate: id})
	}
	pools := upstream.NewPools(upstream.Settings{})
	t.Cleanup(pools.Close)
	b := &edge.Builder{Config: &edge.Config{}, Pools: pools, Env: policy.Env{}}
	s, _ := b.Build(nil, edge.Inputs{Document: doc, Now: now})
	return s
}

// about answers a value that a duration metric may show when it is read a moment later.
func about(t *testing.T, text, series string, want time.Duration) {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		t.Errorf("no series %s", series)
		return
	}
	var v float64
	if _, err := fmt.Sscan(m[1], &v); err != nil || v < want.Seconds()-5 || v > want.Seconds()+5 {
		t.Errorf("%s is %s, want about %g", series, m[1], want.Seconds())
	}
}

func TestCertificateMetrics(t *testing.T) {
	now := time.Now()
	s := serving(t, now,
		certtest.Leaf{NotBefore: now.Add(-300 * day), NotAfter: now.Add(20 * day)},                       // late, within 30 days
		certtest.Leaf{NotBefore: now.Add(-300 * day), NotAfter: now.Add(12 * time.Hour)},                 // late, within a day
		certtest.Leaf{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(23 * time.Hour)},                 // young, though it ends within a day
		certtest.Leaf{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(300 * day), KeyType: "rsa-2048"}, // far off
	)
	var n1 string
	s.Slots(func(_ string, slot *certs.Slot) bool {
		if slot.Name == "n1.test" {
			n1 = slot.Fingerprint()
		}
		return true
	})
	tel := newTelemetry(t, func(o *Options) {
		o.Current = func() *edge.Snapshot { return s }
		o.Staples = func() []ocsp.Status {
			return []ocsp.Status{
				{Fingerprint: n1, State: "good", ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(-time.Minute), Failures: 3},
				{Fingerprint: "x", Failures: 1, NextUpdate: now.Add(time.Hour)},
				{Fingerprint: "y", State: "revoked", NextUpdate: now.Add(time.Hour)},
			}
		}
		o.Issuers = func() []Issuer {
			return []Issuer{{Name: "public", Issued: 3, Failed: 2, Failing: 1, Next: now.Add(2 * time.Hour)}, {Name: "idle"}}
		}
		o.Keys = func() []KeyRing {
			return []KeyRing{{"tickets", certs.RingStatus{Keys: 2, Since: now.Add(-time.Hour), Next: now.Add(23 * time.Hour), Error: "away"}}}
		}
	})
	text := scrape(t, tel)
	id := func(i int) string {
		return fmt.Sprintf(`{id="00000000-0000-4000-8000-%012d",name="n%d.test",source="document"}`, i, i)
	}
	about(t, text, "keyway_certificate_expires_in_seconds"+id(0), 20*day)
	about(t, text, "keyway_certificate_expires_in_seconds"+id(1), 12*time.Hour)
	about(t, text, "keyway_certificate_lifetime_seconds"+id(0), 320*day)
	about(t, text, "keyway_certificate_age_seconds"+id(3), 0)
	about(t, text, "keyway_ocsp_staple_age_seconds"+id(1), time.Hour)
	about(t, text, `keyway_credentials_first_expiry_seconds{kind="certificate"}`, 12*time.Hour)
	about(t, text, `keyway_tls_key_age_seconds{use="tickets"}`, time.Hour)
	about(t, text, `keyway_tls_key_next_seconds{use="tickets"}`, 23*time.Hour)
	about(t, text, `keyway_issuer_next_order_seconds{issuer="public"}`, 2*time.Hour)
	if strings.Contains(text, `keyway_issuer_next_order_seconds{issuer="idle"}`) {
		t.Error("an issuer that nothing is wanted of has a next order")
	}
	wantLines(t, text,
		`keyway_issuer_orders_total{issuer="public",result="issued"} 3`, `keyway_issuer_orders_total{issuer="public",result="failed"} 2`,
		`keyway_issuer_orders_total{issuer="idle",result="issued"} 0`, `keyway_issuer_failing{issuer="public"} 1`,
		`keyway_certificates{state="active"} 4`, `keyway_certificates{state="expired"} 0`, `keyway_certificates{state="missing"} 0`, `keyway_certificates_refused 0`,
		`keyway_credentials_expiring{kind="certificate",within="30d"} 2`, `keyway_credentials_expiring{kind="certificate",within="7d"} 1`, `keyway_credentials_expiring{kind="certificate",within="1d"} 1`,
		`keyway_credential_versions{kind="certificate",state="active"} 4`, `keyway_credentials_on_trial{kind="certificate"} 0`,
		`keyway_ocsp_certificates{state="good"} 1`, `keyway_ocsp_certificates{state="revoked"} 1`, `keyway_ocsp_certificates{state="unknown"} 0`, `keyway_ocsp_certificates{state="none"} 1`,
		`keyway_ocsp_failing 2`, `keyway_ocsp_overdue 1`, `keyway_tls_keys{use="tickets"} 2`, `keyway_tls_keys_unshared{use="tickets"} 1`,
	)
	if n := strings.Count(text, "\nkeyway_certificate_not_after_seconds{"); n != 4 {
		t.Errorf("%d ends of certificates, want 4", n)
	}
}

// TestFewNamesHaveSeries: beyond the first hundred, names show in sums only.
func TestFewNamesHaveSeries(t *testing.T) {
	now := time.Now()
	leaves := make([]certtest.Leaf, named+20)
	for i := range leaves {
		leaves[i] = certtest.Leaf{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Duration(1000-i) * day)}
	}
	s := serving(t, now, leaves...)
	var list []*secrets.Credential
	for i := range named + 30 {
		r, err := secrets.ParseRef(fmt.Sprintf("{vault://v/s%d}", i))
		if err != nil {
			t.Fatal(err)
		}
		c := &secrets.Credential{Ref: r, Source: "v", State: secrets.Active, Modified: now, Fetched: now}
		if i >= 30 {
			c.NotAfter = now.Add(time.Duration(1000-i) * time.Minute)
		}
		list = append(list, c)
	}
	set := secrets.NewSet(1, list...)
	tel := newTelemetry(t, func(o *Options) {
		o.Current, o.Credentials = func() *edge.Snapshot { return s }, func() *secrets.Set { return set }
	})
	text := scrape(t, tel)
	for _, c := range []struct {
		series string
		want   int
	}{
		{"keyway_certificate_expires_in_seconds", named}, {"keyway_certificate_not_after_seconds", named}, {"keyway_secret_age_seconds", named}, {"keyway_secret_expires_in_seconds", named},
	} {
		if n := strings.Count(text, "\n"+c.series+"{"); n != c.want {
			t.Errorf("%d series of %s, want %d", n, c.series, c.want)
		}
	}
	// Those that end soonest are the ones that are named.
	for _, want := range []string{`expires_in_seconds{id="00000000-0000-4000-8000-000000000119"`, `keyway_secret_expires_in_seconds{name="{vault://v/s129}"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no series %s", want)
		}
	}
	if strings.Contains(text, `name="n0.test"`) {
		t.Error("the certificate that ends last has a series of its own")
	}
	wantLines(t, text, fmt.Sprintf(`keyway_certificates{state="active"} %d`, named+20), fmt.Sprintf(`keyway_credential_versions{kind="certificate",state="active"} %d`, named+20))
}

func TestSecretMetrics(t *testing.T) {
	now := time.Now()
	ref := func(text string) secrets.Ref {
		r, err := secrets.ParseRef(text)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	set := secrets.NewSet(1,
		&secrets.Credential{ // a lease near its end whose source fails
			Ref: ref("{vault://pg/creds/app/username}"), Source: "pg", State: secrets.Stale, Modified: now.Add(-50 * time.Minute), Fetched: now.Add(-20 * time.Minute),
			NextLook: now.Add(30 * time.Second), NotAfter: now.Add(10 * time.Minute), TTL: time.Hour, Renewable: true,
			History: []secrets.VersionFacts{{Version: 2, State: "active"}, {Version: 1, State: "retired"}},
		},
		&secrets.Credential{ // one that is well
			Ref: ref("{vault://pg/creds/other/username}"), Source: "pg", State: secrets.Active, NotAfter: now.Add(50 * time.Minute), TTL: time.Hour,
			Previous: []secrets.Old{{Version: 1, Until: now.Add(time.Minute)}, {Version: 0, Until: now.Add(-time.Minute)}},
			Trial:    secrets.NewTrial(now, secrets.TrialRule{Failures: 5}, nil),
		},
		&secrets.Credential{ // one whose renewal fails early
			Ref: ref("{vault://pg/creds/third/username}"), Source: "pg", State: secrets.Active, NotAfter: now.Add(55 * time.Minute), TTL: time.Hour, Remark: "renewal failed 3 times",
			Trial: secrets.NewTrial(now.Add(-time.Hour), secrets.TrialRule{Failures: 5}, nil),
		},
		&secrets.Credential{Ref: ref("{vault://env/key}"), Source: "env", State: secrets.Active, Pinned: 2, Modified: now.Add(-time.Hour), NotAfter: now.Add(5 * day)},
		&secrets.Credential{Ref: ref("{vault://env/none}"), Source: "env", State: secrets.Missing},
	)
	events := &Events{}
	events.Add(secrets.Event{Kind: "source", Result: "stale"}, false)
	events.Add(secrets.Event{Kind: "secret", Result: "rolled_back"}, true)
	events.Add(secrets.Event{Kind: "source", Result: "stale"}, false)
	var none *Events
	none.Add(secrets.Event{}, true)
	tel := newTelemetry(t, func(o *Options) {
		o.Credentials, o.Events = func() *secrets.Set { return set }, events
		o.Broker = func() secrets.Stats {
			return secrets.Stats{States: map[secrets.State]int{secrets.Active: 3, secrets.Stale: 1, secrets.Missing: 1}, Alarmed: 2, Sources: []secrets.SourceStats{
				{Name: "env", Fetches: 3, LastGood: now.Add(-time.Minute), Latency: 1500 * time.Millisecond},
				{
					Name: "pg", Fetches: 40, Failures: 9, Refused: 1, InFlight: 2, Renewals: 20, RenewalsFailed: 4, Revoked: 5, Latency: 4 * time.Second,
					Away: true, AwaySince: now.Add(-10 * time.Minute), NextProbe: now.Add(40 * time.Second), Parked: 3, LastError: "connection refused",
				},
			}}
		}
	})
	text := scrape(t, tel)
	lease, key := `{name="{vault://pg/creds/app/username}",source="pg"}`, `{name="{vault://env/key}",source="env"}`
	about(t, text, "keyway_secret_age_seconds"+lease, 50*time.Minute)
	about(t, text, "keyway_secret_confirmed_seconds"+lease, 20*time.Minute)
	about(t, text, "keyway_secret_next_look_seconds"+lease, 30*time.Second)
	about(t, text, "keyway_secret_expires_in_seconds"+lease, 10*time.Minute)
	about(t, text, "keyway_secret_expires_in_seconds"+key, 5*day)
	about(t, text, "keyway_lease_ttl_seconds"+lease, time.Hour)
	about(t, text, `keyway_credentials_first_expiry_seconds{kind="secret"}`, 10*time.Minute)
	about(t, text, `keyway_source_stale_seconds{source="env"}`, time.Minute)
	about(t, text, `keyway_source_away_seconds{source="pg"}`, 10*time.Minute)
	about(t, text, `keyway_source_next_probe_seconds{source="pg"}`, 40*time.Second)
	wantLines(t, text,
		`keyway_credentials{state="active"} 3`, `keyway_credentials{state="stale"} 1`, `keyway_credentials_alarmed 2`,
		`keyway_credentials_expiring{kind="secret",within="30d"} 1`, `keyway_credentials_expiring{kind="secret",within="7d"} 1`, `keyway_credentials_expiring{kind="secret",within="1d"} 0`,
		`keyway_credential_versions{kind="secret",state="active"} 1`, `keyway_credential_versions{kind="secret",state="retired"} 1`,
		`keyway_credentials_on_trial{kind="secret"} 1`, `keyway_credentials_pinned 1`, `keyway_credential_overlaps 1`,
		`keyway_leases 3`, `keyway_leases_failing 2`, `keyway_leases_at_risk 1`,
		`keyway_source_fetches_total{source="pg"} 40`, `keyway_source_failures_total{source="pg"} 9`, `keyway_source_refused_total{source="pg"} 1`,
		`keyway_source_renewals_total{result="renewed",source="pg"} 20`, `keyway_source_renewals_total{result="failed",source="pg"} 4`, `keyway_source_revoked_total{source="pg"} 5`,
		`keyway_source_look_seconds_sum{source="pg"} 4`, `keyway_source_look_seconds_count{source="pg"} 40`, `keyway_source_look_seconds_sum{source="env"} 1.5`,
		`keyway_source_in_flight{source="pg"} 2`, `keyway_source_away{source="pg"} 1`, `keyway_source_away{source="env"} 0`, `keyway_source_parked{source="pg"} 3`,
		`keyway_events_total{kind="source",result="stale"} 2`, `keyway_events_total{kind="secret",result="rolled_back"} 1`, `keyway_ledger_failures_total 1`,
	)
	if strings.Contains(text, `keyway_source_away_seconds{source="env"}`) || strings.Contains(text, `keyway_lease_ttl_seconds`+key) {
		t.Error("a series that has no meaning is there")
	}
}

// lines is a log that is read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// take answers what was written since it was asked last.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// TestEndIsSaidHourly is case C-16: the log names a certificate that ends soon once
// an hour, and the nearer the louder.
func TestEndIsSaidHourly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := serving(t, began,
			certtest.Leaf{NotBefore: began.Add(-300 * day), NotAfter: began.Add(31 * day)},
			certtest.Leaf{NotBefore: began.Add(-time.Hour), NotAfter: began.Add(400 * day)})
		var log lines
		tel := newTelemetry(t, func(o *Options) {
			o.Current = func() *edge.Snapshot { return s }
			o.Log = slog.New(slog.NewJSONHandler(&log, nil))
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- tel.Run(ctx) }()
		for _, step := range []struct {
			wait            time.Duration
			level, severity string
			lines           int
		}{
			{23 * time.Hour, "", "", 0},
			{4 * time.Hour, "WARN", "warning", 4},
			{24 * day, "ERROR", "error", 24},
			{6 * day, "ERROR", "critical", 24},
		} {
			// The lines of the step's last day at most.
			if d := step.wait - day; d > 0 {
				time.Sleep(d)
				step.wait = day
			}
			synctest.Wait()
			log.take()
			time.Sleep(step.wait)
			synctest.Wait()
			text := log.take()
			if n := strings.Count(text, "\n"); n < step.lines-1 || n > step.lines {
				t.Errorf("%d lines until %s, want about %d:\n%s", n, time.Since(began), step.lines, text)
			}
			if step.lines > 0 && (!strings.Contains(text, `"level":"`+step.level+`"`) || !strings.Contains(text, `"severity":"`+step.severity+`"`) || !strings.Contains(text, `"first":"n0.test"`)) {
				t.Errorf("after %s:\n%s", time.Since(began), text)
			}
		}
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
