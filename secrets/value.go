package secrets

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// Value is a secret's bytes. Every way of formatting, logging or encoding it
// prints a redaction. It holds a pointer to a pointer on purpose: fmt cannot call
// the methods of an unexported field, and prints what it finds there; behind one
// pointer that is an address, until a verb does not fit (%s of a struct), when
// fmt follows one pointer. It never follows two.
// The zero Value is "no value" (IsZero), which is never sent anywhere.
type Value struct {
	box *box
}

type box struct{ *content }

type content struct {
	bytes []byte
	print string // fingerprint, made once
}

// NewValue takes ownership of b.
func NewValue(b []byte) Value {
	sum := sha256.Sum256(b)
	return Value{&box{&content{bytes: b, print: hex.EncodeToString(sum[:6])}}}
}

// Reveal is the secret itself: the caller must neither change nor keep nor print it.
func (v Value) Reveal() []byte {
	if v.box == nil {
		return nil
	}
	return v.box.bytes
}

// IsZero says that there is no value. An empty secret is a value.
func (v Value) IsZero() bool { return v.box == nil }

// Fingerprint identifies the content without telling it: the first 12 hex digits
// of its SHA-256 in memory only. It must not leave the process for secrets that
// can be guessed; what leaves is a version number.
func (v Value) Fingerprint() string {
	if v.box == nil {
		return ""
	}
	return v.box.print
}

// String prints a redaction.
func (v Value) String() string { return redacted }

// GoString prints a redaction.
func (v Value) GoString() string { return redacted }

// Format prints a redaction for every verb.
func (v Value) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(redacted)) }

// LogValue prints a redaction.
func (v Value) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText prints a redaction, so that JSON, YAML and flags do too.
func (v Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }
