package edge

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/routing"
)

// Config is what the node's settings say of the data path. Immutable.
type Config struct {
	// Version is the product's version, "0.1.0"; it makes the product token of
	// the Via and Server fields.
	Version string
	NodeID  string

	// Policy is the request policy of listeners that do not name one.
	Policy routing.Policy

	// TrustedIPs are the peers whose X-Forwarded-* and RealIPHeader are believed; when that
	// is Forwarded, it alone.
	TrustedIPs      []netip.Prefix
	RealIPHeader    string // "X-Real-IP" when empty
	RealIPRecursive bool
	Forwarded       bool // upstreams are sent Forwarded (RFC 7239) too

	// PortMaps are the ports that clients see, by those that listeners have, where they
	// differ.
	PortMaps map[uint16]uint16

	Headers         HeaderSet // fields added to responses
	HeadersUpstream HeaderSet // fields added to upstream requests
	// AllowDebugHeader answers Kong-Debug: 1 with the names of route and service.
	AllowDebugHeader bool

	// Development lets the development CA issue certificates for localhost and
	// for configured host names that have none.
	Development bool
}

// Token is the product token, "keyway/0.1.0".
func (c *Config) Token() string { return "keyway/" + c.Version }

// seenPort is the port that clients see in place of a listener's.
func (c *Config) seenPort(own uint16) string {
	return strconv.Itoa(int(cmp.Or(c.PortMaps[own], own)))
}

// HeaderSet is a set of the fields that the `headers` setting switches.
type HeaderSet uint16

// The fields of a HeaderSet.
const (
	HeaderServer HeaderSet = 1 << iota
	HeaderVia
	HeaderProxyLatency
	HeaderResponseLatency
	HeaderUpstreamLatency
	HeaderUpstreamStatus
	HeaderRequestID
	HeaderAdminLatency
)

// ParseHeaderSet reads a value of the settings headers and headers_upstream: a
// comma list of field names, of the groups server_tokens and latency_tokens, or off.
func ParseHeaderSet(text string) (HeaderSet, error) {
	var set HeaderSet
	for word := range strings.SplitSeq(text, ",") {
		switch strings.ToLower(strings.TrimSpace(word)) {
		case "", "off":
		case "server_tokens":
			set |= HeaderServer | HeaderVia
		case "latency_tokens":
			set |= HeaderProxyLatency | HeaderResponseLatency | HeaderUpstreamLatency | HeaderAdminLatency
		case "server":
			set |= HeaderServer
		case "via":
			set |= HeaderVia
		case "x-kong-proxy-latency":
			set |= HeaderProxyLatency
		case "x-kong-response-latency":
			set |= HeaderResponseLatency
		case "x-kong-upstream-latency":
			set |= HeaderUpstreamLatency
		case "x-kong-upstream-status":
			set |= HeaderUpstreamStatus
		case "x-kong-request-id":
			set |= HeaderRequestID
		case "x-kong-admin-latency":
			set |= HeaderAdminLatency
		default:
			return 0, fmt.Errorf("unknown field %q; expected off or a comma list of server_tokens, latency_tokens, Server, Via, X-Kong-Proxy-Latency, X-Kong-Response-Latency, X-Kong-Upstream-Latency, X-Kong-Upstream-Status, X-Kong-Admin-Latency, X-Kong-Request-Id", strings.TrimSpace(word))
		}
	}
	return set, nil
}

func (s HeaderSet) has(x HeaderSet) bool { return s&x != 0 }
