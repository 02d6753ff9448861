package translate

// Effect is what became of what was refused.
type Effect string

// The effects.
const (
	Ignored Effect = "ignored" // the value alone; its default stands
	Closed  Effect = "closed"  // what the object serves answers 503
	Kept    Effect = "kept"    // the object's last good form serves
	Failed  Effect = "failed"  // its share of requests answers 500

	Displaced Effect = "displaced" // another document has its place
)

// Finding is one thing that was refused: of which object, which field, and what was
// expected there.
type Finding struct {
	Object  Ref
	UID     string
	Field   string // "metadata.annotations[konghq.com/protocols]"
	Message string
	Effect  Effect
}

// Error renders the finding in one line.
func (f Finding) Error() string {
	text := f.Object.String() + ": " + f.Field + ": " + f.Message
	switch f.Effect {
	case Closed:
		return text + "; what it serves answers 503 until then"
	case Kept:
		return text + "; its last good form serves until then"
	case Failed:
		return text + "; its share of requests answers 500 until then"
	}
	return text + "; it is left out"
}

// ignore notes that a value was left out without which nobody has more access.
func (w *run) ignore(field, message string) { w.find(field, message, Ignored) }

// refuse notes what cannot be left out.
func (w *run) refuse(field, message string) {
	if !w.refused {
		of := w.self
		if w.subject != nil {
			of = RefOf(w.subject)
		}
		w.refused, w.why = true, of.String()+": "+field+": "+message
	}
	w.find(field, message, Closed)
}

// findOf notes a finding of an object that may be another than the unit's.
func (w *run) findOf(of Ref, field, message string, effect Effect) {
	if o := w.look(of.Kind, of.Namespace, of.Name); o != nil {
		w.findings = append(w.findings, Finding{Object: of, UID: o.Common().UID, Field: field, Message: message, Effect: effect})
	}
}

func (w *run) find(field, message string, effect Effect) {
	if w.subject == nil {
		return
	}
	w.findings = append(w.findings, Finding{Object: RefOf(w.subject), UID: w.subject.Common().UID, Field: field, Message: message, Effect: effect})
}
