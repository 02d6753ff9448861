package acme

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// Name is the key in an issuer's config under which its opener is told the issuer's
// name: what it keeps in the shared state stands under it.
const Name = "issuer.name"

// The challenges that a node can answer.
const (
	HTTP01    = "http-01"
	TLSALPN01 = "tls-alpn-01"
)

// Config is the settings of an issuer of type acme.
type Config struct {
	Name           string
	Directories    []Directory   // in order of preference
	Emails         []string      // that authorities write to
	Challenges     []string      // in order of preference
	PreferredChain string        // common name of the root that the chain should lead to, "" for the authority's choice
	RenewBefore    time.Duration // before the end; 0 for what the authority suggests, else a third of the lifetime
	OnDemand       OnDemand
}

// Directory is one certificate authority.
type Directory struct {
	URL      string
	EABKeyID string // of external account binding, "" for none
	EABKey   string // its HMAC key in base64url, or a reference to it
	CAFile   string // PEM that the authority's own TLS is verified with, "" for the system's
}

// OnDemand says for which names certificates are issued that no document lists.
type OnDemand struct {
	Allow  []string // globs of names; * stands for one label or a part of it
	Ask    string   // URL that answers 200 to ?domain=NAME, "" for none
	Routes bool     // hosts of routes
}

// Enabled says whether any name can be had on demand.
func (o OnDemand) Enabled() bool { return len(o.Allow) > 0 || o.Ask != "" || o.Routes }

// print tells two configs apart; the HMAC key is in it only as part of a digest.
func (c Config) print() string {
	c.OnDemand = OnDemand{}
	sum := sha256.Sum256(fmt.Appendf(nil, "%+v", c))
	return hex.EncodeToString(sum[:8])
}

// FieldError is a field of an issuer's config that is not as expected.
type FieldError struct {
	Field string // dotted
	Err   error  // what was expected
}

// Error names the field.
func (e *FieldError) Error() string { return "config." + e.Field + ": " + e.Err.Error() }

// Unwrap is what was expected.
func (e *FieldError) Unwrap() error { return e.Err }

// reader reads one object of a config and gathers what is wrong with it.
type reader struct {
	prefix string
	object map[string]any
	errs   *[]error
}

func (r reader) bad(field, format string, args ...any) {
	*r.errs = append(*r.errs, &FieldError{r.prefix + field, fmt.Errorf(format, args...)})
}

// Parse reads the settings of an issuer. Its error is one or several *FieldError, joined.
func Parse(config map[string]any) (Config, error) {
	var errs []error
	r := reader{object: config, errs: &errs}
	c := Config{Challenges: []string{TLSALPN01, HTTP01}}
	var eab Directory
	for _, name := range slices.Sorted(maps.Keys(config)) {
		switch name {
		case Name:
			c.Name = r.text(name)
		case "directories":
			c.Directories = r.directories(name)
		case "email":
			c.Emails = r.texts(name)
		case "eab_kid":
			eab.EABKeyID = r.text(name)
		case "eab_hmac_key":
			eab.EABKey = r.hmac(name)
		case "ca_file":
			eab.CAFile = r.file(name)
		case "challenges":
			c.Challenges = r.challenges(name)
		case "preferred_chain":
			c.PreferredChain = r.text(name)
		case "renew_before":
			c.RenewBefore = r.seconds(name)
		case "terms_agreed":
		case "on_demand":
			c.OnDemand = r.onDemand(name)
		default:
			r.bad(name, "unknown field; expected one of: directories, email, eab_kid, eab_hmac_key, ca_file, challenges, preferred_chain, renew_before, terms_agreed, on_demand")
		}
	}
	if agreed, _ := config["terms_agreed"].(bool); !agreed {
		r.bad("terms_agreed", "expected true: read the terms of service of the certificate authority, and agree to them here")
	}
	if _, given := config["directories"]; !given {
		r.bad("directories", "it is missing; expected the URLs of ACME directories, such as https://acme-v02.api.letsencrypt.org/directory")
	}
	c.share(eab, r)
	return c, errors.Join(errs...)
}

// share gives directories the settings of the issuer: its account binding is the
// first one's, its trust is everybody's that has none.
func (c *Config) share(common Directory, r reader) {
	for i := range c.Directories {
		d := &c.Directories[i]
		if d.CAFile == "" {
			d.CAFile = common.CAFile
		}
		if i == 0 && d.EABKeyID == "" && d.EABKey == "" {
			d.EABKeyID, d.EABKey = common.EABKeyID, common.EABKey
		}
		if (d.EABKeyID == "") != (d.EABKey == "") {
			r.bad("eab_kid", "eab_kid and eab_hmac_key go together: expected both or neither")
		}
	}
}

func (r reader) text(name string) string {
	s, ok := r.object[name].(string)
	if !ok || s == "" {
		r.bad(name, "expected a text")
	}
	return s
}

// texts reads a text or a list of them.
func (r reader) texts(name string) []string {
	if s, ok := r.object[name].(string); ok && s != "" {
		return []string{s}
	}
	list, ok := r.object[name].([]any)
	var texts []string
	for _, x := range list {
		s, isText := x.(string)
		ok = ok && isText && s != ""
		texts = append(texts, s)
	}
	if !ok || len(texts) == 0 {
		r.bad(name, "expected a text or a list of texts")
		return nil
	}
	return texts
}

func (r reader) directories(name string) []Directory {
	list, ok := r.object[name].([]any)
	if s, isText := r.object[name].(string); isText {
		list, ok = []any{s}, true
	}
	if !ok || len(list) == 0 {
		r.bad(name, "expected a list of URLs of ACME directories")
		return nil
	}
	all := make([]Directory, len(list))
	for i, x := range list {
		at := reader{prefix: fmt.Sprintf("%s.%d.", name, i+1), errs: r.errs}
		switch x := x.(type) {
		case string:
			at.object = map[string]any{"url": x}
		case map[string]any:
			at.object = x
		default:
			at.bad("url", "expected the URL of an ACME directory")
			continue
		}
		all[i] = at.directory()
	}
	return all
}

func (r reader) directory() Directory {
	var d Directory
	for _, name := range slices.Sorted(maps.Keys(r.object)) {
		switch name {
		case "url":
			d.URL = r.url(name, "https")
		case "eab_kid":
			d.EABKeyID = r.text(name)
		case "eab_hmac_key":
			d.EABKey = r.hmac(name)
		case "ca_file":
			d.CAFile = r.file(name)
		default:
			r.bad(name, "unknown field; expected one of: url, eab_kid, eab_hmac_key, ca_file")
		}
	}
	if d.URL == "" && r.object["url"] == nil {
		r.bad("url", "it is missing; expected the URL of an ACME directory")
	}
	return d
}

func (r reader) url(name string, schemes ...string) string {
	text, _ := r.object[name].(string)
	u, err := url.Parse(text)
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Host == "" || u.User != nil || u.Fragment != "" {
		r.bad(name, "expected a URL that begins with %s://", strings.Join(schemes, ":// or "))
		return ""
	}
	return text
}

// hmac reads a key or a reference to one. The text of a bad key is never told.
func (r reader) hmac(name string) string {
	s, _ := r.object[name].(string)
	if secrets.IsRef(s) {
		if _, err := secrets.ParseRef(s); err != nil {
			r.bad(name, "%w", err)
		}
		return s
	}
	if _, err := decodeHMAC(s); err != nil {
		r.bad(name, "%w", err)
	}
	return s
}

func decodeHMAC(s string) ([]byte, error) {
	key, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(s), "="))
	if err != nil || len(key) == 0 {
		return nil, errors.New("expected an HMAC key in base64url, as the authority shows it, or a {vault://...} reference")
	}
	return key, nil
}

func (r reader) file(name string) string {
	s, _ := r.object[name].(string)
	if !filepath.IsAbs(s) {
		r.bad(name, "expected the absolute path of a file in PEM")
	}
	return s
}

func (r reader) challenges(name string) []string {
	list := r.texts(name)
	for i, x := range list {
		switch {
		case x == "dns-01":
			r.bad(name, "dns-01 is not offered; expected tls-alpn-01, http-01 or both")
		case x != HTTP01 && x != TLSALPN01 || slices.Contains(list[:i], x):
			r.bad(name, "expected tls-alpn-01, http-01 or both, each once")
		}
	}
	return list
}

func (r reader) seconds(name string) time.Duration {
	n, ok := r.object[name].(float64)
	if i, isInt := r.object[name].(int); isInt {
		n, ok = float64(i), true
	}
	if !ok || n < 1 || n > 1e9 {
		r.bad(name, "expected a number of seconds")
		return 0
	}
	return time.Duration(n * float64(time.Second))
}

func (r reader) onDemand(name string) OnDemand {
	var o OnDemand
	object, ok := r.object[name].(map[string]any)
	if !ok {
		r.bad(name, "expected a record with allow, ask or routes")
		return o
	}
	in := reader{prefix: name + ".", object: object, errs: r.errs}
	for _, field := range slices.Sorted(maps.Keys(object)) {
		switch field {
		case "allow":
			for _, glob := range in.texts(field) {
				if _, err := path.Match(glob, ""); err != nil || strings.Trim(glob, "*.?") == "" {
					in.bad(field, "%q is no pattern of names that says which; expected one such as *.shops.example.com", glob)
				}
				o.Allow = append(o.Allow, strings.ToLower(glob))
			}
		case "ask":
			o.Ask = in.url(field, "https", "http")
		case "routes":
			on, isBool := object[field].(bool)
			if !isBool {
				in.bad(field, "expected true or false")
			}
			o.Routes = on
		default:
			in.bad(field, "unknown field; expected one of: allow, ask, routes")
		}
	}
	return o
}
