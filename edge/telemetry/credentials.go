package telemetry

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/ocsp"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// named is how many certificates and how many secrets have series of their own: those
// that end soonest. The others show in the sums only, so that the number of series
// does not grow with the number of names.
const named = 100

// kinds of credentials, as the label kind has them.
const (
	kindCertificate = "certificate"
	kindSecret      = "secret"
)

// horizon is one distance from a certificate's end that somebody should know of.
type horizon struct {
	name   string
	before time.Duration
}

func horizons() []horizon {
	const day = 24 * time.Hour
	return []horizon{{"30d", 30 * day}, {"7d", 7 * day}, {"1d", day}}
}

// slotFacts is what metrics tell of one certificate.
type slotFacts struct {
	id     string
	slot   *certs.Slot
	end    time.Time     // of the pair in use that ends first
	life   time.Duration // of that pair
	end1st *certs.Bundle
}

func (f *slotFacts) left(now time.Time) time.Duration { return f.end.Sub(now) }

// late says that the successor should have come: less than 30 % of the life is left.
// Without that rule a certificate that lives for a day would be late all its life.
func (f *slotFacts) late(now time.Time) bool { return f.left(now) < f.life*3/10 }

// within says that a certificate is late and ends within d.
func (f *slotFacts) within(d time.Duration, now time.Time) bool {
	return f.left(now) <= d && f.late(now)
}

// certificates lists what serves, those that are late first, and then by their ends.
func (t *Telemetry) certificates(now time.Time) []slotFacts {
	s := t.opts.Current()
	if s == nil {
		return nil
	}
	var all []slotFacts
	s.Slots(func(id string, slot *certs.Slot) bool {
		f := slotFacts{id: id, slot: slot}
		for _, b := range slot.Active {
			if f.end1st == nil || b.NotAfter.Before(f.end) {
				f.end, f.life, f.end1st = b.NotAfter, b.NotAfter.Sub(b.NotBefore), b
			}
		}
		all = append(all, f)
		return true
	})
	order := func(f *slotFacts) int {
		switch {
		case f.end1st == nil:
			return 2
		case f.late(now):
			return 0
		}
		return 1
	}
	slices.SortStableFunc(all, func(a, b slotFacts) int {
		return cmp.Or(cmp.Compare(order(&a), order(&b)), a.end.Compare(b.end))
	})
	return all
}

// slots samples the certificates.
func (c *collector) slots(out chan<- prometheus.Metric, now time.Time) {
	all := c.t.certificates(now)
	staples := c.staples(out, now)
	states := map[certs.VersionState]int{certs.VersionActive: 0}
	expiring := make(map[string]int, 3)
	trials, first := 0, time.Duration(0)
	for i := range all {
		f := &all[i]
		for _, v := range f.slot.History(now) {
			states[v.State]++
		}
		if f.slot.Trial.On(now) {
			trials++
		}
		if f.end1st == nil {
			continue
		}
		if first == 0 || f.left(now) < first {
			first = f.left(now)
		}
		for _, h := range horizons() {
			if f.within(h.before, now) {
				expiring[h.name]++
			}
		}
		if i < named {
			c.slot(out, f, staples, now)
		}
	}
	c.slotStates(out, all, now)
	for _, h := range horizons() {
		emit(out, "keyway_credentials_expiring", "Certificates with less than 30 % of their life left that end within this time", prometheus.GaugeValue, float64(expiring[h.name]), labels{"kind", kindCertificate, "within", h.name})
	}
	if first != 0 {
		emit(out, "keyway_credentials_first_expiry_seconds", "Time until the first credential ends", prometheus.GaugeValue, first.Seconds(), labels{"kind", kindCertificate})
	}
	for state, n := range states {
		emit(out, "keyway_credential_versions", "Versions that are remembered, by state", prometheus.GaugeValue, float64(n), labels{"kind", kindCertificate, "state", string(state)})
	}
	emit(out, "keyway_credentials_on_trial", "Credentials whose new version is watched for failures", prometheus.GaugeValue, float64(trials), labels{"kind", kindCertificate})
}

// slotStates counts certificates by what serves for them, and those with a refused
// successor.
func (c *collector) slotStates(out chan<- prometheus.Metric, all []slotFacts, now time.Time) {
	n := map[string]int{"active": 0, "expired": 0, "missing": c.unserved()}
	refused := 0
	for i := range all {
		f := &all[i]
		if _, waits := f.slot.Pending(); f.slot.Refused != nil && !waits {
			refused++
		}
		switch {
		case f.end1st == nil:
			n["missing"]++
		case now.After(f.end):
			n["expired"]++
		default:
			n["active"]++
		}
	}
	for state, n := range n {
		emit(out, "keyway_certificates", "Certificates by state of what serves", prometheus.GaugeValue, float64(n), labels{"state", state})
	}
	emit(out, "keyway_certificates_refused", "Certificates whose newest version was refused, while an earlier one serves or none", prometheus.GaugeValue, float64(refused), nil)
}

// unserved counts certificates that never had a version. A name that strangers may ask
// for is nobody's alarm before there was one.
func (c *collector) unserved() int {
	n := 0
	if s := c.t.opts.Current(); s != nil {
		for cert := range s.Unserved {
			if !slices.Contains(cert.Tags, spec.OnDemand) {
				n++
			}
		}
	}
	return n
}

// slot samples one certificate.
func (c *collector) slot(out chan<- prometheus.Metric, f *slotFacts, staples map[string]ocsp.Status, now time.Time) {
	l := labels{"name", f.slot.Name, "id", f.id, "source", f.slot.Source}
	emit(out, "keyway_certificate_expires_in_seconds", "Time until the certificate in use ends", prometheus.GaugeValue, f.left(now).Seconds(), l)
	emit(out, "keyway_certificate_lifetime_seconds", "Whole life of the certificate in use", prometheus.GaugeValue, f.life.Seconds(), l)
	emit(out, "keyway_certificate_age_seconds", "Time since the certificate in use began to serve here", prometheus.GaugeValue, now.Sub(f.slot.Since).Seconds(), l)
	seen := map[string]bool{}
	for _, b := range f.slot.Active {
		if seen[b.Serial+b.KeyType] {
			continue // one pair twice would be one series twice
		}
		seen[b.Serial+b.KeyType] = true
		emit(out, "keyway_certificate_not_after_seconds", "End of the certificate in use, Unix time", prometheus.GaugeValue, float64(b.NotAfter.Unix()),
			labels{"name", f.slot.Name, "id", f.id, "key_type", b.KeyType, "serial", b.Serial})
	}
	if st, ok := staples[f.end1st.Fingerprint]; ok && !st.ThisUpdate.IsZero() {
		emit(out, "keyway_ocsp_staple_age_seconds", "Age of the responder's answer about the certificate in use", prometheus.GaugeValue, now.Sub(st.ThisUpdate).Seconds(), l)
	}
}

// staples samples what responders say of certificates, and answers it by fingerprint.
func (c *collector) staples(out chan<- prometheus.Metric, now time.Time) map[string]ocsp.Status {
	if c.t.opts.Staples == nil {
		return nil
	}
	by := map[string]ocsp.Status{}
	states := map[string]int{"good": 0, "revoked": 0, "unknown": 0, "none": 0}
	failing, over := 0, 0
	for _, st := range c.t.opts.Staples() {
		by[st.Fingerprint] = st
		states[cmp.Or(st.State, "none")]++
		if st.Failures > 0 {
			failing++
			if now.After(st.NextUpdate) {
				over++
			}
		}
	}
	for state, n := range states {
		emit(out, "keyway_ocsp_certificates", "Certificates that name a responder, by its answer", prometheus.GaugeValue, float64(n), labels{"state", state})
	}
	emit(out, "keyway_ocsp_failing", "Certificates whose responder failed when it was asked last", prometheus.GaugeValue, float64(failing), nil)
	emit(out, "keyway_ocsp_overdue", "Of those, the ones without an answer that still holds", prometheus.GaugeValue, float64(over), nil)
	return by
}

// secretFacts are the sums over all secrets.
type secretFacts struct {
	versions map[string]int
	expiring map[string]int
	trials   int
	pinned   int
	overlaps int
	leases   int
	failing  int // leases whose source fails or refuses
	atRisk   int // of them, those in the last third of their life
	first    time.Time
}

func (f *secretFacts) add(x *secrets.Credential, now time.Time) {
	for _, v := range x.History {
		f.versions[v.State]++
	}
	if x.Trial.On(now) {
		f.trials++
	}
	if x.Pinned > 0 {
		f.pinned++
	}
	for _, o := range x.Previous {
		if o.Until.After(now) {
			f.overlaps++
		}
	}
	if x.TTL > 0 {
		f.leases++
		if x.Remark != "" || x.State == secrets.Stale || x.State == secrets.Refused {
			f.failing++
			if !x.NotAfter.IsZero() && x.NotAfter.Sub(now) < x.TTL/3 {
				f.atRisk++
			}
		}
	}
	if x.NotAfter.IsZero() {
		return
	}
	if f.first.IsZero() || x.NotAfter.Before(f.first) {
		f.first = x.NotAfter
	}
	for _, h := range horizons() {
		// A lease is renewed or replaced long before; what is left of it is
		// counted when that fails.
		if x.TTL == 0 && x.NotAfter.Sub(now) <= h.before {
			f.expiring[h.name]++
		}
	}
}

// secrets samples the references that the broker keeps.
func (c *collector) secrets(out chan<- prometheus.Metric, now time.Time) {
	if c.t.opts.Credentials == nil {
		return
	}
	f := secretFacts{versions: map[string]int{"active": 0, "overlap": 0}, expiring: map[string]int{}}
	var all []*secrets.Credential
	for x := range c.t.opts.Credentials().All() {
		f.add(x, now)
		all = append(all, x)
	}
	// What has no end comes last.
	slices.SortStableFunc(all, func(a, b *secrets.Credential) int {
		if a.NotAfter.IsZero() != b.NotAfter.IsZero() {
			return cmp.Compare(b.NotAfter.Unix(), a.NotAfter.Unix())
		}
		return a.NotAfter.Compare(b.NotAfter)
	})
	for _, x := range all[:min(len(all), named)] {
		c.secret(out, x, now)
	}
	f.emit(out, now)
}

func (f *secretFacts) emit(out chan<- prometheus.Metric, now time.Time) {
	gauge := func(name, help string, v int, l labels) {
		emit(out, name, help, prometheus.GaugeValue, float64(v), l)
	}
	for _, h := range horizons() {
		gauge("keyway_credentials_expiring", "Certificates with less than 30 % of their life left that end within this time", f.expiring[h.name], labels{"kind", kindSecret, "within", h.name})
	}
	for state, n := range f.versions {
		gauge("keyway_credential_versions", "Versions that are remembered, by state", n, labels{"kind", kindSecret, "state", state})
	}
	gauge("keyway_credentials_on_trial", "Credentials whose new version is watched for failures", f.trials, labels{"kind", kindSecret})
	gauge("keyway_credentials_pinned", "Secrets that an operator holds at a version", f.pinned, nil)
	gauge("keyway_credential_overlaps", "Replaced values that are still accepted", f.overlaps, nil)
	gauge("keyway_leases", "Secrets that are leases", f.leases, nil)
	gauge("keyway_leases_failing", "Leases whose renewal or successor fails", f.failing, nil)
	gauge("keyway_leases_at_risk", "Of those, the ones with less than a third of their life left", f.atRisk, nil)
	if !f.first.IsZero() {
		emit(out, "keyway_credentials_first_expiry_seconds", "Time until the first credential ends", prometheus.GaugeValue, f.first.Sub(now).Seconds(), labels{"kind", kindSecret})
	}
}

// secret samples one reference.
func (c *collector) secret(out chan<- prometheus.Metric, x *secrets.Credential, now time.Time) {
	l := labels{"name", x.Ref.String(), "source", x.Source}
	gauge := func(name, help string, d time.Duration) {
		emit(out, name, help, prometheus.GaugeValue, d.Seconds(), l)
	}
	if !x.Modified.IsZero() {
		gauge("keyway_secret_age_seconds", "Time since the source made the version in use", now.Sub(x.Modified))
	}
	if !x.Fetched.IsZero() {
		gauge("keyway_secret_confirmed_seconds", "Time since the source last confirmed the value", now.Sub(x.Fetched))
	}
	if !x.NextLook.IsZero() {
		gauge("keyway_secret_next_look_seconds", "Time until the source is asked, or the lease renewed; negative while that waits", x.NextLook.Sub(now))
	}
	if !x.NotAfter.IsZero() {
		gauge("keyway_secret_expires_in_seconds", "Time until the value may not be used any more", x.NotAfter.Sub(now))
	}
	if x.TTL > 0 {
		gauge("keyway_lease_ttl_seconds", "Whole life of the lease as it was answered last", x.TTL)
	}
}

// sources samples what the broker knows of the places that credentials come from.
func (c *collector) sources(out chan<- prometheus.Metric, all []secrets.SourceStats, now time.Time) {
	for i := range all {
		s := &all[i]
		l := labels{"source", s.Name}
		count := func(name, help string, n uint64, more ...string) {
			emit(out, name, help, prometheus.CounterValue, float64(n), append(l[:len(l):len(l)], more...))
		}
		gauge := func(name, help string, v float64) { emit(out, name, help, prometheus.GaugeValue, v, l) }
		count("keyway_source_fetches_total", "Looks at a source that ended", s.Fetches)
		count("keyway_source_failures_total", "Looks at a source that brought no value", s.Failures)
		count("keyway_source_refused_total", "Looks at a source whose value could not be used", s.Refused)
		count("keyway_source_renewals_total", "Leases that were to be renewed", s.Renewals, "result", "renewed")
		count("keyway_source_renewals_total", "Leases that were to be renewed", s.RenewalsFailed, "result", "failed")
		count("keyway_source_revoked_total", "Leases given back to a source", s.Revoked)
		emitSummary(out, "keyway_source_look_seconds", "Duration of looks at a source", s.Fetches, s.Latency.Seconds(), l)
		gauge("keyway_source_in_flight", "Looks at a source under way", float64(s.InFlight))
		if !s.LastGood.IsZero() {
			gauge("keyway_source_stale_seconds", "Time since a source last answered well", now.Sub(s.LastGood).Seconds())
		}
		gauge("keyway_source_away", "1 while a source does not answer", one(s.Away))
		gauge("keyway_source_parked", "Looks that wait until a source answers again", float64(s.Parked))
		if s.Away {
			gauge("keyway_source_away_seconds", "Time since a source began to fail", now.Sub(s.AwaySince).Seconds())
			gauge("keyway_source_next_probe_seconds", "Time until a source that is away is tried again", max(s.NextProbe.Sub(now), 0).Seconds())
		}
	}
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
