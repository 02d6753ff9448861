package secrets

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// Ref is a reference to a secret, in the grammar
//
//	{vault://<vault>/<resource>[/<key>][?<overrides>][#<version>]}
//
// where the whole string is the reference. One path segment is the resource; of
// several the last is the key and the rest the resource; after a trailing slash
// all of it is the resource. Segments are percent-decoded. The zero Ref refers to
// nothing. A reference is not secret and prints as it was written.
type Ref struct {
	raw      string
	Vault    string // a kind of source, or the prefix of a vault entity
	Resource string
	Key      string // "" for the whole secret
	Query    string // overrides, raw
	Version  int    // 0 when not given
}

// IsRef says whether s has the form of a reference, right or wrong; anything else is a literal.
func IsRef(s string) bool {
	return strings.HasPrefix(s, "{vault://") && strings.HasSuffix(s, "}")
}

// ParseRef reads a reference. The error says what was expected and shows the
// reference, which is not secret.
func ParseRef(s string) (Ref, error) {
	bad := func(why string) (Ref, error) {
		return Ref{}, fmt.Errorf("reference %q: %s; expected {vault://<vault>/<resource>[/<key>][?<option>=<value>][#<version>]}", s, why)
	}
	if !IsRef(s) {
		return bad("it is not a reference")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return bad("it has characters that do not print; percent-encode them")
	}
	body, fragment, hasFragment := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(s, "{vault://"), "}"), "#")
	body, query, _ := strings.Cut(body, "?")
	vault, path, ok := strings.Cut(body, "/")
	if !ok || vault == "" || strings.Trim(path, "/") == "" {
		return bad("vault or resource is missing")
	}
	r := Ref{raw: s, Vault: vault, Query: query}
	if _, err := url.ParseQuery(query); err != nil {
		return bad("its query cannot be parsed")
	}
	if hasFragment {
		n, err := strconv.Atoi(fragment)
		if err != nil || n < 0 {
			return bad("its version is not a number")
		}
		r.Version = n
	}
	resource, key := path, ""
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		resource, key = path[:i], path[i+1:]
	}
	var err error
	if r.Resource, err = url.PathUnescape(resource); err != nil {
		return bad("its resource is not percent-encoded right")
	}
	if r.Key, err = url.PathUnescape(key); err != nil {
		return bad("its key is not percent-encoded right")
	}
	if r.Resource == "" {
		return bad("its resource is empty")
	}
	return r, nil
}

// String is the reference as it was written.
func (r Ref) String() string { return r.raw }

// IsZero says that it refers to nothing.
func (r Ref) IsZero() bool { return r.raw == "" }
