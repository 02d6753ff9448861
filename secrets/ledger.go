package secrets

import "time"

// Event is one entry of the ledger: one change of a credential or of the
// configuration, or one action of an administrator. It never holds a secret or
// anything a secret could be guessed from: a secret is told by its version number
// alone, a certificate, which is public, also by its fingerprint.
type Event struct {
	Time           time.Time `json:"time"`
	Kind           string    `json:"kind"`    // certificate, secret, document, admin, ledger
	Subject        string    `json:"subject"` // the reference, the slot, the document
	Source         string    `json:"source,omitempty"`
	Result         string    `json:"result"` // activated, refused, stale, ...
	Check          string    `json:"check,omitempty"`
	Reason         string    `json:"reason,omitempty"`
	Actor          string    `json:"actor,omitempty"`
	OldVersion     int       `json:"old_version,omitempty"`
	NewVersion     int       `json:"new_version,omitempty"`
	OldFingerprint string    `json:"old_fingerprint,omitempty"` // SHA-256 of a certificate's DER, hex
	NewFingerprint string    `json:"new_fingerprint,omitempty"`
	Generation     uint64    `json:"generation,omitempty"` // of the snapshot
}
