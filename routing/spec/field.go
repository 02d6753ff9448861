package spec

// Entity is one object of a Document. The types of this package are the only ones.
type Entity interface {
	// Base is the part that every entity has.
	Base() *Meta
	// Kind is the name of the entity's list in a document, such as "services".
	Kind() string
	// fields shows every field beyond Base, in the order in which it is written.
	fields(visit func(field))
}

// Base is the part that every entity has.
func (m *Meta) Base() *Meta { return m }

// field is one field of an entity: decoding, encoding, hashing and finding
// references all walk the same list, so that none of them can forget one.
type field struct {
	name string
	at   any // pointer to the Go field, a group of fields beneath, or one that may be null
	rule *rule
}

// group is a record inside an entity.
type group func(visit func(field))

// optional is a record inside an entity that may be null.
type optional struct {
	given bool
	begin func() group // makes the record, empty
	group group        // of the record that is there, nil for null
}

// pointed is the record that a pointer leads to, null for nil. begin makes one.
func pointed[T any, P interface {
	*T
	fields(visit func(field))
}](at *P, begin func() T) optional {
	o := optional{given: *at != nil, begin: func() group {
		next := begin()
		*at = &next
		return (*at).fields
	}}
	if o.given {
		o.group = (*at).fields
	}
	return o
}

// empty begins a record in which nothing has a default.
func empty[T any]() (none T) { return none }

// records is a list of records inside an entity.
type records interface {
	count() int
	// begin makes so many records, each as it is when nothing of it was written.
	begin(n int)
	// fields shows the fields of one record.
	fields(i int, visit func(field))
}

// rule is what a field's value must be, beyond its type. Rules are never changed.
type rule struct {
	required bool     // must be given; null is refused
	written  bool     // must be given, be it as null
	notNull  bool     // null is refused; if it is not given the default stands
	set      bool     // a list whose order says nothing; what occurs twice is taken once
	refers   string   // kind of entity that the value, an id or a name, leads to
	named    bool     // a list of such values; without it a list is of ids
	oneOf    []string // of text and of numbers as text
	bounds   *[2]float64
	check    func(string) string              // of text and of elements: the message, "" for right
	checkMap func(map[string][]string) string // of maps of lists: the message, "" for right
}

var (
	noRule        = &rule{}
	kept          = &rule{notNull: true}
	anyText       = &rule{check: checkNotEmpty}
	nameText      = &rule{check: checkName}
	hashMethods   = []string{"none", "consumer", "ip", "header", "cookie", "path", "query_arg", "uri_capture"}
	allProtocols  = []string{"grpc", "grpcs", "http", "https", "tcp", "tls", "tls_passthrough", "udp"}
	httpProtocols = []string{"grpc", "grpcs", "http", "https"}
	probeTypes    = []string{"tcp", "http", "https", "grpc", "grpcs"}

	isPort       = &rule{notNull: true, bounds: &[2]float64{0, 65535}}
	isTimeout    = &rule{bounds: &[2]float64{1, 2147483646}}
	retryTimeout = &rule{bounds: &[2]float64{0, 2147483646}}
	isCounter    = &rule{bounds: &[2]float64{0, 255}}
	isSeconds    = &rule{bounds: &[2]float64{0, 65535}}
	isStatus     = &rule{bounds: &[2]float64{100, 999}}
	isDepth      = &rule{bounds: &[2]float64{0, 64}}
	isCert       = &rule{refers: "certificates"}
	isCAs        = &rule{refers: "ca_certificates", check: checkUUID}
	isTag        = &rule{set: true, check: checkTag}
	isHash       = &rule{oneOf: hashMethods}
	isProbe      = &rule{oneOf: probeTypes}
	isProbePath  = &rule{check: checkProbePath}
	isHeader     = &rule{check: checkHeaderName}

	serviceProtocol = &rule{notNull: true, oneOf: allProtocols}
	serviceHost     = &rule{required: true, check: checkServiceHost}
	servicePath     = &rule{check: checkServicePath}
	proxyVersion    = &rule{oneOf: []string{"v1", "v2"}}
	tlsName         = &rule{check: checkTLSName}
	tlsSubjects     = &rule{check: checkTLSSubject}
	sanDNSNames     = &rule{check: checkSANName}
	sanURIs         = &rule{check: checkSANURI}
	serviceRetries  = &rule{bounds: &[2]float64{0, 32767}}

	routeExpression = &rule{check: checkExpression}
	routeInFlight   = &rule{bounds: &[2]float64{1, 1 << 30}}
	routePriority   = &rule{bounds: &[2]float64{0, 1<<46 - 1}}

	routeProtocols   = &rule{notNull: true, set: true, check: checkProtocol}
	routeMethods     = &rule{set: true, check: checkMethod}
	routeHosts       = &rule{check: checkRouteHost}
	routePaths       = &rule{check: checkRoutePath}
	routeHeaders     = &rule{checkMap: checkRouteHeaders}
	routeSNIs        = &rule{set: true, check: checkSNI}
	routeRedirect    = &rule{notNull: true, oneOf: []string{"426", "301", "302", "307", "308"}}
	routeHandling    = &rule{oneOf: []string{"v0", "v1"}}
	upstreamProtocol = &rule{oneOf: []string{"http/1.1", "h2", "h2c"}}
	routePolicy      = &rule{oneOf: []string{"strict", "compatible"}}
	endpointSet      = &rule{set: true}
	endpointIP       = &rule{check: checkIPRange}
	endpointPort     = &rule{bounds: &[2]float64{0, 65535}}
	routeService     = &rule{refers: "services"}
	shareService     = &rule{written: true, refers: "services"}
	shareWeight      = &rule{notNull: true, bounds: &[2]float64{0, 1000000}}
	mirrorService    = &rule{required: true, refers: "services"}
	mirrorPart       = &rule{notNull: true, bounds: &[2]float64{0, 2147483647}}
	mirrorWhole      = &rule{notNull: true, bounds: &[2]float64{1, 2147483647}}

	upstreamName      = &rule{required: true, check: checkUpstreamName}
	upstreamAlgorithm = &rule{oneOf: []string{"consistent-hashing", "least-connections", "round-robin", "latency", "sticky-sessions"}}
	stickyCookie      = &rule{check: checkCookieName}
	stickyPath        = &rule{check: checkCookiePath}
	upstreamSlots     = &rule{bounds: &[2]float64{10, 65536}}
	upstreamHost      = &rule{check: checkHostHeader}
	probeHeaders      = &rule{checkMap: checkHeaderNames}
	probeConcurrency  = &rule{bounds: &[2]float64{1, 2147483648}}
	probeThreshold    = &rule{bounds: &[2]float64{0, 100}}

	targetAddress  = &rule{required: true, check: checkTarget}
	targetWeight   = &rule{bounds: &[2]float64{0, 65535}}
	targetUpstream = &rule{required: true, refers: "upstreams"}

	consumerGroups = &rule{refers: "consumer_groups", named: true}
	groupMembers   = &rule{refers: "consumers", named: true}
	ofGroup        = &rule{required: true, refers: "consumer_groups"}
	ofConsumer     = &rule{required: true, refers: "consumers"}
	neededText     = &rule{required: true, check: checkNotEmpty}
	pluginRoute    = &rule{refers: "routes"}
	pluginUser     = &rule{refers: "consumers"}
	pluginGroup    = &rule{refers: "consumer_groups"}
	pluginProtos   = &rule{notNull: true, set: true, oneOf: allProtocols}

	neededPEM   = &rule{required: true, check: checkNotEmpty}
	certIssuer  = &rule{refers: "x_keyway_issuers"}
	certKeyType = &rule{oneOf: []string{"ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096"}}
	issuerType  = &rule{required: true, oneOf: []string{"acme", "vault_pki"}}
	authType    = &rule{required: true, oneOf: []string{"header", "bearer", "basic", "query", "aws_sigv4", "client_certificate"}}
	globs       = &rule{set: true, check: checkGlob}
	optionalPEM = &rule{check: checkNotEmpty}
	sniName     = &rule{required: true, check: checkSNI}
	sniCert     = &rule{required: true, refers: "certificates"}
	sniPolicy   = &rule{refers: "x_keyway_tls_policies"}
	vaultPrefix = &rule{required: true, check: checkVaultPrefix}
	policyName  = &rule{required: true, check: checkName}
	tlsVersion  = &rule{oneOf: []string{"1.2", "1.3"}}
	clientAuth  = &rule{oneOf: []string{"off", "optional", "required"}}

	listenerProtocol  = &rule{required: true, oneOf: []string{"http", "https", "tls", "tcp", "udp"}}
	listenerPort      = &rule{required: true, bounds: &[2]float64{1, 65535}}
	listenerAddress   = &rule{check: checkAddress}
	listenerHostnames = &rule{set: true, check: checkHostname}
)
