package edge

import (
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// Report is what a build changed, for ledger, metrics and log. No value of a
// secret is in it.
type Report struct {
	Took      time.Duration
	Rotations []Rotation
	Changes   spec.Changes // of the document, empty when it is the same one
	NewDoc    bool
}

// Rotation is one credential that changed its version or its state.
type Rotation struct {
	Kind     string // "certificate" or "secret"
	Name     string // of the slot, or the reference
	Source   string
	Result   string // "activated", "refused", "restored", "stale", "missing", "expired", "warning", "rolled_back", "revoked"
	Check    string // of a refusal
	Reason   string
	Old, New int // versions, 0 for none
	// OldFingerprint and NewFingerprint are those of public certificates; "" for secrets.
	OldFingerprint, NewFingerprint string
	Serial                         string    // of the leaf that serves then, hexadecimal; "" for secrets
	NotAfter                       time.Time // its end; zero for secrets
	Modified                       time.Time // when the source made the new version
	Origin                         string    // the source's id of the read, which its own audit log has too
	Actor                          string    // who wanted it; "" for this node
}

// Took is the time from the change in the source until now, zero when it is unknown
// or was no change of version.
func (r *Rotation) Took(now time.Time) time.Duration {
	if r.Result != "activated" || r.Modified.IsZero() || now.Before(r.Modified) {
		return 0
	}
	return now.Sub(r.Modified)
}

// Empty says that nothing changed.
func (r *Report) Empty() bool { return len(r.Rotations) == 0 && !r.NewDoc }

// noteCertificate notes what became of a candidate, and of an order.
func (w *build) noteCertificate(s *staged) {
	id, prev, next, cand, outcome := s.id, s.prev, s.slot, s.cand, s.outcome
	was, actor, ordered, old := prev, "", "", 0
	if o := w.in.Order; o != nil && o.Certificate == id {
		was, actor, ordered = w.prev.slotOf(id), o.Actor, o.Reason
		switch {
		case outcome != certs.Unchanged:
		case o.Slot != nil:
			outcome = certs.RolledBack
		default:
			outcome, old = certs.Revoked, o.Version // one that does not serve
		}
	}
	if outcome == certs.Unchanged {
		return
	}
	rot := Rotation{
		Kind: "certificate", Name: next.Name, Source: cand.Source, Result: string(outcome), Actor: actor,
		New: next.Version, NewFingerprint: next.Fingerprint(), Modified: cand.Modified, Origin: s.origin,
	}
	if len(next.Active) == 0 {
		rot.New = 0
	} else {
		rot.Serial, rot.NotAfter = next.Active[0].Serial, next.Active[0].NotAfter
	}
	if was != nil {
		rot.Old, rot.OldFingerprint = was.Version, was.Fingerprint()
	}
	if old > 0 {
		rot.Old, rot.OldFingerprint = old, ""
	}
	switch {
	case outcome == certs.RolledBack || outcome == certs.Revoked:
		rot.Check, rot.Reason = "", left(next, was, ordered)
	case next.Refused != nil:
		rot.Check, rot.Reason = string(next.Refused.Check), next.Refused.Message
	}
	w.report.Rotations = append(w.report.Rotations, rot)
}

// left says why a version is left.
func left(next, was *certs.Slot, ordered string) string {
	if ordered == "" && was != nil {
		for _, v := range next.History(time.Time{}) {
			if v.Fingerprint == was.Fingerprint() {
				return v.Reason
			}
		}
	}
	return ordered
}

// compare notes the secrets and the document entities that changed.
func (w *build) compare() {
	var old *spec.Document
	var oldSet *secrets.Set
	if w.prev != nil {
		old, oldSet = w.prev.Document, w.prev.Set
	}
	if old != w.in.Document {
		w.report.NewDoc = true
		w.report.Changes = spec.Diff(old, w.in.Document)
	}
	if oldSet == w.in.Set {
		return
	}
	for c := range w.in.Set.All() {
		was := oldSet.Get(c.Ref)
		if was != nil && was.Version == c.Version && was.State == c.State {
			continue
		}
		rot := Rotation{Kind: "secret", Name: c.Name, Source: c.Source, Result: string(c.State), Reason: c.Reason, New: c.Version, Modified: c.Modified, Origin: c.Origin}
		switch c.State {
		case secrets.Active:
			rot.Result = "activated"
		case secrets.Refused:
			rot.Check = "value" // refusals are counted by check, those of the broker too
		}
		if was != nil {
			rot.Old = was.Version
		}
		w.report.Rotations = append(w.report.Rotations, rot)
	}
}
