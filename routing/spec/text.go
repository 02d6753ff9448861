package spec

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The checks of one text each. They answer the message, "" if the text is right,
// in the words that users of the format know from its other implementation.

const tooShort = "length must be at least 1"

var (
	uuidText   = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	prefixText = regexp.MustCompile(`^[a-z][a-z0-9-]*[a-z0-9]$`)
	upperText  = regexp.MustCompile(`^[A-Z]+$`)
	pathText   = regexp.MustCompile(`^/[A-Za-z0-9._~/%:@!$&'()*+,;=-]*$`)
	// sourceKinds are names that references can use without a vault entity; a
	// prefix of the same name would make it unclear which of the two is meant.
	sourceKinds = []string{"env", "file", "sealed", "hcv", "aws", "gcp", "azure", "conjur", "kube"}
)

func checkNotEmpty(s string) string {
	if s == "" {
		return tooShort
	}
	return ""
}

func checkUUID(s string) string {
	if !isUUID(strings.ToLower(s)) {
		return "expected a valid UUID"
	}
	return ""
}

// isUUID judges lower case text; a byte scan, since references are judged by the ten thousand.
func isUUID(s string) bool {
	return len(s) == 36 && s[8] == '-' && s[13] == '-' && uuidText.MatchString(s)
}

func checkName(s string) string {
	if s == "" {
		return tooShort
	}
	for i := range len(s) {
		c := s[i]
		if c >= 0x80 || isAlnum(c) || strings.IndexByte(".-_~", c) >= 0 {
			continue
		}
		return "invalid value '" + s + "': the only accepted ascii characters are alphanumerics or ., -, _, and ~"
	}
	return ""
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func checkTag(s string) string {
	if s == "" {
		return tooShort
	}
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == 0x7f || c == ',' || c == '/' {
			return "invalid tag '" + s + "': expected printable ascii (except `,` and `/`) or valid utf-8 sequences"
		}
	}
	return ""
}

func checkMethod(s string) string {
	if s == "" {
		return tooShort
	}
	if !upperText.MatchString(s) {
		return "invalid value: " + s
	}
	return ""
}

func checkProtocol(s string) string {
	if !slices.Contains(allProtocols, s) {
		return "unknown type: " + s
	}
	return ""
}

func checkHeaderName(s string) string {
	if s == "" {
		return tooShort
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '_' && c != '-' {
			return "bad header name '" + s + "', allowed characters are A-Z, a-z, 0-9, '_', and '-'"
		}
	}
	return ""
}

// checkCookieName holds a cookie's name to RFC 6265, section 4.1.1.
func checkCookieName(s string) string {
	if s == "" {
		return tooShort
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return "invalid value '" + s + "': expected letters, digits and any of !#$%&'*+-.^_`|~"
		}
	}
	return ""
}

// checkCookiePath holds a cookie's path to what the attribute can say.
func checkCookiePath(s string) string {
	if why := checkProbePath(s); why != "" {
		return why
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == ';' {
			return "invalid value '" + s + "': expected printable ASCII without spaces and semicolons"
		}
	}
	return ""
}

func checkHeaderNames(headers map[string][]string) string {
	for _, name := range sortedKeys(headers) {
		if why := checkHeaderName(name); why != "" {
			return why
		}
	}
	return ""
}

func checkRouteHeaders(headers map[string][]string) string {
	for _, name := range sortedKeys(headers) {
		if strings.EqualFold(name, "host") {
			return "cannot contain 'host' header, which must be specified in the 'hosts' attribute"
		}
		if why := checkHeaderName(name); why != "" {
			return why
		}
		values := headers[name]
		if len(values) == 0 || slices.Contains(values, "") {
			return tooShort
		}
		// Only a single value is read as an expression.
		if len(values) == 1 && strings.HasPrefix(values[0], "~*") {
			if _, err := regexp.Compile(values[0][2:]); err != nil {
				return "invalid regex: '" + values[0][2:] + "' (" + regexpReason(err) + ")"
			}
		}
	}
	return ""
}

// hostShape tells a host name, an IPv4 and an IPv6 address apart and splits off a port.
type hostShape struct {
	host  string
	port  string // "" for none
	ip    bool
	valid bool
}

func splitHost(s string) hostShape {
	host, port := s, ""
	switch colons := strings.Count(s, ":"); {
	case strings.HasPrefix(s, "["):
		inside, rest, ok := strings.Cut(s[1:], "]")
		if !ok || (rest != "" && rest[0] != ':') {
			return hostShape{}
		}
		host, port = inside, strings.TrimPrefix(rest, ":")
		addr, err := netip.ParseAddr(host)
		return hostShape{host, port, true, err == nil && addr.Is6() && (rest == "" || isDigits(port))}
	case colons > 1:
		_, err := netip.ParseAddr(s)
		return hostShape{s, "", true, err == nil}
	case colons == 1:
		host, port, _ = strings.Cut(s, ":")
		if !isDigits(port) {
			return hostShape{}
		}
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return hostShape{host, port, true, true}
	}
	return hostShape{host, port, false, isHostname(host)}
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func portFits(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n <= 65535
}

// isHostname is wider than DNS: underscores and edge hyphens occur in inner networks.
func isHostname(s string) bool {
	if s == "" || len(s) > 255 || s[0] == '.' || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}

func checkServiceHost(s string) string {
	if s == "" {
		return tooShort
	}
	h := splitHost(s)
	if !h.valid {
		return "invalid value: " + s
	}
	if h.port != "" {
		return "must not have a port"
	}
	return ""
}

func checkHostHeader(s string) string {
	if s == "" {
		return tooShort
	}
	h := splitHost(s)
	if !h.valid {
		return "invalid hostname: " + s
	}
	if h.port != "" && !portFits(h.port) {
		return "invalid port number"
	}
	return ""
}

func checkRouteHost(s string) string {
	stars := strings.Count(s, "*")
	if stars > 1 {
		return "invalid wildcard: must have at most one wildcard"
	}
	if stars == 1 {
		if !strings.HasPrefix(s, "*.") && !strings.HasSuffix(s, ".*") {
			return "invalid wildcard: must be placed at leftmost or rightmost label"
		}
		if checkHostHeader(strings.Replace(s, "*", "wildcard", 1)) != "" {
			return "invalid hostname: " + s
		}
		return ""
	}
	return checkHostHeader(s)
}

func checkSNI(s string) string {
	if s == "" {
		return tooShort
	}
	name := s
	if i := strings.IndexByte(s, '*'); i >= 0 {
		if strings.Count(s, "*") > 1 {
			return "only one wildcard must be specified"
		}
		if s != "*" && !strings.HasPrefix(s, "*.") && !strings.HasSuffix(s, ".*") {
			return "wildcard must be leftmost or rightmost label"
		}
		name = strings.Replace(s, "*", "wildcard", 1)
	}
	h := splitHost(name)
	switch {
	case !h.valid:
		return "invalid value: " + s
	case h.ip:
		return "must not be an IP"
	case h.port != "":
		return "must not have a port"
	}
	return ""
}

func checkIPRange(s string) string {
	if s == "" {
		return tooShort
	}
	if _, err := netip.ParsePrefix(s); err == nil {
		return ""
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return ""
	}
	return "invalid ip or cidr range: '" + s + "'"
}

func checkUpstreamName(s string) string {
	if s == "" {
		return tooShort
	}
	h := splitHost(s)
	switch {
	case !h.valid:
		return "Invalid name ('" + s + "'); must be a valid hostname"
	case h.ip:
		return "Invalid name ('" + s + "'); no ip addresses allowed"
	case h.port != "":
		return "Invalid name ('" + s + "'); no port allowed"
	}
	return ""
}

func checkTarget(s string) string {
	h := splitHost(s)
	if !h.valid || (h.port != "" && !portFits(h.port)) {
		return "Invalid target ('" + s + "'); not a valid hostname or ip address"
	}
	return ""
}

// withPort completes a target with the port that it has if it names none.
func withPort(s string) string {
	h := splitHost(s)
	port := h.port
	if port == "" {
		port = "8000"
	}
	if strings.Contains(h.host, ":") {
		return "[" + h.host + "]:" + port
	}
	return h.host + ":" + port
}

func checkVaultPrefix(s string) string {
	if slices.Contains(sourceKinds, s) {
		return "must not be one of: " + strings.Join(sourceKinds, ", ")
	}
	if !prefixText.MatchString(s) {
		return "invalid value: " + s
	}
	return ""
}
