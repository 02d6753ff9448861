// Package sigv4 signs requests with AWS Signature Version 4, as the "AWS Signature
// Version 4 for API requests" pages of its documentation describe it: a canonical form
// of the request, hashed, under a key derived from the secret for a day, a region
// and a service. It is written out here because a signature must cover the bytes that
// this proxy sends, and the vendor's library signs its own kind of request.
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Unsigned is the payload hash of a body that is not covered, which S3 accepts over TLS.
const Unsigned = "UNSIGNED-PAYLOAD"

// Credential is what requests are signed with. SessionToken is "" for long-lived keys.
type Credential struct {
	AccessKeyID, SecretAccessKey, SessionToken string
}

// Signer signs for one region and service. Immutable. It never prints: what it knows
// is in a function.
type Signer struct {
	credential      func() Credential
	region, service string
}

// New makes a Signer.
func New(c Credential, region, service string) *Signer {
	return &Signer{credential: func() Credential { return c }, region: region, service: service}
}

// Request is what a signature covers.
type Request struct {
	Method      string
	Path        string // as it is sent, escaped
	Query       string // as it is sent, without '?'
	Host        string // the Host field
	PayloadHash string // SHA-256 of the body in hexadecimal, or Unsigned
}

// Field is a header field to send along.
type Field struct{ Name, Value string }

// Sign answers the fields that make a request a signed one, Authorization among them.
func (s *Signer) Sign(r Request, now time.Time) []Field {
	c := s.credential()
	stamp := now.UTC().Format("20060102T150405Z")
	fields := []Field{{"X-Amz-Date", stamp}}
	if s.service == "s3" || r.PayloadHash == Unsigned {
		fields = append(fields, Field{"X-Amz-Content-Sha256", r.PayloadHash})
	}
	if c.SessionToken != "" {
		fields = append(fields, Field{"X-Amz-Security-Token", c.SessionToken})
	}
	names, lines := canonicalFields(append([]Field{{"Host", r.Host}}, fields...))
	canonical := strings.Join([]string{r.Method, s.canonicalPath(r.Path), canonicalQuery(r.Query), lines, names, r.PayloadHash}, "\n")
	scope := stamp[:8] + "/" + s.region + "/" + s.service + "/aws4_request"
	text := "AWS4-HMAC-SHA256\n" + stamp + "\n" + scope + "\n" + hash(canonical)
	key := mac([]byte("AWS4"+c.SecretAccessKey), stamp[:8])
	for _, part := range []string{s.region, s.service, "aws4_request"} {
		key = mac(key, part)
	}
	signature := hex.EncodeToString(mac(key, text))
	return append(fields, Field{"Authorization", "AWS4-HMAC-SHA256 Credential=" + c.AccessKeyID + "/" + scope + ", SignedHeaders=" + names + ", Signature=" + signature})
}

// Hash answers the payload hash of a body.
func Hash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

func hash(text string) string { return Hash([]byte(text)) }

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// canonicalFields answers the names, sorted, and their lines.
func canonicalFields(fields []Field) (names, lines string) {
	list := make([]Field, len(fields))
	for i, f := range fields {
		list[i] = Field{strings.ToLower(f.Name), strings.Join(strings.Fields(f.Value), " ")}
	}
	slices.SortFunc(list, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	var n []string
	for _, f := range list {
		n = append(n, f.Name)
		lines += f.Name + ":" + f.Value + "\n"
	}
	return strings.Join(n, ";"), lines
}

// canonicalPath escapes each segment once more, but for S3, whose keys may hold
// anything: there the path counts as it is sent.
func (s *Signer) canonicalPath(path string) string {
	if path == "" {
		return "/"
	}
	if s.service == "s3" {
		plain, err := url.PathUnescape(path)
		if err != nil {
			return path
		}
		return escape(plain, true)
	}
	return escape(path, true)
}

// canonicalQuery is the arguments, decoded, escaped in the one way and sorted.
func canonicalQuery(query string) string {
	var list []Field
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		list = append(list, Field{escape(plus(name), false), escape(plus(value), false)})
	}
	slices.SortFunc(list, func(a, b Field) int {
		if n := strings.Compare(a.Name, b.Name); n != 0 {
			return n
		}
		return strings.Compare(a.Value, b.Value)
	})
	parts := make([]string, len(list))
	for i, f := range list {
		parts[i] = f.Name + "=" + f.Value
	}
	return strings.Join(parts, "&")
}

func plus(text string) string {
	plain, err := url.QueryUnescape(text)
	if err != nil {
		return text
	}
	return plain
}

// escape percent-encodes every byte but the unreserved ones of RFC 3986.
func escape(text string, slash bool) string {
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, len(text))
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '~', slash && c == '/':
			b = append(b, c)
		default:
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(b)
}
