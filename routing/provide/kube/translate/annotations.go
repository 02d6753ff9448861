package translate

import (
	"slices"
	"strconv"
	"strings"
)

// Prefixes of annotations: ours, then those that manifests have from elsewhere.
const (
	ownPrefix  = "keyway.dev/"
	kongPrefix = "konghq.com/"
)

// annotated answers the value of an annotation under either prefix, "" for none,
// and what problems call it. Ours wins.
func annotated(m *Meta, name string) (value, field string) {
	for _, prefix := range [...]string{ownPrefix, kongPrefix} {
		if v, ok := m.Annotations[prefix+name]; ok {
			return v, annotation(prefix + name)
		}
	}
	return "", annotation(kongPrefix + name)
}

// annotation is what problems call an annotation.
func annotation(name string) string { return "metadata.annotations[" + name + "]" }

// commaList splits at commas, without blanks and what is empty.
func commaList(text string) []string {
	var list []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}

// boolean sets a field from an annotation that says true or false.
func (w *run) boolean(m *Meta, name string, set func(bool)) {
	text, field := annotated(m, name)
	switch text {
	case "":
	case "true", "false":
		set(text == "true")
	default:
		w.ignore(field, "expected true or false, not '"+text+"'")
	}
}

// guard is boolean for what keeps access narrow: a doubtful value cannot be left out.
func (w *run) guard(field, text string, set func(bool)) {
	switch text {
	case "":
	case "true", "false":
		set(text == "true")
	default:
		w.refuse(field, "expected true or false, not '"+text+"'")
	}
}

// whole sets a field from an annotation that is a whole number.
func (w *run) whole(m *Meta, name string, least, most int, set func(int)) {
	text, field := annotated(m, name)
	if text == "" {
		return
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		w.ignore(field, "expected a whole number from "+strconv.Itoa(least)+" to "+strconv.Itoa(most)+", not '"+text+"'")
		return
	}
	set(n)
}

// choice sets a field from an annotation that is one of some words.
func (w *run) choice(m *Meta, name string, words []string, set func(string)) {
	text, field := annotated(m, name)
	switch {
	case text == "":
	case slices.Contains(words, text):
		set(text)
	default:
		w.ignore(field, "expected one of "+strings.Join(words, ", ")+", not '"+text+"'")
	}
}
