package spec

// Kinds are the lists of entities in a document, in the order in which they are written.
func Kinds() []string {
	return []string{
		"services", "routes", "upstreams", "targets", "consumer_groups", "consumers", "keyauth_credentials", "acls",
		"plugins", "certificates", "snis", "ca_certificates", "vaults", "x_keyway_tls_policies", "x_keyway_issuers", "x_keyway_listeners",
	}
}

// Kind is "services".
func (*Service) Kind() string { return "services" }

// Kind is "routes".
func (*Route) Kind() string { return "routes" }

// Kind is "upstreams".
func (*Upstream) Kind() string { return "upstreams" }

// Kind is "targets".
func (*Target) Kind() string { return "targets" }

// Kind is "consumers".
func (*Consumer) Kind() string { return "consumers" }

// Kind is "keyauth_credentials".
func (*KeyAuth) Kind() string { return "keyauth_credentials" }

// Kind is "acls".
func (*ACL) Kind() string { return "acls" }

// Kind is "plugins".
func (*Plugin) Kind() string { return "plugins" }

// Kind is "certificates".
func (*Certificate) Kind() string { return "certificates" }

// Kind is "snis".
func (*SNI) Kind() string { return "snis" }

// Kind is "ca_certificates".
func (*CACertificate) Kind() string { return "ca_certificates" }

// Kind is "vaults".
func (*Vault) Kind() string { return "vaults" }

// Kind is "x_keyway_tls_policies".
func (*TLSPolicy) Kind() string { return "x_keyway_tls_policies" }

// Kind is "x_keyway_issuers".
func (*Issuer) Kind() string { return "x_keyway_issuers" }

// Kind is "x_keyway_listeners".
func (*Listener) Kind() string { return "x_keyway_listeners" }

func (s *Service) fields(visit func(field)) {
	visit(field{"name", &s.Name, nameText})
	visit(field{"protocol", &s.Protocol, serviceProtocol})
	visit(field{"host", &s.Host, serviceHost})
	visit(field{"port", &s.Port, isPort})
	visit(field{"path", &s.Path, servicePath})
	visit(field{"retries", &s.Retries, serviceRetries})
	visit(field{"connect_timeout", &s.ConnectTimeout, isTimeout})
	visit(field{"write_timeout", &s.WriteTimeout, isTimeout})
	visit(field{"read_timeout", &s.ReadTimeout, isTimeout})
	visit(field{"client_certificate", &s.ClientCertificate, isCert})
	visit(field{"tls_verify", &s.TLSVerify, noRule})
	visit(field{"tls_verify_depth", &s.TLSVerifyDepth, isDepth})
	visit(field{"ca_certificates", &s.CACertificates, isCAs})
	visit(field{"tls_sans", s.TLSSANs.record(), noRule})
	visit(field{"enabled", &s.Enabled, kept})
	visit(field{"x_keyway_upstream_auth", pointed(&s.UpstreamAuth, defaultAuth), noRule})
	visit(field{"x_keyway_retry", pointed(&s.Retry, empty[Retry]), noRule})
	visit(field{"x_keyway_upstream_protocol", &s.UpstreamProtocol, upstreamProtocol})
	visit(field{"x_keyway_proxy_protocol", &s.ProxyProtocol, proxyVersion})
	visit(field{"x_keyway_tls_name", &s.TLSName, tlsName})
	visit(field{"x_keyway_tls_subjects", &s.TLSSubjects, tlsSubjects})
}

// record is null where there are no names: without any it means nothing.
func (s *SANs) record() optional {
	return optional{given: !s.Empty(), group: s.fields, begin: func() group {
		*s = SANs{}
		return s.fields
	}}
}

func (s *SANs) fields(visit func(field)) {
	visit(field{"dnsnames", &s.DNSNames, sanDNSNames})
	visit(field{"uris", &s.URIs, sanURIs})
}

func (r *Route) fields(visit func(field)) {
	visit(field{"name", &r.Name, nameText})
	visit(field{"service", &r.Service, routeService})
	visit(field{"protocols", &r.Protocols, routeProtocols})
	visit(field{"methods", &r.Methods, routeMethods})
	visit(field{"hosts", &r.Hosts, routeHosts})
	visit(field{"paths", &r.Paths, routePaths})
	visit(field{"headers", &r.Headers, routeHeaders})
	visit(field{"snis", &r.SNIs, routeSNIs})
	visit(field{"sources", &r.Sources, noRule})
	visit(field{"destinations", &r.Destinations, noRule})
	visit(field{"https_redirect_status_code", &r.HTTPSRedirectStatusCode, routeRedirect})
	visit(field{"regex_priority", &r.RegexPriority, noRule})
	visit(field{"strip_path", &r.StripPath, kept})
	visit(field{"path_handling", &r.PathHandling, routeHandling})
	visit(field{"preserve_host", &r.PreserveHost, kept})
	visit(field{"request_buffering", &r.RequestBuffering, kept})
	visit(field{"response_buffering", &r.ResponseBuffering, kept})
	visit(field{"x_keyway_path_policy", &r.PathPolicy, routePolicy})
	visit(field{"x_keyway_max_requests", &r.MaxRequests, routeInFlight})
	visit(field{"x_keyway_closed", &r.Closed, anyText})
	visit(field{"x_keyway_except_snis", &r.ExceptSNIs, routeSNIs})
	visit(field{"expression", &r.Expression, routeExpression})
	visit(field{"priority", &r.Priority, routePriority})
	visit(field{"x_keyway_split", (*shares)(&r.Split), noRule})
	visit(field{"x_keyway_mirrors", (*mirrors)(&r.Mirrors), noRule})
	visit(field{"x_keyway_timeouts", pointed(&r.Timeouts, empty[Timeouts]), noRule})
	visit(field{"x_keyway_retry", pointed(&r.Retry, empty[Retry]), noRule})
}

func (u *Upstream) fields(visit func(field)) {
	visit(field{"name", &u.Name, upstreamName})
	visit(field{"algorithm", &u.Algorithm, upstreamAlgorithm})
	visit(field{"hash_on", &u.HashOn, isHash})
	visit(field{"hash_fallback", &u.HashFallback, isHash})
	visit(field{"hash_on_header", &u.HashOnHeader, isHeader})
	visit(field{"hash_fallback_header", &u.HashFallbackHeader, isHeader})
	visit(field{"hash_on_cookie", &u.HashOnCookie, anyText})
	visit(field{"hash_on_cookie_path", &u.HashOnCookiePath, isProbePath})
	visit(field{"hash_on_query_arg", &u.HashOnQueryArg, anyText})
	visit(field{"hash_fallback_query_arg", &u.HashFallbackQueryArg, anyText})
	visit(field{"hash_on_uri_capture", &u.HashOnURICapture, anyText})
	visit(field{"hash_fallback_uri_capture", &u.HashFallbackURICapture, anyText})
	visit(field{"sticky_sessions_cookie", &u.StickyCookie, stickyCookie})
	visit(field{"sticky_sessions_cookie_path", &u.StickyCookiePath, stickyPath})
	visit(field{"slots", &u.Slots, upstreamSlots})
	visit(field{"host_header", &u.HostHeader, upstreamHost})
	visit(field{"client_certificate", &u.ClientCertificate, isCert})
	visit(field{"use_srv_name", &u.UseSRVName, noRule})
	visit(field{"healthchecks", group(u.Healthchecks.fields), kept})
	visit(field{"x_keyway_balancing", pointed(&u.Balancing, DefaultBalancing), noRule})
}

func (h *Healthchecks) fields(visit func(field)) {
	visit(field{"threshold", &h.Threshold, probeThreshold})
	visit(field{"active", group(h.Active.fields), kept})
	visit(field{"passive", group(h.Passive.fields), kept})
}

func (a *ActiveCheck) fields(visit func(field)) {
	visit(field{"type", &a.Type, isProbe})
	visit(field{"timeout", &a.Timeout, isSeconds})
	visit(field{"concurrency", &a.Concurrency, probeConcurrency})
	visit(field{"http_path", &a.HTTPPath, isProbePath})
	visit(field{"https_sni", &a.HTTPSSNI, &rule{check: checkSNI}})
	visit(field{"https_verify_certificate", &a.HTTPSVerifyCertificate, kept})
	visit(field{"headers", &a.Headers, probeHeaders})
	visit(field{"healthy", group(func(visit func(field)) { a.Healthy.fields(true, visit) }), kept})
	visit(field{"unhealthy", group(func(visit func(field)) { a.Unhealthy.fields(true, visit) }), kept})
}

func (p *PassiveCheck) fields(visit func(field)) {
	visit(field{"type", &p.Type, isProbe})
	visit(field{"healthy", group(func(visit func(field)) { p.Healthy.fields(false, visit) }), kept})
	visit(field{"unhealthy", group(func(visit func(field)) { p.Unhealthy.fields(false, visit) }), kept})
}

func (h *Healthy) fields(probing bool, visit func(field)) {
	if probing {
		visit(field{"interval", &h.Interval, isSeconds})
	}
	visit(field{"http_statuses", &h.HTTPStatuses, isStatus})
	visit(field{"successes", &h.Successes, isCounter})
}

func (u *Unhealthy) fields(probing bool, visit func(field)) {
	if probing {
		visit(field{"interval", &u.Interval, isSeconds})
	}
	visit(field{"http_statuses", &u.HTTPStatuses, isStatus})
	visit(field{"tcp_failures", &u.TCPFailures, isCounter})
	visit(field{"timeouts", &u.Timeouts, isCounter})
	visit(field{"http_failures", &u.HTTPFailures, isCounter})
}

func (t *Target) fields(visit func(field)) {
	visit(field{"target", &t.Target, targetAddress})
	visit(field{"weight", &t.Weight, targetWeight})
	visit(field{"upstream", &t.Upstream, targetUpstream})
	visit(field{"x_keyway_zone", &t.Zone, anyText})
}

func (c *Consumer) fields(visit func(field)) {
	visit(field{"username", &c.Username, anyText})
	visit(field{"custom_id", &c.CustomID, anyText})
	visit(field{"groups", &c.Groups, consumerGroups})
}

func (k *KeyAuth) fields(visit func(field)) {
	visit(field{"consumer", &k.Consumer, ofConsumer})
	visit(field{"key", &k.Key, neededText})
	visit(field{"ttl", &k.TTL, noRule})
}

func (a *ACL) fields(visit func(field)) {
	visit(field{"consumer", &a.Consumer, ofConsumer})
	visit(field{"group", &a.Group, neededText})
}

func (p *Plugin) fields(visit func(field)) {
	visit(field{"name", &p.Name, neededText})
	visit(field{"instance_name", &p.InstanceName, nameText})
	visit(field{"route", &p.Route, pluginRoute})
	visit(field{"service", &p.Service, routeService})
	visit(field{"consumer", &p.Consumer, pluginUser})
	visit(field{"consumer_group", &p.ConsumerGroup, pluginGroup})
	visit(field{"protocols", &p.Protocols, pluginProtos})
	visit(field{"enabled", &p.Enabled, kept})
	visit(field{"ordering", pointed(&p.Ordering, empty[Ordering]), noRule})
	visit(field{"config", &p.Config, noRule})
}

func (c *Certificate) fields(visit func(field)) {
	visit(field{"cert", &c.Cert, optionalPEM})
	visit(field{"key", &c.Key, optionalPEM})
	visit(field{"cert_alt", &c.CertAlt, optionalPEM})
	visit(field{"key_alt", &c.KeyAlt, optionalPEM})
	visit(field{"x_keyway_issuer", &c.Issuer, certIssuer})
	visit(field{"x_keyway_key_type", &c.KeyType, certKeyType})
}

func (s *SNI) fields(visit func(field)) {
	visit(field{"name", &s.Name, sniName})
	visit(field{"certificate", &s.Certificate, sniCert})
	visit(field{"x_keyway_tls_policy", &s.TLSPolicy, sniPolicy})
}

func (c *CACertificate) fields(visit func(field)) {
	visit(field{"cert", &c.Cert, neededPEM})
	visit(field{"cert_digest", &c.CertDigest, noRule})
}

func (v *Vault) fields(visit func(field)) {
	visit(field{"name", &v.Name, neededText})
	visit(field{"prefix", &v.Prefix, vaultPrefix})
	visit(field{"description", &v.Description, noRule})
	visit(field{"config", &v.Config, noRule})
	visit(field{"x_keyway_allow", &v.Allow, noRule})
}

func (p *TLSPolicy) fields(visit func(field)) {
	visit(field{"name", &p.Name, policyName})
	visit(field{"min_version", &p.MinVersion, tlsVersion})
	visit(field{"client_auth", &p.ClientAuth, clientAuth})
	visit(field{"ca_certificates", &p.CACertificates, isCAs})
	visit(field{"verify_depth", &p.VerifyDepth, isDepth})
	visit(field{"crls", &p.CRLs, optionalPEM})
	visit(field{"crl_required", &p.CRLRequired, kept})
}

func (i *Issuer) fields(visit func(field)) {
	visit(field{"name", &i.Name, policyName})
	visit(field{"type", &i.Type, issuerType})
	visit(field{"config", &i.Config, noRule})
}

// newEntity makes an entity of a kind as it is when only what is required was
// written. This is the only place of the entities' defaults.
func newEntity(kind string) Entity {
	switch kind {
	case "services":
		return &Service{
			Protocol: "http", Port: 80, Retries: 5, Enabled: true,
			ConnectTimeout: 60000, WriteTimeout: 60000, ReadTimeout: 60000,
		}
	case "routes":
		return &Route{
			Protocols: []string{"http", "https"}, HTTPSRedirectStatusCode: 426, StripPath: true,
			PathHandling: "v0", RequestBuffering: true, ResponseBuffering: true,
		}
	case "upstreams":
		return newUpstream()
	case "targets":
		return &Target{Weight: 100}
	case "consumer_groups":
		return &ConsumerGroup{}
	case "consumers":
		return &Consumer{}
	case "keyauth_credentials":
		return &KeyAuth{}
	case "acls":
		return &ACL{}
	case "plugins":
		return &Plugin{Enabled: true}
	case "certificates":
		return &Certificate{}
	case "snis":
		return &SNI{}
	case "ca_certificates":
		return &CACertificate{}
	case "vaults":
		return &Vault{}
	case "x_keyway_tls_policies":
		return &TLSPolicy{MinVersion: "1.2", ClientAuth: "off", VerifyDepth: 1}
	case "x_keyway_issuers":
		return &Issuer{}
	case "x_keyway_listeners":
		return &Listener{}
	}
	return nil
}

func newUpstream() *Upstream {
	return &Upstream{
		Algorithm: "round-robin", HashOn: "none", HashFallback: "none", HashOnCookiePath: "/", StickyCookiePath: "/", Slots: 10000,
		Healthchecks: Healthchecks{
			Active: ActiveCheck{
				Type: "http", Timeout: 1, Concurrency: 10, HTTPPath: "/", HTTPSVerifyCertificate: true,
				Healthy:   Healthy{HTTPStatuses: []int{200, 302}},
				Unhealthy: Unhealthy{HTTPStatuses: []int{429, 404, 500, 501, 502, 503, 504, 505}},
			},
			Passive: PassiveCheck{
				Type: "http",
				Healthy: Healthy{HTTPStatuses: []int{
					200, 201, 202, 203, 204, 205, 206, 207, 208, 226,
					300, 301, 302, 303, 304, 305, 306, 307, 308,
				}},
				Unhealthy: Unhealthy{HTTPStatuses: []int{429, 500, 503}},
			},
		},
	}
}

// label is what an entity is called in problems and looked up by, "" for nothing.
func label(e Entity) string {
	switch e := e.(type) {
	case *Service:
		return e.Name
	case *Route:
		return e.Name
	case *Upstream:
		return e.Name
	case *Target:
		return e.Target
	case *Consumer:
		return e.Username
	case *ConsumerGroup:
		return e.Name
	case *Plugin:
		return e.Name
	case *SNI:
		return e.Name
	case *Vault:
		return e.Prefix
	case *TLSPolicy:
		return e.Name
	case *Issuer:
		return e.Name
	case *Listener:
		return e.Name
	}
	return ""
}

// nests answers the field of a child of a kind through which it belongs to a
// parent of another kind when it is written inside of it, "" if it cannot be.
func nests(parent, child string) string {
	switch parent + "/" + child {
	case "services/routes", "services/plugins":
		return "service"
	case "routes/plugins":
		return "route"
	case "upstreams/targets":
		return "upstream"
	case "consumers/keyauth_credentials", "consumers/acls", "consumers/plugins":
		return "consumer"
	case "consumer_groups/plugins":
		return "consumer_group"
	case "certificates/snis":
		return "certificate"
	case "certificates/services", "certificates/upstreams":
		return "client_certificate"
	}
	return ""
}
