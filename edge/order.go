package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/edge/rulings"
	"github.com/keyway-edge/keyway/routing/spec"
)

// Rulings keeps what was decided about versions of certificates; rulings.Store does.
type Rulings interface {
	View() certs.Rulings
	List() []rulings.Entry
	Revoke(entries ...rulings.Entry) error
	Hold(certificate string, held ...rulings.Entry) error
}

// Revocation is what issuers say of their certificates, and their staples;
// ocsp.Stapler does.
type Revocation interface {
	Want(bundles []*certs.Bundle)
	Ruling(fingerprint string) (certs.Ruling, bool)
	Staple(fingerprint string) []byte
	Changed() <-chan struct{}
}

// Revoked tells of versions of certificates that were revoked since the last time:
// by an operator or by their issuer, whether they served at that moment or before.
type Revoked struct {
	Fingerprints []string
}

// Certify makes the publisher heed decisions about certificates. rulings and issuers
// may be nil. revoked is called from Run once for each version that is revoked, after
// the snapshot without it is in force, and must not block. Call it before Run.
func (p *Publisher) Certify(kept Rulings, issuers Revocation, revoked func(context.Context, Revoked)) {
	p.rulings, p.revocation, p.revoked = kept, issuers, revoked
}

// Rebuild hints that what was decided about certificates differs, as when a version
// failed its trial or a replica revoked one.
func (p *Publisher) Rebuild() {
	select {
	case p.tripped <- struct{}{}:
	default:
	}
}

// statusChanged is the hint of the issuers' word, or a channel that never speaks.
func (p *Publisher) statusChanged() <-chan struct{} {
	if p.revocation == nil {
		return nil
	}
	return p.revocation.Changed()
}

// ruled adds the decisions of this moment to the inputs of a build.
func (p *Publisher) ruled(in *Inputs) {
	decided := certs.Rulings(func(string) (certs.Ruling, bool) { return certs.Ruling{}, false })
	if p.rulings != nil {
		decided = p.rulings.View()
	}
	in.Rulings = decided
	if p.revocation == nil {
		return
	}
	in.Stapled = func(fingerprint string) bool { return p.revocation.Staple(fingerprint) != nil }
	in.Rulings = func(fingerprint string) (certs.Ruling, bool) {
		said, yes := p.revocation.Ruling(fingerprint)
		if r, ok := decided(fingerprint); ok && (r.Check == certs.CheckRevoked || !yes) {
			return r, true
		}
		return said, yes
	}
}

// keepHolds writes down what slots hold against versions that were left, so that a
// restart does not take them again.
func (p *Publisher) keepHolds(prev, next *Snapshot) {
	if p.rulings == nil {
		return
	}
	for id, slot := range next.Slots {
		var was *certs.Slot
		if prev != nil {
			was = prev.slotOf(id)
		}
		if slot == was {
			continue
		}
		holds := slot.Holds()
		if len(holds) == 0 && (len(slot.Active) == 0 || was == nil || slot.Version == was.Version || p.condemned(slot)) {
			continue // nothing was activated in the place of what is held
		}
		entries := make([]rulings.Entry, 0, len(holds))
		for _, h := range holds {
			entries = append(entries, rulings.Entry{
				Fingerprint: h.Fingerprint, Reason: h.Ruling.Reason, Name: slot.Name, Actor: "node", At: time.Now(),
				NotAfter: ending(h.Fingerprint, slot, was),
			})
		}
		if err := p.rulings.Hold(id, entries...); err != nil {
			p.log.Error("a rollback would not outlive a restart", slog.String("certificate", slot.Name), slog.Any("error", err))
		}
	}
}

func (p *Publisher) condemned(s *certs.Slot) bool {
	view := p.rulings.View()
	return slices.ContainsFunc(s.Active, func(b *certs.Bundle) bool {
		_, yes := view(b.Fingerprint)
		return yes
	})
}

// ending is when a version of one of the slots ends, zero when none knows it.
func ending(fingerprint string, slots ...*certs.Slot) time.Time {
	for _, s := range slots {
		if s == nil {
			continue
		}
		for _, b := range s.Active {
			if b.Fingerprint == fingerprint {
				return b.NotAfter
			}
		}
		for _, v := range s.History(time.Time{}) {
			if v.Fingerprint == fingerprint {
				return v.NotAfter
			}
		}
	}
	return time.Time{}
}

// condemn tells the issuers' side what is of interest now, and whoever has
// connections of what is revoked that was not.
func (p *Publisher) condemn(ctx context.Context, prev, next *Snapshot) {
	first := p.told == nil
	if first {
		p.told = map[string]bool{}
	}
	var news []string
	note := func(fingerprint string) {
		if !p.told[fingerprint] {
			p.told[fingerprint] = true
			news = append(news, fingerprint)
		}
	}
	if p.rulings != nil {
		for _, e := range p.rulings.List() {
			if e.Check == certs.CheckRevoked {
				note(e.Fingerprint)
			}
		}
	}
	if p.revocation != nil {
		wanted := next.wanted()
		asked := wanted
		if prev != nil && prev != next {
			asked = slices.Concat(wanted, prev.wanted()) // what was left may be of no interest now
		}
		for _, b := range asked {
			if r, yes := p.revocation.Ruling(b.Fingerprint); yes && r.Check == certs.CheckRevoked {
				note(b.Fingerprint)
			}
		}
		p.revocation.Want(wanted)
	}
	// What was revoked before the node began has no connections.
	if len(news) > 0 && !first && p.revoked != nil {
		p.revoked(ctx, Revoked{news})
	}
}

// wanted is the pairs whose status is of interest.
func (s *Snapshot) wanted() []*certs.Bundle {
	var all []*certs.Bundle
	for _, slot := range s.Slots {
		all = append(all, slot.Wanted()...)
	}
	return all
}

// Wish is what an operator wants done with a certificate.
type Wish struct {
	Certificate string // its id, its name in logs, a server name bound to it, or "default"
	Version     int    // to go back to, or to revoke; 0 for the newest earlier one, or the active one
	Reason      string
	Actor       string
	Keep        bool // of a revocation: rather serve the version than nothing
}

// Granted is what came of a wish.
type Granted struct {
	Certificate    string   `json:"certificate"` // id
	Name           string   `json:"name"`
	Old            int      `json:"old_version"`
	New            int      `json:"new_version"` // 0 when nothing serves now
	OldFingerprint string   `json:"old_fingerprint"`
	NewFingerprint string   `json:"new_fingerprint"`
	Revoked        []string `json:"revoked,omitempty"`  // fingerprints
	Unserved       []string `json:"unserved,omitempty"` // server names without a certificate now
	Generation     uint64   `json:"generation"`
	Warning        string   `json:"warning,omitempty"`
}

// orderInHand is a wish on its way to Run.
type orderInHand struct {
	wish   Wish
	revoke bool
	done   chan<- granted
}

type granted struct {
	Granted
	err error
}

// RollbackCertificate makes an earlier version of a certificate serve again. It is in
// force when this returns.
func (p *Publisher) RollbackCertificate(ctx context.Context, w Wish) (Granted, error) {
	return p.wish(ctx, w, false)
}

// RevokeCertificate makes sure that a version never serves again: another good one
// does, or its names have none. It is in force when this returns.
func (p *Publisher) RevokeCertificate(ctx context.Context, w Wish) (Granted, error) {
	return p.wish(ctx, w, true)
}

func (p *Publisher) wish(ctx context.Context, w Wish, revoke bool) (Granted, error) {
	done := make(chan granted, 1)
	select {
	case p.orders <- orderInHand{w, revoke, done}:
	case <-ctx.Done():
		return Granted{}, fmt.Errorf("waiting for the publisher: %w", ctx.Err())
	}
	g := <-done // Run always answers
	return g.Granted, g.err
}

var errNothing = errors.New("nothing is served yet")

// obey carries out an order, on Run's goroutine.
func (p *Publisher) obey(ctx context.Context, in Inputs, o orderInHand) {
	prev := p.current.Load()
	if prev == nil {
		o.done <- granted{err: errNothing}
		return
	}
	id, slot, err := prev.findSlot(o.wish.Certificate)
	if err != nil {
		o.done <- granted{err: err}
		return
	}
	in.Order = &Order{Certificate: id, Version: o.wish.Version, Actor: o.wish.Actor, Reason: o.reason()}
	var revoked []string
	if o.revoke {
		revoked, err = p.revoke(id, slot, o)
	} else {
		err = p.rollback(id, slot, o, in.Order)
	}
	var kept *unkept
	if err != nil && !errors.As(err, &kept) {
		o.done <- granted{err: err}
		return
	}
	next := p.publish(ctx, in)
	g := granted{Granted: next.granted(id, slot)}
	if g.Revoked = revoked; kept != nil {
		g.Warning = kept.Error()
	}
	o.done <- g
}

// unkept is a decision that holds and is not on disk.
type unkept struct{ err error }

func (u *unkept) Error() string { return u.err.Error() }

func orUnkept(err error) error {
	if err == nil {
		return nil
	}
	return &unkept{err}
}

func (o orderInHand) reason() string {
	verb := "rolled back"
	if o.revoke {
		verb = "revoked"
	}
	text := verb + " by " + o.wish.Actor
	if o.wish.Reason != "" {
		text += ": " + o.wish.Reason
	}
	return text
}

// rollback makes the slot of an order.
func (p *Publisher) rollback(id string, slot *certs.Slot, o orderInHand, order *Order) error {
	var in Inputs
	p.ruled(&in)
	for _, v := range slot.History(time.Now()) {
		if o.wish.Version == 0 || v.Number != o.wish.Version {
			continue
		}
		if r, ok := in.Rulings(v.Fingerprint); ok && r.Check == certs.CheckRevoked {
			return fmt.Errorf("rolling back %s: version %d was revoked: %s", slot.Name, v.Number, r.Reason)
		}
	}
	next, err := certs.Rollback(slot, o.wish.Version, order.Reason, time.Now())
	if err != nil {
		return err
	}
	order.Slot = next
	if p.rulings == nil {
		return nil
	}
	// What serves again is held no longer; what else was held for this certificate
	// since before a restart still is.
	var entries []rulings.Entry
	for _, e := range p.rulings.List() {
		if e.Certificate == id && e.Check == certs.CheckRolledBack && !slices.ContainsFunc(next.Active, func(b *certs.Bundle) bool { return b.Fingerprint == e.Fingerprint }) {
			entries = append(entries, e)
		}
	}
	for _, h := range next.Holds() {
		entries = append(entries, rulings.Entry{Fingerprint: h.Fingerprint, Reason: h.Ruling.Reason, Name: slot.Name, Actor: o.wish.Actor, At: time.Now(), NotAfter: ending(h.Fingerprint, slot)})
	}
	return orUnkept(p.rulings.Hold(id, entries...))
}

var errNoRulings = errors.New("this node keeps no rulings on certificates")

// revoke rules on a version; the build draws the consequences.
func (p *Publisher) revoke(id string, slot *certs.Slot, o orderInHand) ([]string, error) {
	if p.rulings == nil {
		return nil, errNoRulings
	}
	entry := func(fingerprint string, end time.Time) rulings.Entry {
		return rulings.Entry{Fingerprint: fingerprint, Reason: o.reason(), Stop: !o.wish.Keep, Certificate: id, Name: slot.Name, Actor: o.wish.Actor, At: time.Now(), NotAfter: end}
	}
	var entries []rulings.Entry
	for _, b := range slot.Pairs(cmp.Or(o.wish.Version, slot.Version)) {
		entries = append(entries, entry(b.Fingerprint, b.NotAfter))
	}
	for _, v := range slot.History(time.Now()) {
		if len(entries) == 0 && o.wish.Version > 0 && v.Number == o.wish.Version {
			entries = append(entries, entry(v.Fingerprint, v.NotAfter))
		}
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("revoking %s: it has no version %s", slot.Name, versionText(o.wish.Version))
	}
	fingerprints := make([]string, len(entries))
	for i, e := range entries {
		fingerprints[i] = e.Fingerprint
	}
	return fingerprints, orUnkept(p.rulings.Revoke(entries...))
}

func versionText(n int) string {
	if n == 0 {
		return "in use"
	}
	return fmt.Sprint(n)
}

// findSlot finds a certificate by id, by its slot's name, or by a server name bound
// to it exactly.
func (s *Snapshot) findSlot(name string) (string, *certs.Slot, error) {
	if slot := s.slotOf(name); slot != nil {
		return name, slot, nil
	}
	for _, n := range s.Document.SNIs {
		if slot := s.slots[n.Certificate]; slot != nil && strings.EqualFold(n.Name, name) {
			return n.Certificate, slot, nil
		}
	}
	found := ""
	for id, slot := range s.Slots {
		if slot.Name != name {
			continue
		}
		if found != "" {
			return "", nil, fmt.Errorf("certificate %s: more than one has that name; expected an id, such as %s", name, found)
		}
		found = id
	}
	for c := range s.Unserved {
		if c.ID == name || slices.ContainsFunc(s.Document.SNIs, func(n *spec.SNI) bool { return n.Certificate == c.ID && strings.EqualFold(n.Name, name) }) {
			return "", nil, fmt.Errorf("certificate %s: it never had a version; `keyway certs list` says why", name)
		}
	}
	if found == "" {
		return "", nil, fmt.Errorf("certificate %s: none has that id, name or server name", name)
	}
	return found, s.slotOf(found), nil
}

// granted tells what became of a certificate since slot was its.
func (s *Snapshot) granted(id string, was *certs.Slot) Granted {
	g := Granted{Certificate: id, Name: was.Name, Old: was.Version, OldFingerprint: was.Fingerprint(), Generation: s.Generation}
	if slot := s.slotOf(id); slot != nil && len(slot.Active) > 0 {
		g.New, g.NewFingerprint = slot.Version, slot.Fingerprint()
		return g
	}
	for _, n := range s.Document.SNIs {
		if n.Certificate == id {
			g.Unserved = append(g.Unserved, n.Name)
		}
	}
	return g
}
