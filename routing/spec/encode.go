package spec

import (
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/secrets"
)

// Encode writes the document in canonical form: flat YAML of format 3.0, entities
// by kind in the document's order, every field that is not null. Loading the
// result makes an equal document again.
//
// Literal secrets ARE written, as the operator wrote them: the result must be
// guarded like the document it came from. For anything that is shown, use Redacted.
func (d *Document) Encode() ([]byte, error) {
	w := &encoder{}
	w.document(d)
	return w.Bytes(), nil
}

// EncodeSlowly writes what Encode answers in pieces, and calls pause after each, nil for
// nothing: neither the memory nor the time of the whole is taken at once. Its errors are
// those of w.
func (d *Document) EncodeSlowly(w io.Writer, pause func()) error {
	e := &encoder{to: w, pause: pause}
	e.document(d)
	return e.err
}

// Redacted is Encode for dumps: references are shown, literal secrets are
// "[redacted]", also in the configs of plugins and vaults. It cannot be loaded.
func (d *Document) Redacted() ([]byte, error) {
	w := &encoder{redact: true}
	w.document(d)
	return w.Bytes(), nil
}

const redacted = "[redacted]"

// secretName is what keys of a vault's config are called whose values are secrets.
var secretName = regexp.MustCompile(`(?i)secret|token|passw|passphrase|credential|private|api_?key|key$`)

// A piece of a document that is written in pieces: entities that take some hundred
// microseconds, and no more than needed of them when they are large.
const (
	pieceEntities = 64
	pieceBytes    = 32 << 10
)

type encoder struct {
	emitter
	redact bool
	to     io.Writer // takes pieces; nil leaves the whole in the buffer
	pause  func()    // nil for none
	err    error     // of to
}

func (w *encoder) document(d *Document) {
	w.WriteString("_format_version: \"3.0\"\n_transform: false\n")
	n := 0
	for _, kind := range Kinds() {
		first := true
		for e := range d.Entities(kind) {
			if first {
				w.WriteString(kind + ":\n")
				first = false
			}
			w.entity(e)
			if n++; w.to == nil || n < pieceEntities && w.Len() < pieceBytes {
				continue
			}
			if n = 0; !w.flush() {
				return
			}
		}
	}
	if w.to != nil {
		w.flush()
	}
}

// flush writes a piece and rests.
func (w *encoder) flush() bool {
	if _, w.err = w.to.Write(w.Bytes()); w.err != nil {
		return false
	}
	w.Reset()
	if w.pause != nil {
		w.pause()
	}
	return true
}

func (w *encoder) entity(e Entity) {
	m := e.Base()
	w.WriteString("- id: ")
	w.quoted(m.ID)
	w.WriteByte('\n')
	w.member(1, "tags", &m.Tags)
	created, updated := strconv.FormatInt(m.CreatedAt, 10), strconv.FormatInt(m.UpdatedAt, 10)
	if t, ok := e.(*Target); ok {
		created, updated = seconds(t.CreatedMilli), seconds(t.UpdatedMilli)
	}
	for _, at := range [][2]string{{"created_at", created}, {"updated_at", updated}} {
		if at[1] != "0" {
			w.key(1, at[0])
			w.scalar(at[1])
		}
	}
	e.fields(func(f field) {
		if config, ok := f.at.(*map[string]any); ok && w.redact {
			hidden := redactConfig(e, *config)
			w.member(1, f.name, &hidden)
			return
		}
		if list, ok := f.at.(*[]string); ok && len(*list) == 0 && f.rule.notNull {
			// Left out it would get its default when it is read: a plugin for no
			// protocol would be one for all of them.
			w.key(1, f.name)
			w.scalar("[]")
			return
		}
		w.member(1, f.name, f.at)
	})
}

func seconds(milli int64) string {
	return strconv.FormatFloat(float64(milli)/1000, 'f', -1, 64)
}

// member writes one field, nothing if it is null.
func (w *encoder) member(depth int, name string, at any) {
	switch at := at.(type) {
	case *string:
		if *at != "" {
			w.key(depth, name)
			w.text(depth, *at)
		}
	case *int:
		w.key(depth, name)
		w.scalar(itoa(*at))
	case **int:
		if *at != nil {
			w.key(depth, name)
			w.scalar(itoa(**at))
		}
	case *int64:
		w.key(depth, name)
		w.scalar(strconv.FormatInt(*at, 10))
	case *float64:
		w.key(depth, name)
		w.scalar(number(*at))
	case *bool:
		w.key(depth, name)
		w.scalar(strconv.FormatBool(*at))
	case **bool:
		if *at != nil {
			w.key(depth, name)
			w.scalar(strconv.FormatBool(**at))
		}
	case *[]string:
		if len(*at) > 0 {
			w.key(depth, name)
			w.value(depth, toAny(*at))
		}
	case *[]int:
		w.key(depth, name)
		w.value(depth, toAny(*at))
	case *[]Endpoint:
		w.endpoints(depth, name, *at)
	case *map[string][]string:
		if len(*at) > 0 {
			object := make(map[string]any, len(*at))
			for k, list := range *at {
				object[k] = toAny(list)
			}
			w.key(depth, name)
			w.value(depth+1, object)
		}
	case *map[string]any:
		if *at != nil {
			w.key(depth, name)
			w.value(depth+1, *at)
		}
	case *Secret:
		w.secret(depth, name, at)
	case *[]Secret:
		w.secrets(depth, name, *at)
	case *[]VaultRule:
		w.vaultRules(depth, name, *at)
	case records:
		w.records(depth, name, at)
	case optional:
		if at.given {
			w.member(depth, name, at.group)
		}
	case group:
		w.key(depth, name)
		w.WriteByte('\n')
		at(func(f field) { w.member(depth+1, f.name, f.at) })
	}
}

func (w *encoder) endpoints(depth int, name string, list []Endpoint) {
	if len(list) == 0 {
		return
	}
	items := make([]any, len(list))
	for i, e := range list {
		object := map[string]any{}
		if e.IP != "" {
			object["ip"] = e.IP
		}
		if e.Port != 0 || e.IP == "" {
			object["port"] = float64(e.Port)
		}
		items[i] = object
	}
	w.key(depth, name)
	w.value(depth, items)
}

func (w *encoder) secret(depth int, name string, s *Secret) {
	if s.IsZero() {
		return
	}
	w.key(depth, name)
	w.secretText(depth, s)
}

func (w *encoder) secretText(depth int, s *Secret) {
	switch {
	case !s.Ref.IsZero():
		w.text(depth, s.Ref.String())
	case w.redact:
		w.text(depth, redacted)
	default:
		w.text(depth, string(s.Value.Reveal()))
	}
}

func toAny[T any](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
		if n, ok := out[i].(int); ok {
			out[i] = float64(n)
		}
	}
	return out
}

// redactConfig copies a config without its secrets: where the schema of a plugin
// says that there is one, and in a vault whatever is called like one.
func redactConfig(e Entity, config map[string]any) map[string]any {
	if config == nil {
		return nil
	}
	hidden, _ := redactAt(config, "", func(path string) bool {
		if p, ok := e.(*Plugin); ok {
			return slices.Contains(p.secrets, path)
		}
		return secretName.MatchString(path[strings.LastIndexByte(path, '.')+1:])
	}).(map[string]any)
	return hidden
}

func redactAt(v any, path string, isSecret func(path string) bool) any {
	switch v := v.(type) {
	case string:
		if isSecret(path) && !secrets.IsRef(v) {
			return redacted
		}
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = redactAt(v[i], dotted(path, itoa(i+1)), isSecret)
		}
		return list
	case map[string]any:
		object := make(map[string]any, len(v))
		for k, item := range v {
			object[k] = redactAt(item, dotted(path, k), isSecret)
		}
		return object
	}
	return v
}

func dotted(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
