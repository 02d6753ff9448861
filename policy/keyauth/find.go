package keyauth

import (
	"errors"
	"net/url"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
)

// bodyLimit is how much of a body is read to look for a key: forms and small
// JSON. A key in a longer body is not found.
const bodyLimit = 1 << 20

// found is what one place of the request says about one name.
type found uint8

const (
	absent found = iota
	single
	several
)

// find looks under each name in turn, in the fields, then the query, then the
// body. The first name that anything is found under decides, also when its value
// is empty: what a client says twice in two ways is not for this plugin to weigh.
func (a *plugin) find(c *policy.Context) (name, key string, err error) {
	var body form
	if a.InBody {
		if body, err = readForm(c); err != nil {
			return "", "", err
		}
	}
	for _, name := range a.KeyNames {
		key, n := "", absent
		if a.InHeader {
			key, n = inFields(&c.X.Request.Fields, name)
		}
		if n == absent && a.InQuery {
			key, n = inQuery(c.X.Request.Query, name)
		}
		if n == absent && body != nil {
			key, n = body.get(name)
		}
		switch n {
		case single:
			return name, key, nil
		case several:
			return "", "", errDuplicate
		}
	}
	return "", "", nil
}

func inFields(f *exchange.Fields, name string) (string, found) {
	value, n := "", absent
	for x := range f.Values(name) {
		if n != absent {
			return "", several
		}
		value, n = x, single
	}
	return value, n
}

// inQuery reads a query or a form. A name without '=' has no value at all.
func inQuery(query, name string) (string, found) {
	value, n := "", absent
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		k, v, has := strings.Cut(pair, "=")
		if !has || !isName(k, name) {
			continue
		}
		if n != absent {
			return "", several
		}
		n = single
		if value = v; strings.ContainsAny(v, "%+") {
			if text, err := url.QueryUnescape(v); err == nil {
				value = text
			}
		}
	}
	return value, n
}

// isName compares an encoded name with a plain one, without decoding the usual ones.
func isName(encoded, name string) bool {
	if encoded == name {
		return true
	}
	if !strings.ContainsAny(encoded, "%+") {
		return false
	}
	text, err := url.QueryUnescape(encoded)
	return err == nil && text == name
}

// dropQuery takes every pair called name out of a query or form. The others are
// written anew in one spelling ("+" for a space), as readers of this format expect.
func dropQuery(query, name string) (rest string, dropped bool) {
	var b strings.Builder
	for pair := range strings.SplitSeq(query, "&") {
		k, v, has := strings.Cut(pair, "=")
		switch {
		case isName(k, name):
			dropped = true
			continue
		case pair == "":
			continue
		case b.Len() > 0:
			b.WriteByte('&')
		}
		b.WriteString(respell(k))
		if has {
			b.WriteByte('=')
			b.WriteString(respell(v))
		}
	}
	return b.String(), dropped
}

// respell leaves what cannot be decoded as it is.
func respell(s string) string {
	text, err := url.QueryUnescape(s)
	if err != nil {
		return s
	}
	return url.QueryEscape(text)
}

// hide takes the credential out of everything that goes upstream under its name.
func (a *plugin) hide(c *policy.Context, name string) {
	r := &c.X.Request
	r.Fields.Del(name)
	if rest, dropped := dropQuery(r.Query, name); dropped {
		c.SetQuery(rest, rest != "")
	}
	if !a.InBody {
		return
	}
	// The body is in memory since find; a form that cannot be read holds no key.
	if body, err := readForm(c); err == nil && body != nil {
		if rest, dropped := body.without(name); dropped {
			c.SetRequestBody(rest)
		}
	}
}

// readForm is the body as a form, nil when it is none or too long to be looked into.
func readForm(c *policy.Context) (form, error) {
	kind, params := formKind(c.X.Request.Fields.Get("Content-Type"))
	if kind == notForm || !c.X.Request.HasBody() {
		return nil, nil
	}
	raw, err := c.RequestBody(bodyLimit)
	if errors.Is(err, policy.ErrBodyTooLarge) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseForm(kind, params, raw), nil
}
