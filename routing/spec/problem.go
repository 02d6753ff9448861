package spec

import (
	"fmt"
	"strings"
)

// Reason classifies a Problem; the set is closed, so that it can be a metric label.
type Reason string

// The reasons.
const (
	ReasonSyntax     Reason = "syntax"     // not YAML, not JSON, wrong shape
	ReasonUnknown    Reason = "unknown"    // unknown entity, field or plugin
	ReasonType       Reason = "type"       // wrong type
	ReasonValue      Reason = "value"      // right type, bad value
	ReasonRequired   Reason = "required"   // missing
	ReasonConflict   Reason = "conflict"   // fields that exclude or need each other
	ReasonDuplicate  Reason = "duplicate"  // uniqueness
	ReasonReference  Reason = "reference"  // foreign key leads nowhere
	ReasonCredential Reason = "credential" // a secret or certificate is missing or refused
	ReasonCompile    Reason = "compile"    // a plugin or router refused it
)

// Problem is one thing wrong with a document: which object, which field, where,
// what was expected and what to do. It never contains a secret value.
type Problem struct {
	Pos     Pos
	Entity  string // "services", "routes", ...; "" for the document
	ID      string // entity's id where known
	Name    string // entity's name where it has one
	Field   string // "paths.1", "config.minute", "@entity" for a rule over several fields
	Reason  Reason
	Message string // what was expected, e.g. "expected an integer"
}

// Error renders the problem in one line.
func (p *Problem) Error() string {
	var b strings.Builder
	if p.Pos.File != "" {
		b.WriteString(p.Pos.String() + ": ")
	}
	if p.Entity != "" {
		b.WriteString(p.Entity)
		if p.Name != "" {
			fmt.Fprintf(&b, " %q", p.Name)
		} else if p.ID != "" {
			fmt.Fprintf(&b, " %s", p.ID)
		}
		b.WriteString(": ")
	}
	if p.Field != "" {
		fmt.Fprintf(&b, "%s: ", p.Field)
	}
	b.WriteString(p.Message)
	return oneLine(b.String())
}

// oneLine shows what would end a line, or begin another, as an escape: messages quote
// what documents say.
func oneLine(s string) string {
	if !strings.ContainsFunc(s, breaks) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if breaks(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func breaks(r rune) bool {
	return r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029'
}

// Problems is every problem of a document, in order of position. It is an error
// when it is not empty.
type Problems []*Problem

// Error renders one problem a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}
