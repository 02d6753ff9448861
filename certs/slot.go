package certs

import (
	"crypto/tls"
	"fmt"
	"strings"
	"time"
)

// Candidate is what the sources offer for a slot now.
type Candidate struct {
	Name     string   // what logs and metrics call the slot
	Source   string   // who offers it
	Pairs    []Pair   // one, or two of different key types
	Names    []string // server names bound to it, wildcards among them
	Modified time.Time
}

func (c *Candidate) print() string {
	var b strings.Builder
	b.WriteString(c.Source)
	for _, p := range c.Pairs {
		b.WriteByte('|')
		b.WriteString(p.fingerprint())
	}
	for _, n := range c.Names {
		b.WriteByte(' ')
		b.WriteString(n)
	}
	return b.String()
}

// Outcome is what became of a candidate.
type Outcome string

// The outcomes.
const (
	Unchanged Outcome = "unchanged"
	Activated Outcome = "activated"
	Refused   Outcome = "refused"
	Warned    Outcome = "warning" // activated, with a warning
)

// Slot is one configured certificate in time: what serves, and what was refused
// since. Immutable.
type Slot struct {
	Name     string
	Source   string
	Version  int       // counts activations: n of name@n
	Active   []*Bundle // ECDSA before Ed25519 before RSA; empty when nothing was ever good
	Since    time.Time // of the activation
	Refused  *Refusal  // of the newest candidate, nil when that one is active
	Warnings []string  // about the active version

	print string // of the candidate that is active
}

// Fingerprint is the SHA-256 of the active leaf, "" for none.
func (s *Slot) Fingerprint() string {
	if s == nil || len(s.Active) == 0 {
		return ""
	}
	return s.Active[0].Fingerprint
}

// Certificate picks from the active pairs the one that the client can use. It
// answers nil and no error when there is none, which makes crypto/tls send
// unrecognized_name: the alert that says so.
func (s *Slot) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, *Bundle, error) {
	if s == nil || len(s.Active) == 0 {
		return nil, nil, nil
	}
	if len(s.Active) > 1 {
		for _, b := range s.Active {
			cert, err := b.TLS()
			if err != nil {
				return nil, nil, err
			}
			// The name is not judged here: the slot was chosen by it.
			anyName := *hello
			anyName.ServerName = ""
			if anyName.SupportsCertificate(cert) == nil {
				return cert, b, nil
			}
		}
	}
	cert, err := s.Active[0].TLS()
	return cert, s.Active[0], err
}

// Advance stages a candidate. It answers the next slot: prev itself when nothing
// is new, one with the candidate active when every check passes, else one that
// serves what prev served and says what was refused. A function of its arguments.
func Advance(prev *Slot, c Candidate, now time.Time) (*Slot, Outcome) {
	print := c.print()
	if prev != nil && (prev.print == print && prev.Refused == nil || prev.Refused != nil && prev.Refused.print == print && !again(prev.Refused)) {
		return prev, Unchanged
	}
	if prev != nil && prev.print == print { // a refused candidate was taken back
		next := *prev
		next.Refused = nil
		return &next, Warned
	}
	bundles, warnings, refusal := judge(prev, &c, now)
	if refusal != nil {
		refusal.At, refusal.print = now, print
		next := &Slot{Name: c.Name, Source: c.Source}
		if prev != nil {
			if prev.Refused != nil && prev.Refused.print == print {
				return prev, Unchanged
			}
			*next = *prev
		}
		next.Refused = refusal
		return next, Refused
	}
	next := &Slot{Name: c.Name, Source: c.Source, Version: 1, Active: bundles, Since: now, Warnings: warnings, print: print}
	if prev != nil {
		next.Version = prev.Version + 1
		if samePairs(prev, next) { // only what is bound to it, or who offers it, is new
			next.Version, next.Since = prev.Version, prev.Since
			if len(warnings) == 0 && prev.Refused == nil {
				return next, Unchanged
			}
		}
	}
	if len(warnings) > 0 {
		return next, Warned
	}
	return next, Activated
}

// again says whether time alone may have cured what a candidate was refused for.
func again(r *Refusal) bool { return r.Check == CheckNotYetValid || r.Check == CheckExpired }

func samePairs(a, b *Slot) bool {
	if len(a.Active) != len(b.Active) {
		return false
	}
	for i := range a.Active {
		if a.Active[i].Fingerprint != b.Active[i].Fingerprint {
			return false
		}
	}
	return true
}

// judge makes every check. With nothing active before, what is merely unwise
// (expired, other names) is taken with a warning: a name without any certificate
// serves nobody.
func judge(prev *Slot, c *Candidate, now time.Time) ([]*Bundle, []string, *Refusal) {
	var bundles []*Bundle
	var warnings []string
	serving := prev != nil && len(prev.Active) > 0
	for _, p := range c.Pairs {
		b, refusal := ParseBundle(p)
		if refusal != nil {
			return nil, nil, refusal
		}
		for _, check := range []func() *Refusal{
			func() *Refusal { return checkTime(prev, b, now) },
			func() *Refusal { return checkNames(c, b) },
			func() *Refusal { return checkOlder(prev, b) },
			func() *Refusal { return checkStandIn(prev, b) },
		} {
			switch refusal := check(); {
			case refusal == nil:
			case serving && !takenAnyway(prev, c, refusal):
				return nil, nil, refusal
			default:
				warnings = append(warnings, refusal.Error())
			}
		}
		if refusal := handshake(b); refusal != nil {
			return nil, nil, refusal
		}
		bundles = append(bundles, b.unparsed())
	}
	switch {
	case len(bundles) == 0:
		return nil, nil, refuse(CheckParse, "there is no certificate")
	case len(bundles) == 2 && bundles[0].KeyType == bundles[1].KeyType:
		return nil, nil, refuse(CheckParse, "certificate and alternative certificate need to have different type (e.g. RSA and ECDSA), the provided certificates were both of the same type")
	case len(bundles) == 1 && bundles[0].KeyType == "Ed25519":
		warnings = append(warnings, string(CheckStrength)+": few clients take an Ed25519 certificate; keep an ECDSA one beside it")
	}
	if len(bundles) == 2 && rank(bundles[1]) < rank(bundles[0]) {
		bundles[0], bundles[1] = bundles[1], bundles[0]
	}
	return bundles, warnings, nil
}

func rank(b *Bundle) int { return strings.Index("ECDSA Ed25519 RSA", b.KeyType) }

// takenAnyway says whether a doubtful version is taken although another serves:
// an older one, when the very source of the active one went back to it.
func takenAnyway(prev *Slot, c *Candidate, r *Refusal) bool {
	return r.Check == CheckOlder && prev.Source == c.Source
}

func checkTime(prev *Slot, b *Bundle, now time.Time) *Refusal {
	switch {
	case now.Before(b.NotBefore):
		return refuse(CheckNotYetValid, "certificate %s is not valid before %s", b.Serial, b.NotBefore.UTC().Format(time.RFC3339))
	case now.After(b.NotAfter):
		if prev != nil && len(prev.Active) > 0 && now.After(prev.Active[0].NotAfter) && b.NotAfter.After(prev.Active[0].NotAfter) {
			return nil // both are expired: the newer end wins
		}
		return refuse(CheckExpired, "certificate %s ended at %s; renew it", b.Serial, b.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkNames holds the names bound to the slot against those of the leaf. A
// wildcard with the star at its end, or alone, is a choice of the configuration
// that no certificate can cover.
func checkNames(c *Candidate, b *Bundle) *Refusal {
	var missing []string
	for _, n := range c.Names {
		if !strings.HasSuffix(n, "*") && !covers(b.DNSNames, n) {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return refuse(CheckNames, "certificate %s does not cover %s (it covers %s); issue it for these names or unbind them", b.Serial, strings.Join(missing, ", "), strings.Join(b.DNSNames, ", "))
}

func covers(dns []string, name string) bool {
	for _, d := range dns {
		if strings.EqualFold(d, name) {
			return true
		}
		if _, suffix, ok := strings.Cut(name, "."); ok && d == "*."+strings.ToLower(suffix) && !strings.HasPrefix(name, "*") {
			return true
		}
	}
	return false
}

func checkOlder(prev *Slot, b *Bundle) *Refusal {
	if prev == nil {
		return nil
	}
	for _, a := range prev.Active {
		if a.KeyType == b.KeyType && b.NotBefore.Before(a.NotBefore) && b.NotAfter.Before(a.NotAfter) {
			return refuse(CheckOlder, "certificate %s is older than %s, which is active", b.Serial, a.Serial)
		}
	}
	return nil
}

func checkStandIn(prev *Slot, b *Bundle) *Refusal {
	if prev == nil || !b.SelfSigned {
		return nil
	}
	for _, a := range prev.Active {
		if !a.SelfSigned {
			return refuse(CheckStandIn, "certificate %s is self-signed, a stand-in perhaps, and the active one is issued by %s", b.Serial, a.Issuer)
		}
	}
	return nil
}

// handshake proves that the pair works: a TLS 1.3 handshake with it, in memory.
func handshake(b *Bundle) *Refusal {
	cert, err := b.TLS()
	if err == nil {
		err = tryHandshake(cert)
	}
	if err != nil {
		return refuse(CheckHandshake, "a handshake with certificate %s fails: %v", b.Serial, err)
	}
	return nil
}

// unparsed is b without its parsed forms: thousands of certificates idle, and
// each parses again in a fraction of a millisecond.
func (b *Bundle) unparsed() *Bundle {
	return &Bundle{
		Serial: b.Serial, Issuer: b.Issuer, DNSNames: b.DNSNames, NotBefore: b.NotBefore, NotAfter: b.NotAfter, KeyType: b.KeyType,
		Fingerprint: b.Fingerprint, SelfSigned: b.SelfSigned, chain: b.chain, key: b.key, kind: b.kind,
	}
}

func tryHandshake(cert *tls.Certificate) error {
	near, far := newPipe()
	server := tls.Server(near, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true})
	client := tls.Client(far, &tls.Config{
		// The chain was checked; who trusts it is the client's question, not this one.
		InsecureSkipVerify: true, ServerName: "check.invalid", MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
	})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	err := client.Handshake()
	if err != nil {
		_ = near.Close()
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
