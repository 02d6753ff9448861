package certs

import (
	"fmt"
	"time"
)

// Check names what a version of a certificate was refused for; the set is closed,
// so that it can be a metric label.
type Check string

// The checks, in the order in which they are made.
const (
	CheckParse       Check = "parse" // not PEM, no certificate, no key, two pairs of one key type
	CheckStrength    Check = "key_strength"
	CheckEncrypted   Check = "key_encrypted"
	CheckMismatch    Check = "key_mismatch" // the key is not the leaf's
	CheckChain       Check = "chain"        // the chain does not build
	CheckExpired     Check = "expired"
	CheckNotYetValid Check = "not_yet_valid"
	CheckNames       Check = "names"       // names that the active one covers are not covered
	CheckUsage       Check = "usage"       // the leaf is not for servers, or is an authority itself
	CheckOlder       Check = "older"       // another source offers an older version than the active one
	CheckStandIn     Check = "stand_in"    // a temporary or self-signed one, where the active one is issued by a CA
	CheckStaple      Check = "must_staple" // it must be stapled, and cannot be, or not yet
	CheckHandshake   Check = "handshake"
	CheckRevoked     Check = "revoked"     // its issuer or an operator took it back
	CheckRolledBack  Check = "rolled_back" // it was active, and an earlier version was brought back
)

// Refusal says why a version was not taken.
type Refusal struct {
	Check   Check
	Message string // what was found, what was expected, what to do; no key material
	At      time.Time

	mark  [32]byte  // of the candidate, so that it is not judged again
	retry time.Time // when time alone may have cured it, zero for never

	bundles []*Bundle // that a ruling is on, or that wait for a staple
}

// Error is the check's name and the message.
func (r *Refusal) Error() string { return string(r.Check) + ": " + r.Message }

func (r *Refusal) due(now time.Time) bool { return !r.retry.IsZero() && !now.Before(r.retry) }

func refuse(c Check, format string, args ...any) *Refusal {
	return &Refusal{Check: c, Message: fmt.Sprintf(format, args...)}
}
