package spec

import "github.com/keyway-edge/keyway/secrets"

// Pos is where an entity or field was written.
type Pos struct {
	File string
	Line int
	Col  int
}

// Meta is common to every entity.
type Meta struct {
	ID        string   // UUID, lower case
	Tags      []string // nil for null
	CreatedAt int64    // Unix seconds
	UpdatedAt int64    // Unix seconds
	Pos       Pos      // where it was declared; not part of the entity's value

	sum  uint64 // Hash of an entity that Load made, which nobody changes; 0 for others
	bare bool   // Load knows that it has no references
}

// Document is one complete desired state: flat, defaulted, with every foreign
// key an id. It is plain data; nothing in it is shared with a running node.
type Document struct {
	FormatVersion string

	Services       []*Service
	Routes         []*Route
	Upstreams      []*Upstream
	Targets        []*Target
	ConsumerGroups []*ConsumerGroup
	Consumers      []*Consumer
	KeyAuths       []*KeyAuth
	ACLs           []*ACL
	Plugins        []*Plugin
	Certificates   []*Certificate
	SNIs           []*SNI
	CACertificates []*CACertificate
	Vaults         []*Vault
	TLSPolicies    []*TLSPolicy // x_keyway_tls_policies
	Issuers        []*Issuer    // x_keyway_issuers
	Listeners      []*Listener  // x_keyway_listeners

	fresh   int      // see Fresh
	ignored Problems // see Ignored
}

// Service is one origin that routes lead to. Timeouts are in milliseconds.
type Service struct {
	Meta
	Name              string
	Protocol          string // http https grpc grpcs tcp tls tls_passthrough udp
	Host              string // a host name, an address, or the name of an Upstream
	Port              int
	Path              string // "" for null
	Retries           int
	ConnectTimeout    int
	WriteTimeout      int
	ReadTimeout       int
	ClientCertificate string // id of a Certificate, "" for null
	TLSVerify         *bool
	TLSVerifyDepth    *int
	CACertificates    []string // ids
	TLSSANs           SANs     // tls_sans: names that a certificate may have as well as the host's
	Enabled           bool
	UpstreamAuth      *UpstreamAuth // x_keyway_upstream_auth, nil for null
	UpstreamProtocol  string        // x_keyway_upstream_protocol: "" or http/1.1, h2 over TLS, h2c in clear
	Retry             *Retry        // x_keyway_retry, nil for none
	ProxyProtocol     string        // x_keyway_proxy_protocol: v1 or v2, "" for null
	TLSName           string        // x_keyway_tls_name: asked for and verified in place of the host, "" for null
	TLSSubjects       []string      // x_keyway_tls_subjects: of which a certificate has to have one in place of that name
}

// SANs are names of certificates, as extensions of these have them.
type SANs struct {
	DNSNames []string // *. before one stands for itself: the certificate has to have it so
	URIs     []string // absolute
}

// Empty says that there are none.
func (s *SANs) Empty() bool { return len(s.DNSNames)+len(s.URIs) == 0 }

// GRPC says whether the service speaks gRPC; a route without one does not.
func (s *Service) GRPC() bool { return s != nil && (s.Protocol == "grpc" || s.Protocol == "grpcs") }

// Route is one rule that leads requests to a service.
type Route struct {
	Meta
	Name                    string
	Protocols               []string
	Methods                 []string
	Hosts                   []string
	Paths                   []string
	Headers                 map[string][]string // nil for null
	SNIs                    []string
	Sources                 []Endpoint
	Destinations            []Endpoint
	ExceptSNIs              []string // x_keyway_except_snis: that the route is not for, whatever SNIs have
	HTTPSRedirectStatusCode int
	RegexPriority           int
	StripPath               bool
	PathHandling            string // v0 v1
	PreserveHost            bool
	RequestBuffering        bool
	ResponseBuffering       bool
	Service                 string    // id, "" for null
	PathPolicy              string    // x_keyway_path_policy: "" (the listener's), strict, compatible
	Expression              string    // "" for null
	Priority                *int      // of the expression, nil for null
	MaxRequests             *int      // x_keyway_max_requests: in flight at a time, nil for no limit
	Closed                  string    // x_keyway_closed: why what matches is answered 503, "" for open
	Split                   []Share   // x_keyway_split: services of which each request gets one, instead of Service
	Mirrors                 []Mirror  // x_keyway_mirrors: who gets a copy of requests
	Timeouts                *Timeouts // x_keyway_timeouts, nil for none
	Retry                   *Retry    // x_keyway_retry instead of the service's, nil for the service's
}

// Endpoint is an address, a port or both, of a stream route.
type Endpoint struct {
	IP   string // address or CIDR, "" for any
	Port int    // 0 for any
}

// Upstream is a named set of targets with a way of balancing.
type Upstream struct {
	Meta
	Name                   string
	Algorithm              string
	HashOn                 string
	HashFallback           string
	HashOnHeader           string
	HashFallbackHeader     string
	HashOnCookie           string
	HashOnCookiePath       string
	HashOnQueryArg         string
	HashFallbackQueryArg   string
	HashOnURICapture       string
	HashFallbackURICapture string
	StickyCookie           string // sticky_sessions_cookie, of algorithm sticky-sessions
	StickyCookiePath       string // sticky_sessions_cookie_path
	Slots                  int
	HostHeader             string
	ClientCertificate      string // id
	UseSRVName             bool
	Healthchecks           Healthchecks
	Balancing              *Balancing // x_keyway_balancing, nil for the defaults
}

// Healthchecks of an upstream; field by field as B2 of the format says. Seconds may have fractions.
type Healthchecks struct {
	Threshold float64
	Active    ActiveCheck
	Passive   PassiveCheck
}

// ActiveCheck probes targets.
type ActiveCheck struct {
	Type                   string
	Timeout                float64
	Concurrency            int
	HTTPPath               string
	HTTPSSNI               string
	HTTPSVerifyCertificate bool
	Headers                map[string][]string
	Healthy                Healthy
	Unhealthy              Unhealthy
}

// PassiveCheck judges targets by the traffic they answer.
type PassiveCheck struct {
	Type      string
	Healthy   Healthy
	Unhealthy Unhealthy
}

// Healthy says when a target counts as healthy. Interval is unused in passive checks.
type Healthy struct {
	Interval     float64
	HTTPStatuses []int
	Successes    int
}

// Unhealthy says when a target counts as unhealthy. Interval is unused in passive checks.
type Unhealthy struct {
	Interval     float64
	HTTPStatuses []int
	TCPFailures  int
	Timeouts     int
	HTTPFailures int
}

// Target is one address of an upstream. CreatedMilli and UpdatedMilli are what
// the format writes as seconds with a fraction.
type Target struct {
	Meta
	Target       string // host:port
	Weight       int
	Upstream     string // id
	Zone         string // x_keyway_zone: where it runs
	CreatedMilli int64
	UpdatedMilli int64
}

// Consumer is a client that credentials belong to.
type Consumer struct {
	Meta
	Username string
	CustomID string
	Groups   []string // ids of ConsumerGroups; groups may say it too, see Document.Memberships
}

// KeyAuth is an API key of a consumer. TTL in seconds, 0 for none. Key may be a reference.
type KeyAuth struct {
	Meta
	Consumer string // id
	Key      Secret
	TTL      int64
}

// ACL is one group of a consumer.
type ACL struct {
	Meta
	Consumer string // id
	Group    string
}

// Plugin is one configured use of a plugin. Config is complete: defaults are
// filled from the plugin's schema. Its values are nil, bool, float64, string,
// []any and map[string]any, as encoding/json makes them.
type Plugin struct {
	Meta
	Name          string
	InstanceName  string
	Route         string // ids, "" for null
	Service       string
	Consumer      string // not with ConsumerGroup
	ConsumerGroup string
	Config        map[string]any
	Protocols     []string
	Enabled       bool
	Ordering      *Ordering // nil for the plugin's own place

	secrets []string // paths in Config that hold secrets, literal or by reference: "redis.password"
}

// Certificate is a pair, and optionally a second pair of the other key type.
type Certificate struct {
	Meta
	Cert, Key       Secret // null when an issuer makes them; see Document.Pair
	CertAlt, KeyAlt Secret
	Issuer          string // x_keyway_issuer: id of an Issuer, "" for null
	KeyType         string // x_keyway_key_type of what the issuer signs: ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072, rsa-4096
}

// OnDemand is the tag of certificates that no document lists and handshakes asked for.
const OnDemand = "on-demand"

// SNI binds a server name to a certificate.
type SNI struct {
	Meta
	Name        string // exact, *.suffix, prefix.* or *
	Certificate string // id
	TLSPolicy   string // x_keyway_tls_policy: id of a TLSPolicy, "" for the listener's default
}

// CACertificate is one trusted CA.
type CACertificate struct {
	Meta
	Cert       Secret
	CertDigest string // SHA-256 of the DER, hex; "" while Cert is an unresolved reference
}

// Vault is a configured secret source that references name by Prefix.
type Vault struct {
	Meta
	Name        string // kind of source: env, file, sealed, ...
	Prefix      string
	Description string
	Config      map[string]any
	Allow       []VaultRule // x_keyway_allow: who may refer to what; none allows everybody everything
}

// TLSPolicy (x_keyway_tls_policies) is how one server name does TLS, so that two
// names on one port can differ.
type TLSPolicy struct {
	Meta
	Name           string
	MinVersion     string   // "1.2" or "1.3"
	ClientAuth     string   // off, optional, required
	CACertificates []string // ids of CACertificates that client certificates are judged by
	VerifyDepth    int
	CRLs           []Secret // PEM revocation lists that client certificates are judged by
	CRLRequired    bool     // refuse clients while there is no valid list of their CA
}

// Secret is a field that may hold a reference: exactly one of Ref and Value is
// set, or neither for null. A literal value is as secret as a resolved one.
type Secret struct {
	Ref   secrets.Ref
	Value secrets.Value
}

// IsZero says the field is null.
func (s Secret) IsZero() bool { return s.Ref.IsZero() && s.Value.IsZero() }
