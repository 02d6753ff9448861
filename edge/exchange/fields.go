package exchange

import "iter"

// Field is one field line of a header or trailer section: its name as it was
// received or set (case kept), and its value without surrounding white space.
type Field struct {
	Name, Value string
}

// Fields is an ordered list of field lines. Order and duplicates survive;
// look-up ignores ASCII case (RFC 9110, section 5.1). The zero value is an
// empty list ready to use. A Fields must not be copied after first use; it is
// not safe for concurrent use.
type Fields struct {
	list []Field
}

// Len is the number of field lines.
func (f *Fields) Len() int { return len(f.list) }

// At is the i-th field line in order.
func (f *Fields) At(i int) Field { return f.list[i] }

// Reset empties the list and keeps its memory for reuse.
func (f *Fields) Reset() {
	clear(f.list)
	f.list = f.list[:0]
}

// Add appends a field line.
func (f *Fields) Add(name, value string) {
	f.list = append(f.list, Field{name, value})
}

// Get is the value of the first line called name, "" if there is none.
func (f *Fields) Get(name string) string {
	v, _ := f.Lookup(name)
	return v
}

// Lookup is the value of the first line called name, and whether there is one.
func (f *Fields) Lookup(name string) (string, bool) {
	for i := range f.list {
		if EqualFold(f.list[i].Name, name) {
			return f.list[i].Value, true
		}
	}
	return "", false
}

// Has says whether there is a line called name.
func (f *Fields) Has(name string) bool {
	_, ok := f.Lookup(name)
	return ok
}

// Count is the number of lines called name.
func (f *Fields) Count(name string) int {
	n := 0
	for i := range f.list {
		if EqualFold(f.list[i].Name, name) {
			n++
		}
	}
	return n
}

// Values yields the values of the lines called name, in order.
func (f *Fields) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range f.list {
			if EqualFold(f.list[i].Name, name) && !yield(f.list[i].Value) {
				return
			}
		}
	}
}

// All yields every field line in order. The list must not be changed meanwhile.
func (f *Fields) All() iter.Seq[Field] {
	return func(yield func(Field) bool) {
		for _, x := range f.list {
			if !yield(x) {
				return
			}
		}
	}
}

// Set makes name have exactly one line with value: the first line of that name
// is changed in place (and takes this spelling), others are removed; with none,
// a line is appended.
func (f *Fields) Set(name, value string) {
	for i := range f.list {
		if !EqualFold(f.list[i].Name, name) {
			continue
		}
		f.list[i] = Field{name, value}
		kept := f.list[:i+1]
		for _, x := range f.list[i+1:] {
			if !EqualFold(x.Name, name) {
				kept = append(kept, x)
			}
		}
		f.truncate(kept)
		return
	}
	f.list = append(f.list, Field{name, value})
}

// Del removes every line called name and says whether there was one.
func (f *Fields) Del(name string) bool {
	for i := range f.list {
		if EqualFold(f.list[i].Name, name) {
			f.DeleteFunc(func(x Field) bool { return EqualFold(x.Name, name) })
			return true
		}
	}
	return false
}

// DeleteFunc removes every line for which del answers true.
func (f *Fields) DeleteFunc(del func(Field) bool) {
	kept := f.list[:0]
	for _, x := range f.list {
		if !del(x) {
			kept = append(kept, x)
		}
	}
	f.truncate(kept)
}

// Rename gives every line called from the name to.
func (f *Fields) Rename(from, to string) {
	for i := range f.list {
		if EqualFold(f.list[i].Name, from) {
			f.list[i].Name = to
		}
	}
}

// CopyFrom replaces the list by a copy of src.
func (f *Fields) CopyFrom(src *Fields) {
	f.Reset()
	f.list = append(f.list, src.list...)
}

func (f *Fields) truncate(kept []Field) {
	clear(f.list[len(kept):])
	f.list = kept
}

// EqualFold compares two strings ignoring the case of ASCII letters only, as
// field names and tokens need it: unlike strings.EqualFold no other letter
// folds (the Kelvin sign is not a k).
func EqualFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z' {
			return false
		}
	}
	return true
}
