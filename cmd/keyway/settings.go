package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/routing"
)

// setting is one node setting. The table below is the only place that knows a
// setting's name, default, form and meaning; the file, the environment, the
// flags, --help and `keyway config settings` all come from it.
type setting struct {
	key      string // in the file; KEYWAY_<KEY> in the environment; --key-with-hyphens as a flag
	def      string // default, in the form that a user would write
	form     string // what is expected, for errors and help
	meaning  string
	apply    func(s *settings, text string) error
	advanced bool // belongs to tuning; listed last
}

func (x *setting) env() string  { return "KEYWAY_" + strings.ToUpper(x.key) }
func (x *setting) flag() string { return strings.ReplaceAll(x.key, "_", "-") }

// settings is the node's settings, read and checked.
type settings struct {
	ProxyListen, ProxyTLSListen, AdminListen, AdminTLSListen []string
	ManagerListen, ManagerTLSListen                          []string
	StatusListen, StatusTLSListen                            []string
	StreamListen                                             []streamAddress

	DataDir     string
	Documents   []string
	Development string // auto, on, off
	NodeID      string
	Zone        string
	DNSResolver []string

	RequestPolicy            routing.Policy
	ListenerPolicies         map[string]routing.Policy // by address
	ProxyProtocol            []string                  // addresses, or "all"
	MaxInFlight, MaxOfClient int                       // requests, and of them of one client
	MemoryLimit              string                    // see guardMemory
	RouterFlavor             string                    // see spec.Document.CheckFlavor
	H2C, HTTP3               []string                  // likewise; HTTP3 or "clear"
	PortMaps                 map[uint16]uint16         // see portMaps
	TrustedIPs               []netip.Prefix
	RealIPHeader             string
	RealIPRecursive          bool
	Headers                  edge.HeaderSet
	HeadersUpstream          edge.HeaderSet
	AllowDebugHeader         bool

	TLSCert, TLSKey             string
	TLSCurves                   []string
	HCV                         map[string]any // settings of the node's own Vault, by field
	SharedState, SharedStateKey string
	ECHPublicName               string

	AccessLog           string // stdout, off, or a path
	AccessLogSample     float64
	LogLevel, LogFormat string

	Grace, UpgradeTimeout time.Duration
	UpgradeStay           string // auto, on, off

	HeaderLimit, LineLimit, FieldLimit, TargetLimit int // bytes, and lines

	HandshakeTimeout time.Duration
	HeaderTimeout    time.Duration
	BodyIdle         time.Duration
	MinBodyRate      int
	WriteStall       time.Duration
	IdleTimeout      time.Duration
	KeepaliveMax     int
	BodyLimit        int64
	MaxConnections   int
	MaxPerClient     int // connections of one client
	MaxPerListener   listenerLimits
	MaxHandshakes    int
	HTTP2Streams     int
	MaxUDPSessions   int

	UpstreamPool                      int
	UpstreamRequests                  int
	UpstreamIdle                      time.Duration
	UpstreamVerify, UpstreamForwarded bool

	Kube kubeChoice

	EchoListen string // address of the built-in echo upstream

	LastKnownGood bool
	LastGoodKey   string // a file, "" for one of its own
	LastGoodDir   string

	CanaryWindow   time.Duration
	CanaryFailures int
	RevokeAtStop   bool
	TLSOCSP        bool
}

// hostPort checks one address.
func hostPort(a string) error {
	if _, port, err := net.SplitHostPort(a); err != nil || !isPort(port) {
		return fmt.Errorf("%q is not host:port", a)
	}
	return nil
}

// addresses reads a comma list of addresses, nil for off.
func addresses(into func(*settings) *[]string) func(*settings, string) error {
	return func(s *settings, text string) error {
		*into(s) = nil
		if text == "off" || text == "" {
			return nil
		}
		for a := range strings.SplitSeq(text, ",") {
			a = strings.TrimSpace(a)
			if err := hostPort(a); err != nil {
				return err
			}
			*into(s) = append(*into(s), a)
		}
		return nil
	}
}

func isPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 0 && n <= 65535
}

func duration(into func(*settings) *time.Duration) func(*settings, string) error {
	return func(s *settings, text string) error {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return fmt.Errorf("%q is not a positive duration", text)
		}
		*into(s) = d
		return nil
	}
}

func integer[T int | int64](into func(*settings) *T, least int64) func(*settings, string) error {
	return func(s *settings, text string) error {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < least || int64(T(n)) != n {
			return fmt.Errorf("%q is not a whole number of at least %d", text, least)
		}
		*into(s) = T(n)
		return nil
	}
}

func boolean(into func(*settings) *bool) func(*settings, string) error {
	return func(s *settings, text string) error {
		switch strings.ToLower(text) {
		case "on", "true", "yes", "1":
			*into(s) = true
		case "off", "false", "no", "0":
			*into(s) = false
		default:
			return fmt.Errorf("%q is neither on nor off", text)
		}
		return nil
	}
}

func oneOf(into func(*settings) *string, words ...string) func(*settings, string) error {
	return func(s *settings, text string) error {
		if !slices.Contains(words, text) {
			return fmt.Errorf("%q is none of %s", text, strings.Join(words, ", "))
		}
		*into(s) = text
		return nil
	}
}

func text(into func(*settings) *string) func(*settings, string) error {
	return func(s *settings, v string) error {
		*into(s) = v
		return nil
	}
}

// absolute reads the absolute path of a file, "" for none.
func absolute(into func(*settings) *string) func(*settings, string) error {
	return func(s *settings, v string) error {
		if v != "" && !filepath.IsAbs(v) {
			return fmt.Errorf("%q is no absolute path", v)
		}
		*into(s) = v
		return nil
	}
}

// headerName reads the name of a field (RFC 9110, section 5.1).
func headerName(into func(*settings) *string) func(*settings, string) error {
	return func(s *settings, v string) error {
		if !isToken(v) {
			return fmt.Errorf("%q is not a header name", v)
		}
		*into(s) = v
		return nil
	}
}

func isToken(v string) bool {
	const others = "!#$%&'*+-.^_`|~"
	return v != "" && !strings.ContainsFunc(v, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(others, r))
	})
}

func fraction(into func(*settings) *float64) func(*settings, string) error {
	return func(s *settings, v string) error {
		f, err := strconv.ParseFloat(v, 64)
		if err != nil || !(f >= 0 && f <= 1) { // written so that NaN is none
			return fmt.Errorf("%q is not a number between 0 and 1", v)
		}
		*into(s) = f
		return nil
	}
}

func headerSet(into func(*settings) *edge.HeaderSet) func(*settings, string) error {
	return func(s *settings, v string) (err error) {
		*into(s), err = edge.ParseHeaderSet(v)
		return err
	}
}

func commaList(v string) []string {
	var list []string
	for x := range strings.SplitSeq(v, ",") {
		if x = strings.TrimSpace(x); x != "" {
			list = append(list, x)
		}
	}
	return list
}

func trustedIPs(s *settings, v string) error {
	s.TrustedIPs = nil
	for _, x := range commaList(v) {
		if p, err := netip.ParsePrefix(x); err == nil {
			s.TrustedIPs = append(s.TrustedIPs, p.Masked())
			continue
		}
		a, err := netip.ParseAddr(x)
		if err != nil {
			return fmt.Errorf("%q is neither an address nor a CIDR", x)
		}
		s.TrustedIPs = append(s.TrustedIPs, netip.PrefixFrom(a, a.BitLen()))
	}
	return nil
}

// requestPolicy reads "strict", or a default followed by listeners that differ:
// "strict, 127.0.0.1:9000=compatible".
func requestPolicy(s *settings, v string) error {
	s.RequestPolicy, s.ListenerPolicies = routing.Strict, map[string]routing.Policy{}
	for _, x := range commaList(v) {
		address, word, listener := strings.Cut(x, "=")
		if !listener {
			word = address
		}
		p := routing.Policy(strings.TrimSpace(word))
		if p != routing.Strict && p != routing.Compatible {
			return fmt.Errorf("%q is neither strict nor compatible", word)
		}
		if listener {
			s.ListenerPolicies[strings.TrimSpace(address)] = p
		} else {
			s.RequestPolicy = p
		}
	}
	return nil
}

// readSettings makes the settings from, in rising order of precedence, the
// defaults, a file, the environment and flags. Every error is reported at once.
func readSettings(file string, env []string, flags map[string]string) (*settings, error) {
	s := &settings{}
	values := map[string]origined{}
	table := settingTable()
	for i := range table {
		values[table[i].key] = origined{table[i].def, "default"}
	}
	var errs []error
	errs = append(errs, fromFile(file, values)...)
	errs = append(errs, fromEnv(env, values)...)
	for key, v := range flags {
		values[key] = origined{v, "--" + strings.ReplaceAll(key, "_", "-")}
	}
	for i := range table {
		x := &table[i]
		v := values[x.key]
		if err := x.apply(s, v.text); err != nil {
			errs = append(errs, fmt.Errorf("setting %s (from %s): %w; expected %s", x.key, v.from, err, x.form))
		}
	}
	if len(errs) == 0 {
		errs = s.agree(values)
	}
	return s, joinSorted(errs)
}

// agree checks what no setting can tell alone. A policy for a listener that does
// not exist is a mistyped address, and the listener meant has the wrong policy.
func (s *settings) agree(values map[string]origined) []error {
	var errs []error
	for a := range s.ListenerPolicies {
		if !slices.Contains(s.ProxyListen, a) && !slices.Contains(s.ProxyTLSListen, a) {
			errs = append(errs, fmt.Errorf("setting request_policy (from %s): nothing listens on %q; expected an address as proxy_listen or proxy_tls_listen has it", values["request_policy"].from, a))
		}
	}
	for _, a := range s.ProxyProtocol {
		if a != "all" && !slices.Contains(s.ProxyListen, a) && !slices.Contains(s.ProxyTLSListen, a) {
			errs = append(errs, fmt.Errorf("setting proxy_protocol (from %s): nothing listens on %q; expected an address as proxy_listen or proxy_tls_listen has it, or all", values["proxy_protocol"].from, a))
		}
	}
	for _, a := range s.H2C {
		if a != "all" && !slices.Contains(s.ProxyListen, a) {
			errs = append(errs, fmt.Errorf("setting h2c (from %s): nothing listens in clear on %q; expected an address as proxy_listen has it, or all", values["h2c"].from, a))
		}
	}
	if len(s.ProxyProtocol) > 0 && len(s.TrustedIPs) == 0 {
		errs = append(errs, fmt.Errorf("setting proxy_protocol (from %s): no peer is trusted; expected the addresses of the load balancers in trusted_ips", values["proxy_protocol"].from))
	}
	if slices.ContainsFunc(s.StreamListen, func(a streamAddress) bool { return a.proxied }) && len(s.TrustedIPs) == 0 {
		errs = append(errs, fmt.Errorf("setting stream_listen (from %s): proxy_protocol, and no peer is trusted; expected the addresses of the load balancers in trusted_ips", values["stream_listen"].from))
	}
	if (s.TLSCert == "") != (s.TLSKey == "") {
		errs = append(errs, errors.New("settings tls_cert and tls_key go together: set both or neither"))
	}
	errs = append(errs, s.agreeOnListeners(values)...)
	errs = append(errs, s.agreeOnVault()...)
	errs = append(errs, s.agreeOnHTTP3(values)...)
	return errs
}

// proxied says whether a listener expects PROXY headers.
func (s *settings) proxied(address string) bool {
	return slices.Contains(s.ProxyProtocol, "all") || slices.Contains(s.ProxyProtocol, address)
}

// clearHTTP2 says whether a listener in clear understands HTTP/2.
func (s *settings) clearHTTP2(address string) bool {
	return slices.Contains(s.H2C, "all") || slices.Contains(s.H2C, address)
}

type origined struct{ text, from string }

func fromFile(file string, values map[string]origined) []error {
	if file == "" {
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return []error{fmt.Errorf("reading settings: %w", err)}
	}
	var doc map[string]any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return []error{fmt.Errorf("reading settings %s: %w; expected a map of settings", file, err)}
	}
	var errs []error
	for key, v := range doc {
		if _, ok := values[key]; !ok {
			errs = append(errs, unknownSetting(key, file))
			continue
		}
		t, err := scalar(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("setting %s (from %s): %w", key, file, err))
			continue
		}
		values[key] = origined{t, file}
	}
	return errs
}

// scalar renders a YAML value in the form of the environment: lists become comma lists.
func scalar(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool:
		if v {
			return "on", nil
		}
		return "off", nil
	case int, int64, uint64, float64:
		return fmt.Sprint(v), nil
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			p, err := scalar(v[i])
			if err != nil {
				return "", err
			}
			parts[i] = p
		}
		return strings.Join(parts, ","), nil
	}
	return "", fmt.Errorf("a %T is not expected here; expected a word, a number or a list", v)
}

func fromEnv(env []string, values map[string]origined) []error {
	// Names that belong to the build and the tests, not to a node.
	foreign := []string{"KEYWAY_CACHE", "KEYWAY_VECTORS", "KEYWAY_REQUIRE", "KEYWAY_VULNDB", "KEYWAY_SETTINGS"}
	var errs []error
	for _, pair := range env {
		name, v, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "KEYWAY_") || slices.Contains(foreign, name) {
			continue
		}
		key := strings.ToLower(strings.TrimPrefix(name, "KEYWAY_"))
		if _, ok := values[key]; !ok {
			errs = append(errs, unknownSetting(key, name))
			continue
		}
		values[key] = origined{v, name}
	}
	return errs
}

func unknownSetting(key, from string) error {
	best, score := "", 4
	for _, x := range settingTable() {
		if d := distance(key, x.key); d < score {
			best, score = x.key, d
		}
	}
	hint := "`keyway config settings` lists all"
	if best != "" {
		hint = fmt.Sprintf("did you mean %s?", best)
	}
	return fmt.Errorf("unknown setting %s (from %s): %s", key, from, hint)
}

// distance is the edit distance of two short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		last := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			keep := last
			if a[i-1] != b[j-1] {
				keep++
			}
			last = row[j]
			row[j] = min(keep, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

// joinSorted makes one error of many, a line each, in a stable order.
func joinSorted(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	lines := make([]string, len(errs))
	for i, e := range errs {
		lines[i] = e.Error()
	}
	return fmt.Errorf("%s", strings.Join(lines, "\n"))
}

// defaultDataDir is where a node keeps its data when nothing says otherwise.
func defaultDataDir() string {
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "keyway")
	}
	if home, err := os.UserHomeDir(); err == nil && os.Geteuid() != 0 {
		return filepath.Join(home, ".local", "share", "keyway")
	}
	return "/var/lib/keyway"
}
