package edge

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
	"github.com/keyway-edge/keyway/secrets"
)

// Builder holds what every build needs and no build changes.
type Builder struct {
	Config *Config
	Kinds  []policy.Kind
	Env    policy.Env // Secret and Directory are filled anew by each build
	Pools  *upstream.Pools
	// DefaultCert and DefaultKey are the default slot's pair; zero for none.
	DefaultCert, DefaultKey spec.Secret
	// Trial is what a new version of a certificate has to pass; zero for nothing.
	Trial secrets.TrialRule
	// Fixed are the listeners of the settings, whose ports documents share or leave alone.
	Fixed []Fixed
	// Pause is called between parts of a build, so that it can let requests go first; nil for nothing.
	Pause func()
}

// Inputs is what a snapshot is made of.
type Inputs struct {
	Document *spec.Document
	Set      *secrets.Set
	Now      time.Time
	// Rulings are what was decided about versions of certificates, nil for nothing.
	Rulings certs.Rulings
	// Stapled answers whether the staple of a leaf is at hand; nil for "don't ask".
	Stapled func(fingerprint string) bool
	// Tripped is called, and must not block, when a version fails its trial.
	Tripped func()
	// Order is what somebody wants done with one certificate, nil for nothing.
	Order *Order
}

// Order is what somebody wants done: a slot in place of the one before, or a ruling.
type Order struct {
	Certificate string      // its id, "default" for the default slot
	Slot        *certs.Slot // nil where the rulings say it all
	Version     int         // that a ruling is on, 0 for the active one
	Actor       string
	Reason      string
}

// build is one run of Build.
type build struct {
	*Builder
	prev, next *Snapshot
	in         Inputs
	report     *Report

	sameRefs, onlyTargets bool // see look
	services              map[string]*spec.Service
}

// Build makes the next snapshot from the previous one (nil at first), reusing
// from it whatever did not change. It is a function of its arguments: it starts
// nothing and publishes nothing. A part that fails is quarantined closed and
// listed in the snapshot's Problems; the rest is served.
func (b *Builder) Build(prev *Snapshot, in Inputs) (*Snapshot, *Report) {
	next := &Snapshot{Generation: 1, Built: in.Now, Document: in.Document, Set: in.Set}
	if prev != nil {
		next.Generation = prev.Generation + 1
	}
	w := &build{Builder: b, prev: prev, next: next, in: in, report: &Report{}}
	w.look()
	for i, p := range w.parts() {
		from := len(next.Problems)
		if p.keep != nil && p.keep() {
			w.problem(prev.told[i]...)
		} else {
			p.make()
		}
		next.told[i] = slices.Clip(next.Problems[from:])
		w.pause()
	}
	// What was made may hold on to this build, and with it would to every snapshot before.
	w.prev, w.services = nil, nil
	return next, w.report
}

// pause lets requests go first.
func (b *Builder) pause() {
	if b.Pause != nil {
		b.Pause()
	}
}

func (w *build) problem(p ...*spec.Problem) {
	w.next.Problems = append(w.next.Problems, p...)
}

// secret answers the value of a field that may be a reference, with the
// credential it came from (nil for a literal), or why there is none.
func (w *build) secret(s spec.Secret) (secrets.Value, *secrets.Credential, string) {
	return valueOf(w.in.Set, s)
}

func valueOf(set *secrets.Set, s spec.Secret) (secrets.Value, *secrets.Credential, string) {
	if s.Ref.IsZero() {
		return s.Value, nil, ""
	}
	c := set.Get(s.Ref)
	switch {
	case c == nil:
		return secrets.Value{}, nil, "reference " + s.Ref.String() + " was never fetched"
	case len(c.Value.Reveal()) == 0:
		return secrets.Value{}, c, "reference " + s.Ref.String() + " has no value: " + c.Reason
	}
	return c.Value, c, ""
}

// certificates advances every certificate's slot.
func (w *build) certificates() {
	doc := w.in.Document
	names := make(map[string][]string, len(doc.Certificates))
	for _, s := range doc.SNIs {
		names[s.Certificate] = append(names[s.Certificate], s.Name)
	}
	w.next.slots = make(map[string]*certs.Slot, len(doc.Certificates))
	pairs := doc.Pairs()
	list := make([]*staged, 0, len(doc.Certificates)+1)
	for _, c := range doc.Certificates {
		s := &staged{id: c.ID, cert: c, prev: w.prevSlot(c.ID), cand: w.candidate(slotName(c, names[c.ID]), "document", names[c.ID])}
		cert, key := pairs(c)
		if !w.pair(s, "cert", "key", cert, key) || !w.pair(s, "cert_alt", "key_alt", c.CertAlt, c.KeyAlt) {
			s.cand.Pairs = nil
		}
		list = append(list, s)
	}
	if s := w.defaultPair(); s != nil {
		list = append(list, s)
	}
	list = slices.DeleteFunc(list, func(s *staged) bool { return s.prev == nil && len(s.cand.Pairs) == 0 })
	w.advance(list)
	for _, s := range list {
		w.settle(s)
	}
}

// defaultPair is what the settings offer, nil for nothing.
func (w *build) defaultPair() *staged {
	if w.DefaultCert.IsZero() {
		return nil
	}
	s := &staged{id: defaultID, prev: w.prevSlot(defaultID), cand: w.candidate("default", "settings", nil)}
	if !w.pair(s, "tls_cert", "tls_key", w.DefaultCert, w.DefaultKey) {
		s.cand.Pairs = nil
	}
	return s
}

// staged is what is offered to one slot, and what came of it.
type staged struct {
	id      string
	cert    *spec.Certificate // nil for the default pair
	prev    *certs.Slot
	cand    certs.Candidate // without pairs where the source offers nothing now
	origin  string          // of the pair that was read last
	slot    *certs.Slot
	outcome certs.Outcome
}

// candidate is one without pairs.
func (w *build) candidate(name, source string, names []string) certs.Candidate {
	return certs.Candidate{
		Name: name, Source: source, Names: names,
		Rulings: w.in.Rulings, Stapled: w.in.Stapled, Trial: w.Trial, Tripped: w.in.Tripped,
	}
}

// pair adds a certificate and its key to what is offered. It answers false, with
// the problem listed, when one of them has no value.
func (w *build) pair(to *staged, certField, keyField string, cert, key spec.Secret) bool {
	c, cand := to.cert, &to.cand
	if cert.IsZero() && key.IsZero() {
		return true
	}
	read := func(field string, s spec.Secret) (secrets.Value, *secrets.Credential, string) {
		if c == nil {
			return w.secret(s)
		}
		return w.permitted(s, c, field)
	}
	cv, cc, why := read(certField, cert)
	field := certField
	var kc *secrets.Credential
	var kv secrets.Value
	if why == "" {
		field = keyField
		kv, kc, why = read(keyField, key)
	}
	if why != "" {
		p := &spec.Problem{Entity: "certificates", Name: cand.Name, Field: field, Reason: spec.ReasonCredential, Message: why}
		if c != nil {
			p.ID, p.Pos = c.ID, c.Pos
		}
		w.problem(p)
		return false
	}
	cand.Pairs = append(cand.Pairs, certs.Pair{Cert: cv, Key: kv})
	for _, x := range []*secrets.Credential{cc, kc} {
		if x != nil {
			cand.Source = x.Source
			cand.Modified = later(cand.Modified, x.Modified)
			to.origin = x.Origin
		}
	}
	return true
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// defaultID stands for the default slot where others have the certificate's id.
const defaultID = "default"

// prevSlot is the slot that a build begins from: as an order wants it, or as it was.
func (w *build) prevSlot(id string) *certs.Slot {
	switch o := w.in.Order; {
	case o != nil && o.Certificate == id && o.Slot != nil:
		return o.Slot
	case w.prev == nil:
		return nil
	}
	return w.prev.slotOf(id)
}

// slotOf is Slot that knows the default one too.
func (s *Snapshot) slotOf(id string) *certs.Slot {
	if id == defaultID {
		return s.def
	}
	return s.slots[id]
}

// fewSlots are advanced faster by one than by many.
const fewSlots = 64

// advance judges what is offered to each slot, on all processors: of ten thousand
// certificates at a start each is parsed, checked and tried.
func (w *build) advance(list []*staged) {
	workers := min(runtime.GOMAXPROCS(0), (len(list)+fewSlots-1)/fewSlots)
	if workers < 2 {
		for _, s := range list {
			s.advance(w.in.Now)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	var panicked atomic.Value
	for range workers {
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					panicked.Store(fmt.Sprint(p))
				}
			}()
			for i := next.Add(1) - 1; i < int64(len(list)); i = next.Add(1) - 1 {
				list[i].advance(w.in.Now)
			}
		})
	}
	wg.Wait()
	if p := panicked.Load(); p != nil {
		panic(p) // where whoever builds expects it: the node drains
	}
}

// advance judges what is offered to one slot. Where the source offers nothing now,
// what served before does so on, if it may.
func (s *staged) advance(now time.Time) {
	if len(s.cand.Pairs) > 0 {
		s.slot, s.outcome = certs.Advance(s.prev, s.cand, now)
		return
	}
	s.cand.Source = s.prev.Source
	s.slot, s.outcome = certs.Uphold(s.prev, s.cand, now)
}

// settle takes a slot into the snapshot and notes the outcome.
func (w *build) settle(s *staged) {
	if s.cert == nil {
		w.next.def = s.slot
	} else {
		w.next.slots[s.id] = s.slot
	}
	w.noteCertificate(s)
	if s.slot.Refused != nil {
		p := &spec.Problem{Entity: "certificates", Name: s.cand.Name, Field: "cert", Reason: spec.ReasonCredential, Message: "new version refused: " + s.slot.Refused.Error()}
		if s.cert != nil {
			p.ID, p.Pos = s.cert.ID, s.cert.Pos
		}
		w.problem(p)
	}
}

// slotName is what logs and metrics call a certificate: its first name, else its id.
func slotName(c *spec.Certificate, names []string) string {
	if len(names) > 0 {
		return slices.Min(names)
	}
	return c.ID
}

// tlsPolicies makes the TLS policies and their server configurations.
func (w *build) tlsPolicies() {
	w.next.policies = make(map[string]*certs.Policy, len(w.in.Document.TLSPolicies)+1)
	w.addPolicy("", certs.PolicySpec{Name: "default", MinVersion: "1.2", ClientAuth: "off"}, nil)
	for _, p := range w.in.Document.TLSPolicies {
		s := certs.PolicySpec{ID: p.ID, Name: p.Name, MinVersion: p.MinVersion, ClientAuth: p.ClientAuth, VerifyDepth: p.VerifyDepth}
		for _, id := range p.CACertificates {
			der, why := w.caDER(id)
			if why != "" {
				// A client-auth domain with a CA missing fails closed for its
				// names: the policy then trusts fewer CAs, never more.
				w.problem(&spec.Problem{Pos: p.Pos, Entity: "x_keyway_tls_policies", ID: p.ID, Name: p.Name, Field: "ca_certificates", Reason: spec.ReasonCredential, Message: why})
				continue
			}
			s.Roots = append(s.Roots, der...)
		}
		w.revocationLists(&s, p)
		w.addPolicy(p.ID, s, p)
	}
}

// revocationLists adds a policy's lists. Without one of them nobody can be told
// from a client that was revoked: the policy is closed then.
func (w *build) revocationLists(s *certs.PolicySpec, p *spec.TLSPolicy) {
	s.CRLRequired = p.CRLRequired
	for _, list := range p.CRLs {
		v, _, why := w.secret(list)
		if why == "" {
			lists, err := certs.ParseCRLs(v.Reveal())
			if err == nil {
				s.CRLs = append(s.CRLs, lists...)
				continue
			}
			why = err.Error()
		}
		w.problem(&spec.Problem{Pos: p.Pos, Entity: "x_keyway_tls_policies", ID: p.ID, Name: p.Name, Field: "crls", Reason: spec.ReasonCredential, Message: why + "; names of this policy take no client until then"})
		s.Roots, s.CRLs = nil, nil
	}
}

func (w *build) addPolicy(id string, s certs.PolicySpec, p *spec.TLSPolicy) {
	made, err := certs.NewPolicy(s)
	if err != nil {
		w.problem(&spec.Problem{Pos: p.Pos, Entity: "x_keyway_tls_policies", ID: p.ID, Name: p.Name, Reason: spec.ReasonValue, Message: err.Error()})
		s.ClientAuth, s.Roots = "required", nil
		made = certs.Closed(s)
	}
	if w.prev != nil {
		if old := w.prev.policies[id]; made.Same(old) {
			made = old
		}
	}
	w.next.policies[id] = made
}

// caDER answers the certificates of a CA entity.
func (w *build) caDER(id string) ([][]byte, string) {
	i := slices.IndexFunc(w.in.Document.CACertificates, func(c *spec.CACertificate) bool { return c.ID == id })
	if i < 0 {
		return nil, "ca_certificate " + id + " does not exist"
	}
	ca := w.in.Document.CACertificates[i]
	v, _, why := w.permitted(ca.Cert, ca, "cert")
	if why != "" {
		return nil, why
	}
	der, err := certs.ParseCAs(v.Reveal())
	if err != nil {
		return nil, "ca_certificate " + id + ": " + err.Error()
	}
	return der, ""
}

// index makes the look-up from server names to slots and policies.
func (w *build) index() {
	doc := w.in.Document
	bindings := make([]certs.Binding, 0, len(doc.SNIs))
	for _, s := range doc.SNIs {
		bindings = append(bindings, certs.Binding{Name: s.Name, Slot: w.next.slots[s.Certificate], Policy: w.next.policies[s.TLSPolicy]})
	}
	var prev *certs.Index
	if w.prev != nil {
		prev = w.prev.Certs
	}
	w.next.Certs = certs.NewIndex(prev, bindings, w.next.def)
	if !w.Config.Development {
		return
	}
	w.next.devNames = map[string]bool{"localhost": true}
	for _, r := range doc.Routes {
		for _, host := range r.Hosts {
			if h := hostOnly(host); !strings.Contains(h, "*") {
				w.next.devNames[h] = true
			}
		}
	}
	for _, s := range doc.SNIs {
		if !strings.Contains(s.Name, "*") {
			w.next.devNames[s.Name] = true
		}
	}
}

// routes compiles the router.
func (w *build) routes() {
	var prev *routing.Table
	if w.prev != nil {
		prev = w.prev.Table
	}
	table, problems := routing.Compile(prev, w.in.Document)
	w.next.Table = table
	w.problem(problems...)
}
