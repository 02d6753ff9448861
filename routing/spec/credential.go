package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Issuer (x_keyway_issuers) makes certificates: an ACME directory or a Vault PKI
// role. A certificate that names one has no pair of its own.
type Issuer struct {
	Meta
	Name   string
	Type   string // acme, vault_pki
	Config map[string]any
}

// UpstreamAuth (x_keyway_upstream_auth) is the credential that a service's requests
// are sent with. It is put in after every plugin, so that none sees its value.
type UpstreamAuth struct {
	Type                                       string // header, bearer, basic, query, aws_sigv4, client_certificate
	Name                                       string // of the header or the query argument
	Value                                      Secret // of header, query and bearer
	Username, Password                         Secret // of basic
	AccessKeyID, SecretAccessKey, SessionToken Secret // of aws_sigv4
	Region, ServiceName                        string
	Cert, Key                                  Secret // of client_certificate, PEM
	RefreshOn                                  []int  // answers after which the credential is fetched anew
}

// VaultRule (x_keyway_allow) allows some users some of a vault's secrets. Each list
// that is not empty must have something that fits.
type VaultRule struct {
	Paths      []string // globs of resources: * within a segment, ** across
	Entities   []string // kinds: services, plugins, ...
	Names      []string // globs of entity names
	Tags       []string // one of these
	Namespaces []string // of a Kubernetes object that the entity comes from: its tag k8s-namespace:<name>
}

// defaultAuth is what a credential has that its fields do not say.
func defaultAuth() UpstreamAuth { return UpstreamAuth{RefreshOn: []int{401, 403}} }

func (a *UpstreamAuth) fields(visit func(field)) {
	visit(field{"type", &a.Type, authType})
	visit(field{"name", &a.Name, isHeader})
	visit(field{"value", &a.Value, anyText})
	visit(field{"username", &a.Username, anyText})
	visit(field{"password", &a.Password, anyText})
	visit(field{"access_key_id", &a.AccessKeyID, anyText})
	visit(field{"secret_access_key", &a.SecretAccessKey, anyText})
	visit(field{"session_token", &a.SessionToken, anyText})
	visit(field{"region", &a.Region, anyText})
	visit(field{"service", &a.ServiceName, anyText})
	visit(field{"cert", &a.Cert, optionalPEM})
	visit(field{"key", &a.Key, optionalPEM})
	visit(field{"refresh_on", &a.RefreshOn, isStatus})
}

func (r *VaultRule) fields(visit func(field)) {
	visit(field{"paths", &r.Paths, globs})
	visit(field{"entities", &r.Entities, &rule{set: true, oneOf: Kinds()}})
	visit(field{"names", &r.Names, globs})
	visit(field{"tags", &r.Tags, isTag})
	visit(field{"namespaces", &r.Namespaces, globs})
}

// needs lists what a type of upstream credential must have, and what it may.
func (a *UpstreamAuth) needs() (must, may []string) {
	switch a.Type {
	case "header", "query":
		return []string{"name", "value"}, nil
	case "bearer":
		return []string{"value"}, nil
	case "basic":
		return []string{"username", "password"}, nil
	case "aws_sigv4":
		return []string{"access_key_id", "secret_access_key", "region", "service"}, []string{"session_token"}
	case "client_certificate":
		return []string{"cert", "key"}, nil
	}
	return nil, nil
}

func (o *object) judgeAuth(s *Service) {
	const name = "x_keyway_upstream_auth"
	a := s.UpstreamAuth
	if a == nil {
		return
	}
	must, may := a.needs()
	inner := newObject(o.l, o.e, o.at(name), name+".")
	for _, f := range must {
		if !inner.given(f) {
			inner.bad(inner.n, f, ReasonRequired, "required field missing, since 'type' is '"+a.Type+"'")
		}
	}
	for _, k := range inner.n.keys {
		if k.name != "type" && k.name != "refresh_on" && inner.given(k.name) && !slices.Contains(must, k.name) && !slices.Contains(may, k.name) {
			inner.conflict(k.name, "expected nothing, since 'type' is '"+a.Type+"'")
		}
	}
	switch {
	case !strings.HasPrefix(s.Protocol, "http") && !strings.HasPrefix(s.Protocol, "grpc"):
		o.conflict(name, "expected nothing, since 'protocol' is '"+s.Protocol+"'")
	case a.Type == "client_certificate" && s.Protocol != "https" && s.Protocol != "grpcs":
		o.conflict(name, "a client certificate needs 'protocol' to be https")
	case a.Type == "client_certificate" && s.ClientCertificate != "":
		o.conflict("client_certificate", "expected nothing, since 'x_keyway_upstream_auth' has a client certificate; remove one of the two")
	case a.Type == "header" && reservedHeader(a.Name):
		inner.conflict("name", "'"+a.Name+"' is a field that the proxy writes itself; expected another one")
	}
}

// reservedHeader says that a field frames the message or belongs to the connection.
func reservedHeader(name string) bool {
	return slices.ContainsFunc([]string{
		"Host", "Connection", "Content-Length", "Transfer-Encoding", "Upgrade", "Via", "TE", "Trailer", "Expect", "Keep-Alive", "Proxy-Connection",
	}, func(own string) bool { return strings.EqualFold(own, name) })
}

// judgeSource has the build's own check look at the config of a vault or an issuer.
func (o *object) judgeSource(kind, field, name string, config map[string]any) {
	schema, ok := o.l.schemas[kind+"/"+name]
	if !ok {
		if known := o.l.schemas.under(kind + "/"); len(known) > 0 {
			o.bad(o.at(field), field, ReasonUnknown, "'"+name+"' is not in this build; expected one of: "+strings.Join(known, ", "))
		}
		return
	}
	if schema.Verify == nil {
		return
	}
	for _, e := range schema.Verify(config) {
		o.bad(o.at("config"), dotted("config", e.Field), ReasonValue, e.Message)
	}
}

func (s Schemas) under(prefix string) []string {
	var names []string
	for _, name := range sortedKeys(s) {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			names = append(names, rest)
		}
	}
	return names
}

func (o *object) secrets(v *node, f field, at *[]Secret) {
	items, ok := o.items(v, f.name, f.rule)
	if !ok {
		return
	}
	list := make([]Secret, len(items))
	for i, item := range items {
		o.secret(item, field{f.name + "." + itoa(i+1), nil, f.rule}, &list[i])
	}
	if len(list) > 0 {
		*at = list
	}
}

func (o *object) vaultRules(v *node, name string, at *[]VaultRule) {
	items, ok := o.items(v, name, noRule)
	if !ok {
		return
	}
	*at = nil
	for i, item := range items {
		at1 := name + "." + itoa(i+1)
		if item.shape != shapeObject {
			o.bad(item, at1, ReasonType, "expected a record")
			continue
		}
		inner := newObject(o.l, o.e, item, o.prefix+at1+".")
		var r VaultRule
		r.fields(inner.field)
		inner.rest()
		*at = append(*at, r)
	}
}

func (w *encoder) secrets(depth int, name string, list []Secret) {
	if len(list) == 0 {
		return
	}
	w.key(depth, name)
	w.WriteByte('\n')
	for i := range list {
		w.indent(depth)
		w.WriteByte('-')
		w.secretText(depth+1, &list[i])
	}
}

func (w *encoder) vaultRules(depth int, name string, list []VaultRule) {
	if len(list) == 0 {
		return
	}
	items := make([]any, len(list))
	for i := range list {
		object := map[string]any{}
		list[i].fields(func(f field) {
			if texts, ok := f.at.(*[]string); ok && len(*texts) > 0 {
				object[f.name] = toAny(*texts)
			}
		})
		items[i] = object
	}
	w.key(depth, name)
	w.value(depth, items)
}

func checkGlob(s string) string {
	if s == "" {
		return tooShort
	}
	if _, err := path.Match(s, ""); err != nil {
		return "invalid pattern '" + s + "': expected text with *, ** and ?"
	}
	return ""
}

// glob matches a pattern segment by segment: * and ? stay within one, ** is any
// number of them.
func glob(pattern, text string) bool {
	return globParts(strings.Split(pattern, "/"), strings.Split(text, "/"))
}

func globParts(pattern, text []string) bool {
	for len(pattern) > 0 {
		if pattern[0] == "**" {
			for i := len(text); i >= 0; i-- {
				if globParts(pattern[1:], text[i:]) {
					return true
				}
			}
			return false
		}
		if len(text) == 0 {
			return false
		}
		if ok, err := path.Match(pattern[0], text[0]); err != nil || !ok {
			return false
		}
		pattern, text = pattern[1:], text[1:]
	}
	return len(text) == 0
}

// Allows says whether the rules of the vault let an object use a resource.
func (v *Vault) Allows(resource string, u Use) bool {
	return len(v.Allow) == 0 || slices.ContainsFunc(v.Allow, func(r VaultRule) bool { return r.lacks(resource, u) == "" })
}

// lacks names the list of a rule that leaves a use out, "" for none.
func (r *VaultRule) lacks(resource string, u Use) string {
	anyGlob := func(patterns []string, text string) bool {
		return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return glob(p, text) })
	}
	switch {
	case !anyGlob(r.Paths, resource):
		return "paths"
	case !anyGlob(r.Names, u.Name):
		return "names"
	case len(r.Entities) > 0 && !slices.Contains(r.Entities, u.Kind):
		return "entities"
	case len(r.Tags) > 0 && !slices.ContainsFunc(r.Tags, func(t string) bool { return slices.Contains(u.Tags, t) }):
		return "tags"
	case len(r.Namespaces) > 0 && !slices.ContainsFunc(u.Tags, func(t string) bool {
		ns, ok := strings.CutPrefix(t, "k8s-namespace:")
		return ok && anyGlob(r.Namespaces, ns)
	}):
		return "namespaces"
	}
	return ""
}

// Denial says which rules keep an object from using a reference that Permits does
// not allow, each by the first of its lists that leaves the object out.
func (d *Document) Denial(u Use) string {
	const most = 4
	i := slices.IndexFunc(d.Vaults, func(v *Vault) bool { return v.Prefix == u.Ref.Vault })
	if i < 0 {
		return ""
	}
	var by []string
	for n, r := range d.Vaults[i].Allow {
		if n == most {
			by = append(by, fmt.Sprintf("and %d more", len(d.Vaults[i].Allow)-most))
			break
		}
		by = append(by, fmt.Sprintf("x_keyway_allow[%d] by its %s", n, r.lacks(u.Ref.Resource, u)))
	}
	return fmt.Sprintf("the rules (x_keyway_allow) of vault '%s' do not let this object use '%s' (%s); allow it there or use another secret",
		u.Ref.Vault, u.Ref.Resource, strings.Join(by, ", "))
}

// Permits says whether the rules of the document's vaults let an object use a
// reference; a vault without an entity has no rules.
func (d *Document) Permits(u Use) bool {
	i := slices.IndexFunc(d.Vaults, func(v *Vault) bool { return v.Prefix == u.Ref.Vault })
	return i < 0 || d.Vaults[i].Allows(u.Ref.Resource, u)
}

// judgeUses refuses references that the rules of their vault do not allow.
func (l *loader) judgeUses() {
	ruled := slices.ContainsFunc(l.doc.Vaults, func(v *Vault) bool { return len(v.Allow) > 0 })
	if !ruled {
		return
	}
	for u := range l.doc.Uses() {
		if !l.doc.Permits(u) {
			l.blame(u.entity, u.entity.Base().Pos, u.Field, ReasonReference, l.doc.Denial(u))
		}
	}
}
