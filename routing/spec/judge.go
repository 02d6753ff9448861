package spec

import (
	"net/url"
	"slices"
	"strings"
)

// onEntity is the field of problems that are about several fields at once.
const onEntity = "@entity"

// judge applies the rules over several fields of one entity whose fields are
// right one by one.
func (o *object) judge() {
	switch e := o.e.(type) {
	case *Service:
		o.judgeService(e)
	case *Route:
		o.judgeRoute(e)
	case *Upstream:
		o.judgeUpstream(e)
	case *Target:
		e.Target = withPort(e.Target)
	case *Consumer:
		o.judgeConsumer(e)
	case *Plugin:
		o.judgePlugin(e)
	case *Certificate:
		o.judgeCertificate(e)
	case *CACertificate:
		o.judgeAuthority(e)
	case *TLSPolicy:
		o.judgePolicy(e)
	case *Listener:
		o.judgeListener(e)
	case *Vault:
		o.judgeSource("vaults", "name", e.Name, e.Config)
	case *Issuer:
		o.judgeSource("x_keyway_issuers", "type", e.Type, e.Config)
	}
}

// at answers where a field was written, the entity if it was not.
func (o *object) at(name string) *node {
	if v := o.n.get(name); v != nil {
		return v
	}
	return o.n
}

func (o *object) conflict(name, message string) {
	o.bad(o.at(name), name, ReasonConflict, message)
}

// unmet reports a condition in the two halves that users of the format know.
func (o *object) unmet(on, name string, reason Reason, message string) {
	o.bad(o.at(name), name, reason, message)
	o.bad(o.at(on), onEntity, ReasonConflict, "failed conditional validation given value of field '"+on+"'")
}

func (o *object) judgeService(s *Service) {
	if s.Path != "" && slices.Contains([]string{"tcp", "tls", "udp", "grpc", "grpcs"}, s.Protocol) {
		o.unmet("protocol", "path", ReasonConflict, "value must be null")
	}
	// A pooled connection is of many clients: a header at its beginning would name one for all.
	if s.ProxyProtocol != "" && !slices.Contains([]string{"tcp", "tls", "tls_passthrough"}, s.Protocol) {
		o.unmet("protocol", "x_keyway_proxy_protocol", ReasonConflict, "value must be null: the header begins a connection that is of one client, and only services of protocol tcp, tls and tls_passthrough have such connections")
	}
	o.judgeAuth(s)
	o.judgeUpstreamProtocol(s)
	if s.Protocol == "https" || s.Protocol == "tls" {
		return
	}
	for _, name := range []string{"client_certificate", "tls_verify", "tls_verify_depth", "ca_certificates", "tls_sans", "x_keyway_tls_name", "x_keyway_tls_subjects"} {
		if o.given(name) {
			o.unmet("protocol", name, ReasonConflict, "value must be null")
		}
	}
}

// checkTLSName holds a name in a handshake to what certificates can have.
func checkTLSName(s string) string {
	if strings.Contains(s, "*") {
		return "invalid value '" + s + "': expected the name of one host"
	}
	return checkSNI(s)
}

// checkTLSSubject holds a subject to what certificates can have: a host, all hosts below
// one, or a URI.
func checkTLSSubject(s string) string {
	if strings.Contains(s, "://") {
		if u, err := url.Parse(s); err != nil || u.Scheme == "" {
			return "invalid value '" + s + "': expected a host, a URI, or *. before a host"
		}
		return ""
	}
	return checkTLSName(strings.TrimPrefix(s, "*."))
}

// checkSANName holds a name of a certificate to what one can have: a DNS name, or *. before
// one. Addresses are another kind of name, of which the format has no list.
func checkSANName(s string) string {
	if checkTLSName(strings.TrimPrefix(s, "*.")) != "" {
		return "invalid value '" + s + "': expected a DNS name such as api.example.com, or *.example.com for a certificate that has it so"
	}
	return ""
}

// checkSANURI holds a URI of a certificate to what one can have: an absolute one in ASCII.
func checkSANURI(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Opaque+u.Host+u.Path == "" || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return "invalid value '" + s + "': expected an absolute URI such as spiffe://example.com/orders"
	}
	return ""
}

// judgeUpstreamProtocol holds x_keyway_upstream_protocol to the service's own protocol.
func (o *object) judgeUpstreamProtocol(s *Service) {
	const name = "x_keyway_upstream_protocol"
	want := map[string]string{"http/1.1": "http https", "h2": "https grpcs", "h2c": "http grpc"}[s.UpstreamProtocol]
	if want != "" && !slices.Contains(strings.Fields(want), s.Protocol) {
		o.conflict(name, "'"+s.UpstreamProtocol+"' does not go with protocol '"+s.Protocol+"'; expected h2 for https, h2c for http, or nothing")
	}
}

var protocolSets = [][]string{{"grpc", "grpcs"}, {"http", "https"}, {"tcp", "tls", "udp"}, {"tls_passthrough"}}

func (o *object) judgeRoute(r *Route) {
	if len(r.Protocols) == 0 {
		o.bad(o.at("protocols"), "protocols", ReasonValue, tooShort)
		return
	}
	var used []string
	var set []string
	for _, s := range protocolSets {
		if slices.ContainsFunc(r.Protocols, func(p string) bool { return slices.Contains(s, p) }) {
			used = append(used, "('"+strings.Join(s, "', '")+"')")
			set = s
		}
	}
	if len(used) > 1 {
		o.conflict("protocols", "these sets are mutually exclusive: "+strings.Join(used, ", "))
		return
	}
	o.judgeTraffic(r, set[0])
	switch set[0] {
	case "http":
		o.forbid("'http' or 'https'", "sources", "destinations")
	case "grpc":
		if !o.given("strip_path") {
			r.StripPath = false
		} else if r.StripPath {
			o.conflict("strip_path", "cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'")
		}
		o.forbid("'grpc' or 'grpcs'", "methods", "sources", "destinations")
	default:
		o.forbid("'tcp', 'tls', 'tls_passthrough' or 'udp'", "methods", "hosts", "paths", "headers")
	}
	o.routeNeeds(r, set[0])
	withName := func(p string) bool { return slices.Contains([]string{"grpcs", "https", "tls", "tls_passthrough"}, p) }
	if len(r.SNIs) > 0 && !slices.ContainsFunc(r.Protocols, withName) {
		o.bad(o.at("snis"), "snis", ReasonConflict, "length must be 0")
		o.conflict(onEntity, "'snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or 'tls_passthrough'")
	}
}

func (o *object) forbid(protocols string, names ...string) {
	for _, name := range names {
		if v := o.n.get(name); v != nil && len(v.items) > 0 {
			o.conflict(name, "cannot set '"+name+"' when 'protocols' is "+protocols)
		}
	}
}

// routeNeeds reports a route that nothing can distinguish.
func (o *object) routeNeeds(r *Route, set string) {
	if r.Expression != "" {
		return
	}
	has := map[string]bool{
		"methods": len(r.Methods) > 0, "hosts": len(r.Hosts) > 0, "headers": len(r.Headers) > 0, "paths": len(r.Paths) > 0,
		"snis": len(r.SNIs) > 0, "sources": len(r.Sources) > 0, "destinations": len(r.Destinations) > 0,
	}
	need, when := []string{"methods", "hosts", "headers", "paths"}, "'http'"
	switch set {
	case "http":
		if slices.Contains(r.Protocols, "https") {
			need, when = append(need, "snis"), "'https'"
		}
	case "grpc":
		need, when = []string{"hosts", "headers", "paths"}, "'grpc'"
		if slices.Contains(r.Protocols, "grpcs") {
			need, when = append(need, "snis"), "'grpcs'"
		}
	case "tcp":
		need, when = []string{"sources", "destinations", "snis"}, "'tcp', 'tls' or 'udp'"
	case "tls_passthrough":
		if !has["snis"] {
			o.conflict(onEntity, "must set snis when 'protocols' is 'tls_passthrough'")
		}
		return
	}
	if !slices.ContainsFunc(need, func(name string) bool { return has[name] }) {
		o.conflict(onEntity, "must set one of '"+strings.Join(need, "', '")+"' when 'protocols' is "+when)
	}
}

func (o *object) judgeUpstream(u *Upstream) {
	switch {
	case u.Algorithm == "sticky-sessions":
		if u.HashOn != "none" {
			o.unmet("algorithm", "hash_on", ReasonConflict, "expected one of: none")
		}
		if u.StickyCookie == "" {
			o.unmet("algorithm", "sticky_sessions_cookie", ReasonRequired, "required field missing")
		}
	case o.given("algorithm") && (u.Algorithm == "least-connections" || u.Algorithm == "latency"):
		u.HashOn = "none"
	case u.HashOn != "none":
		u.Algorithm = "consistent-hashing"
	}
	allowed := hashMethods
	switch u.HashOn {
	case "none", "cookie":
		allowed = []string{"none"}
	case "consumer", "ip", "path":
		allowed = slices.DeleteFunc(slices.Clone(hashMethods), func(m string) bool { return m == u.HashOn })
	}
	if !slices.Contains(allowed, u.HashFallback) {
		o.unmet("hash_on", "hash_fallback", ReasonConflict, "expected one of: "+strings.Join(allowed, ", "))
	}
	for _, need := range []struct{ on, value, when, name, has string }{
		{"hash_on", u.HashOn, "header", "hash_on_header", u.HashOnHeader},
		{"hash_fallback", u.HashFallback, "header", "hash_fallback_header", u.HashFallbackHeader},
		{"hash_on", u.HashOn, "cookie", "hash_on_cookie", u.HashOnCookie},
		{"hash_fallback", u.HashFallback, "cookie", "hash_on_cookie", u.HashOnCookie},
		{"hash_on", u.HashOn, "query_arg", "hash_on_query_arg", u.HashOnQueryArg},
		{"hash_fallback", u.HashFallback, "query_arg", "hash_fallback_query_arg", u.HashFallbackQueryArg},
		{"hash_on", u.HashOn, "uri_capture", "hash_on_uri_capture", u.HashOnURICapture},
		{"hash_fallback", u.HashFallback, "uri_capture", "hash_fallback_uri_capture", u.HashFallbackURICapture},
	} {
		if need.value == need.when && need.has == "" {
			o.unmet(need.on, need.name, ReasonRequired, "required field missing")
		}
	}
	for _, pair := range [][4]string{
		{"hash_on_header", u.HashOnHeader, "hash_fallback_header", u.HashFallbackHeader},
		{"hash_on_query_arg", u.HashOnQueryArg, "hash_fallback_query_arg", u.HashFallbackQueryArg},
		{"hash_on_uri_capture", u.HashOnURICapture, "hash_fallback_uri_capture", u.HashFallbackURICapture},
	} {
		if pair[1] != "" && pair[1] == pair[3] {
			o.conflict(onEntity, "values of these fields must be distinct: '"+pair[0]+"', '"+pair[2]+"'")
		}
	}
}

func (o *object) judgeConsumer(c *Consumer) {
	if c.Username == "" && c.CustomID == "" {
		o.conflict(onEntity, "at least one of these fields must be non-empty: 'custom_id', 'username'")
	}
}

func (o *object) judgePlugin(p *Plugin) {
	schema := o.l.schemas[p.Name]
	for i, protocol := range p.Protocols {
		if schema.Protocols == nil && !slices.Contains(httpProtocols, protocol) {
			o.bad(o.at("protocols"), "protocols."+itoa(i+1), ReasonValue, "expected one of: "+strings.Join(httpProtocols, ", "))
		}
	}
	for _, scope := range []struct {
		name    string
		refused bool
	}{{"consumer", schema.NoConsumer}, {"consumer_group", schema.NoConsumer}, {"route", schema.NoRoute}, {"service", schema.NoService}} {
		if scope.refused && (o.given(scope.name) || o.through == scope.name) {
			o.conflict(scope.name, "value must be null")
		}
	}
	if p.Consumer != "" && p.ConsumerGroup != "" {
		o.conflict(onEntity, "only one or none of these fields must be set: 'consumer', 'consumer_group'")
	}
	o.judgeOrdering(p)
}

func (o *object) judgePolicy(p *TLSPolicy) {
	if p.ClientAuth != "off" && len(p.CACertificates) == 0 {
		o.conflict("ca_certificates", "expected the ids of one or more entries in 'ca_certificates', since 'client_auth' is '"+p.ClientAuth+"'")
	}
	if p.ClientAuth == "off" && len(p.CACertificates) > 0 {
		o.conflict("ca_certificates", "expected nothing, since 'client_auth' is 'off'; set it to optional or required")
	}
	if p.ClientAuth == "off" && (len(p.CRLs) > 0 || p.CRLRequired) {
		o.conflict("crls", "expected nothing, since 'client_auth' is 'off'; set it to optional or required")
	}
}
