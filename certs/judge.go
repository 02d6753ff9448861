package certs

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"
)

// verdict is what became of a candidate that was not refused.
type verdict struct {
	bundles  []*Bundle
	warnings []string
	same     bool // the pairs are those that are active
}

// finding is what one check has against a bundle.
type finding struct {
	refusal *Refusal // nil for nothing
	no      bool     // no worse than what serves now, so that it is taken with a warning
	never   bool     // nothing is better than that
}

// judge makes every check. Its verdict names the pairs that could be read, also
// beside a refusal. What is merely unwise (expired, other names) is taken
// with a warning where nothing serves, because a name without any certificate
// serves nobody, and where what serves is no better, because a renewal that
// repeats an old fault must not be kept out until the old version ends.
func judge(prev *Slot, c *Candidate, now time.Time) (verdict, *Refusal) {
	var v verdict
	parsed := make([]*tls.Certificate, 0, len(c.Pairs))
	for _, p := range c.Pairs {
		b, cert, refusal := parse(p)
		if refusal != nil {
			return v, refusal
		}
		v.bundles, parsed = append(v.bundles, b), append(parsed, cert)
	}
	switch {
	case len(v.bundles) == 0:
		return v, refuse(CheckParse, "there is no certificate")
	case len(v.bundles) > 2:
		return v, refuse(CheckParse, "there are %d pairs, at most two of different key types are expected", len(v.bundles))
	case len(v.bundles) == 2 && v.bundles[0].KeyType == v.bundles[1].KeyType:
		return v, refuse(CheckParse, "certificate and alternative certificate need to have different type (e.g. RSA and ECDSA), the provided certificates were both of the same type")
	}
	slices.SortFunc(v.bundles, func(a, b *Bundle) int { return rank(a) - rank(b) })
	v.same = samePairs(prev.Active, v.bundles)
	against := prev.standing(c, now)
	for _, b := range v.bundles {
		b.share(prev.Active)
		active := against.peer(b)
		for _, f := range findings(against, c, active, v.bundles, b, now) {
			switch {
			case f.refusal == nil:
			case f.taken(active, v.same):
				v.warnings = append(v.warnings, f.refusal.Error())
			default:
				return v, f.refusal
			}
		}
	}
	if v.same {
		return v, nil // what serves has shaken hands already
	}
	for _, cert := range parsed {
		if err := tryHandshake(cert); err != nil {
			return v, refuse(CheckHandshake, "a handshake with certificate %s fails: %v", serial(cert.Leaf), err)
		}
	}
	return v, nil
}

// findings makes the checks that compare b with what serves.
func findings(prev *Slot, c *Candidate, active *Bundle, all []*Bundle, b *Bundle, now time.Time) []finding {
	return []finding{
		checkTime(active, b, now), checkNames(prev, c, b), checkUsage(active, c, b), checkOlder(prev, c, active, b), checkStandIn(active, b),
		checkAlone(prev, all), checkRuling(prev, c, active, b, now), checkStaple(c, active, b, now),
	}
}

// taken says that the version is taken in spite of the finding.
func (f finding) taken(active *Bundle, same bool) bool {
	return !f.never && (active == nil || same || f.no)
}

func rank(b *Bundle) int { return strings.Index("ECDSA Ed25519 RSA", b.KeyType) }

// samePairs compares whole chains: the one most often repaired fault is a missing
// intermediate, which leaves the leaf as it was.
func samePairs(a, b []*Bundle) bool {
	return slices.EqualFunc(a, b, func(a, b *Bundle) bool { return slices.EqualFunc(a.chain, b.chain, slices.Equal[[]byte]) })
}

// peer is the active pair that b would stand in for, nil when nothing serves.
func (s *Slot) peer(b *Bundle) *Bundle {
	for _, a := range s.Active {
		if a.KeyType == b.KeyType {
			return a
		}
	}
	if len(s.Active) > 0 {
		return s.Active[0]
	}
	return nil
}

func checkTime(active, b *Bundle, now time.Time) finding {
	switch {
	case now.Before(b.NotBefore):
		r := refuse(CheckNotYetValid, "certificate %s is not valid before %s; it is taken then", b.Serial, b.NotBefore.UTC().Format(time.RFC3339))
		r.retry = b.NotBefore
		return finding{refusal: r}
	case now.After(b.NotAfter):
		r := refuse(CheckExpired, "certificate %s ended at %s; renew it", b.Serial, b.NotAfter.UTC().Format(time.RFC3339))
		if active == nil || !b.NotAfter.After(active.NotAfter) {
			return finding{refusal: r}
		}
		// Once both have ended, the later end wins.
		r.retry = active.NotAfter.Add(1)
		return finding{refusal: r, no: now.After(active.NotAfter)}
	}
	return finding{}
}

// checkNames holds the names bound to the slot against those of the leaf. A
// wildcard with the star at its end, or alone, is a choice of the configuration
// that no certificate can cover. Names that the active version does not cover
// either are no reason to keep a renewal out.
func checkNames(prev *Slot, c *Candidate, b *Bundle) finding {
	var missing, lost []string
	for _, n := range c.Names {
		if strings.HasSuffix(n, "*") || covers(b.DNSNames, n) {
			continue
		}
		missing = append(missing, n)
		if slices.ContainsFunc(prev.Active, func(a *Bundle) bool { return covers(a.DNSNames, n) }) {
			lost = append(lost, n)
		}
	}
	if len(missing) == 0 {
		return finding{}
	}
	named := missing
	if len(lost) > 0 {
		named = lost
	}
	return finding{
		refusal: refuse(CheckNames, "certificate %s does not cover %s (it covers %s); issue it for these names or unbind them", b.Serial, some(named), some(b.DNSNames)),
		no:      len(lost) == 0,
	}
}

// some lists names, but never thousands of them.
func some(names []string) string {
	const most = 5
	switch n := len(names); {
	case n == 0:
		return "no name"
	case n > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return strings.Join(names, ", ")
}

// covers says whether a leaf for the names dns is one for name: RFC 6125, section
// 6.4.3, with the star as the whole leftmost label only.
func covers(dns []string, name string) bool {
	name = strings.TrimSuffix(name, ".")
	label, suffix, ok := strings.Cut(name, ".")
	for _, d := range dns {
		if strings.EqualFold(d, name) {
			return true
		}
		if wild, is := strings.CutPrefix(d, "*."); is && ok && label != "" && label != "*" && strings.EqualFold(wild, suffix) {
			return true
		}
	}
	return false
}

// checkUsage judges only what serves names: an entry without any may be there for
// connections to upstreams.
func checkUsage(active *Bundle, c *Candidate, b *Bundle) finding {
	if b.usage == "" || len(c.Names) == 0 {
		return finding{}
	}
	return finding{
		refusal: refuse(CheckUsage, "certificate %s is not one for a server: %s; have it issued for TLS servers", b.Serial, b.usage),
		no:      active != nil && active.usage != "",
	}
}

// checkOlder keeps a source that lags behind from undoing what another brought.
// The source of the active version may go back: that is somebody's decision.
func checkOlder(prev *Slot, c *Candidate, active, b *Bundle) finding {
	if active == nil || active.KeyType != b.KeyType || !b.NotBefore.Before(active.NotBefore) || !b.NotAfter.Before(active.NotAfter) {
		return finding{}
	}
	return finding{
		refusal: refuse(CheckOlder, "certificate %s is older than %s, which is active; offer a newer one, or the older one from source %s", b.Serial, active.Serial, prev.Source),
		no:      prev.Source == c.Source,
	}
}

func checkStandIn(active, b *Bundle) finding {
	if !b.standIn || active == nil || active.standIn {
		return finding{}
	}
	return finding{refusal: refuse(CheckStandIn, "certificate %s is self-signed or temporary, and the active one is issued by %s; wait for the issued one, or bind the names to a new certificate", b.Serial, active.Issuer)}
}

// checkRuling keeps what was revoked or rolled back from coming again: the latter
// until the end of what came instead is near, for an end is worse. Where nothing
// else serves, Advance says what it thinks of that.
func checkRuling(prev *Slot, c *Candidate, active, b *Bundle, now time.Time) finding {
	r, ruled := prev.ruling(c, []*Bundle{b})
	if ruled == nil || active == nil && !r.Stop || active != nil && active.Fingerprint == b.Fingerprint {
		return finding{}
	}
	refusal := r.refusal(b)
	refusal.bundles = []*Bundle{b}
	f := finding{refusal: refusal, never: r.Stop}
	if r.Check == CheckRolledBack && active != nil && !r.Stop {
		refusal.retry = active.NotAfter.Add(-lastHour)
		f.no = !now.Before(refusal.retry)
	}
	return f
}

// checkAlone: many clients cannot use Ed25519 at all.
func checkAlone(prev *Slot, bundles []*Bundle) finding {
	alone := func(list []*Bundle) bool { return len(list) == 1 && list[0].KeyType == "Ed25519" }
	if !alone(bundles) {
		return finding{}
	}
	return finding{
		refusal: refuse(CheckStrength, "few clients take an Ed25519 certificate; expected an ECDSA or RSA one beside it"),
		no:      alone(prev.Active),
	}
}

// tryHandshake proves that the pair works: a TLS 1.3 handshake with it, in memory.
func tryHandshake(cert *tls.Certificate) error {
	near, far := newPipe()
	server := tls.Server(near, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true})
	client := tls.Client(far, &tls.Config{
		// The chain was checked; who trusts it is the client's question, not this one.
		InsecureSkipVerify: true, ServerName: "check.invalid", MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.CurveP256},
	})
	done := make(chan error, 1)
	go func() {
		err := server.Handshake()
		if err != nil {
			_ = near.Close() // so that the client never waits for what will not come
		}
		done <- err
	}()
	err := client.Handshake()
	if err != nil {
		_ = far.Close()
	}
	if serr := <-done; err == nil {
		err = serr
	}
	if err != nil {
		return fmt.Errorf("handshaking in memory: %w", err)
	}
	return nil
}
