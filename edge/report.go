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
	Result   string // "activated", "refused", "restored", "stale", "missing", "expired", "warning"
	Check    string // of a refusal
	Reason   string
	Old, New int // versions, 0 for none
	// OldFingerprint and NewFingerprint are those of public certificates; "" for secrets.
	OldFingerprint, NewFingerprint string
	Modified                       time.Time // when the source made the new version
}

// Empty says that nothing changed.
func (r *Report) Empty() bool { return len(r.Rotations) == 0 && !r.NewDoc }

// certificate notes what became of a candidate.
func (r *Report) certificate(prev, next *certs.Slot, cand certs.Candidate, outcome certs.Outcome) {
	if outcome == certs.Unchanged {
		return
	}
	rot := Rotation{Kind: "certificate", Name: next.Name, Source: cand.Source, Result: string(outcome), New: next.Version, NewFingerprint: next.Fingerprint(), Modified: cand.Modified}
	if prev != nil {
		rot.Old, rot.OldFingerprint = prev.Version, prev.Fingerprint()
	}
	if next.Refused != nil {
		rot.Check, rot.Reason = string(next.Refused.Check), next.Refused.Message
	}
	r.Rotations = append(r.Rotations, rot)
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
		rot := Rotation{Kind: "secret", Name: c.Name, Source: c.Source, Result: string(c.State), Reason: c.Reason, New: c.Version, Modified: c.Modified}
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
