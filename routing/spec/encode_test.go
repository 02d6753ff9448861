package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const everything = `
services:
- name: s
  url: https://h.test/p
  tls_verify: true
  tls_verify_depth: 0
  tls_sans: {dnsnames: [b.test, "*.c.test"], uris: ["spiffe://d.test/e"]}
  client_certificate: 11111111-1111-4111-8111-111111111111
  created_at: 1700000000
  x_keyway_upstream_auth: {type: aws_sigv4, access_key_id: hush-up, secret_access_key: "{vault://env/aws}", region: r, service: s3, refresh_on: [401]}
  routes:
  - name: r
    paths: [/a, '~/x/(?<id>\d+)$', "/w x"]
    headers: {X-A: [a, "~*b"], X-B: ["~*^c"]}
    hosts: ["*.a.test", "b.test:80"]
    x_keyway_path_policy: compatible
  - name: shared
    paths: [/s]
    service: null
    x_keyway_mirrors: [{service: s}, {service: {name: s}, numerator: 0, denominator: 3}]
    x_keyway_timeouts: {request: 10000, attempt: 2000}
    x_keyway_retry: {on_statuses: [503], attempts: 0, backoff: 25}
  - {protocols: [tls], snis: ["*.c.test"], x_keyway_except_snis: [d.c.test]}
  - {protocols: [tcp], sources: [{ip: 10.0.0.0/8}, {port: 5}, {ip: "::1", port: 6}], destinations: [{port: 0}]}
routes:
- {name: split, paths: [/], x_keyway_split: [{service: s, weight: 9}, {service: null, weight: 0}, {service: s}], x_keyway_timeouts: {}, x_keyway_mirrors: []}
upstreams:
- {name: sticky, algorithm: sticky-sessions, sticky_sessions_cookie: sid, sticky_sessions_cookie_path: /x}
- name: u
  hash_on: header
  hash_on_header: X-H
  healthchecks: {threshold: 12.5, active: {headers: {a: [b]}, healthy: {http_statuses: []}}}
  targets: [{target: "[::1]", weight: 3, created_at: 1700000000.123}]
consumer_groups:
- {name: gold, tags: [t], plugins: [{name: rich, config: {ratio: 2}}]}
- {name: "1", consumers: [{username: "null"}]}
consumers:
- username: "null"
  custom_id: "line one\nline two \x07 é  😀"
  tags: [yes, "1.5", "a: b", "#", " x"]
  keyauth_credentials: [{key: literal-hush, ttl: 60}, {key: "{vault://env/k}"}]
  acls: [{group: "-"}]
  groups: [{name: gold, tags: [t]}]
certificates:
- id: 11111111-1111-4111-8111-111111111111
  cert: "{vault://env/cert}"
  key: "{vault://env/key#2}"
  snis: [a.test, {name: "*.test", x_keyway_tls_policy: p}]
- {x_keyway_issuer: le, x_keyway_key_type: rsa-2048, snis: [z.test, b.test]}
ca_certificates: [{id: 33333333-3333-4333-8333-333333333333, cert: "{vault://env/ca}"}]
vaults: [{name: hcv, prefix: mine, config: {token: hush-token, host: v.test, nested: {client_secret: hush-nested}, list: [1, {}, []], big: 1e300}, x_keyway_allow: [{paths: ["apps/*/key", "**"], entities: [services], tags: [t]}, {}]}]
plugins:
- {name: rich, config: {ratio: 1.0e-7, mode: redis, redis: {host: h, password: hush0pw}, keys: [hush-key, "{vault://env/x}"], secret: hush-secret, headers: null}}
x_keyway_tls_policies: [{name: p, client_auth: required, ca_certificates: [33333333-3333-4333-8333-333333333333], verify_depth: 3, crl_required: true, crls: ["{vault://env/crl}", hush-crl]}]
x_keyway_listeners:
- {name: web, protocol: https, port: 8443, tls_policy: p, hostnames: [a.test, "*.test", "*"], tags: [t]}
- {name: dns.v6, protocol: udp, port: 8443, address: "::1"}
x_keyway_issuers: [{name: le, type: acme, config: {directories: [https://ca.test/dir], eab_hmac_key: hush-eab}}]
`

// unplaced is a document without positions, for comparing.
func unplaced(d *Document) *Document {
	for e := range d.all() {
		e.Base().Pos = Pos{}
	}
	return d
}

// roundTrip fails unless loading what Encode wrote makes the same document.
func roundTrip(t *testing.T, d *Document, schemas Schemas) {
	t.Helper()
	text, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, problems := Load([]Source{{Name: "encoded", Data: text}}, schemas)
	if len(problems) > 0 {
		t.Fatalf("%v\nin\n%s", problems, text)
	}
	if !reflect.DeepEqual(unplaced(d), unplaced(again)) {
		more, _ := again.Encode()
		t.Fatalf("changed by writing and reading:\n%s\n%s", text, more)
	}
	if changes := Diff(d, again); len(changes) > 0 {
		t.Fatalf("equal documents differ: %+v", changes)
	}
}

func TestEncodeRoundTrip(t *testing.T) {
	roundTrip(t, load3(t, everything, rich()), rich())
	long := `{"_format_version": "3.0", "vaults": [{"name": "env", "prefix": "long", "config": {"` + strings.Repeat("k", 2000) + `": {"a": 1}, "<<": {"a": "b"}}}]}`
	roundTrip(t, mustLoad(t, "long.json", []byte(long), nil), nil)
	roundTrip(t, load3(t, "plugins: [{name: rich, protocols: []}]", rich()), rich())
	roundTrip(t, &Document{FormatVersion: "3.0"}, nil)
}

// tap counts what it takes, and takes no more than there is room for.
type tap struct {
	bytes.Buffer
	pieces, most, room int
}

var errFull = errors.New("full")

func (w *tap) Write(p []byte) (int, error) {
	w.pieces++
	w.most = max(w.most, len(p))
	if w.room -= len(p); w.room < 0 {
		return 0, errFull
	}
	return w.Buffer.Write(p)
}

func TestEncodeSlowlyWritesTheSameInPieces(t *testing.T) {
	f := func(d *Document, pieces, most int) {
		t.Helper()
		want, err := d.Encode()
		if err != nil {
			t.Fatal(err)
		}
		w, rests := &tap{room: 1 << 30}, 0
		if err := d.EncodeSlowly(w, func() { rests++ }); err != nil || !bytes.Equal(w.Bytes(), want) {
			t.Errorf("%v: %d bytes that are not those of Encode, %d", err, w.Len(), len(want))
		}
		if w.pieces < pieces || w.most > most || rests != w.pieces {
			t.Errorf("%d pieces with %d rests, the longest of %d bytes; expected %d at least, a rest for each, of %d bytes at most", w.pieces, rests, w.most, pieces, most)
		}
		again := &tap{room: len(want) - 1}
		if err := d.EncodeSlowly(again, nil); !errors.Is(err, errFull) {
			t.Errorf("%v; expected what the writer says", err)
		}
		if last := (&tap{}); !errors.Is(d.EncodeSlowly(last, nil), errFull) || last.pieces != 1 {
			t.Errorf("%d pieces were tried after the first failed", last.pieces)
		}
	}
	f(load3(t, everything, rich()), 1, 1<<20)
	many := "consumers:\n"
	for i := range 1000 {
		many += "- {username: c" + itoa(i) + "}\n"
	}
	f(load3(t, many, nil), 1000/pieceEntities, 100*pieceEntities)
	large := "consumers:\n"
	for i := range 100 {
		large += "- {username: " + strings.Repeat("a", 10_000) + itoa(i) + "}\n"
	}
	f(load3(t, large, nil), 25, pieceBytes+11_000)
}

func TestEncodeIsYAMLForOthers(t *testing.T) {
	text, err := load3(t, everything, rich()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string][]map[string]any
	var head struct {
		Version string `yaml:"_format_version"`
	}
	_, body, _ := bytes.Cut(text, []byte("_transform: false\n"))
	if err := yaml.Unmarshal(body, &doc); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &head); err != nil || head.Version != "3.0" {
		t.Errorf("format version %q, %v", head.Version, err)
	}
	if got := doc["consumers"][0]["custom_id"]; got != "line one\nline two \a é  😀" {
		t.Errorf("custom_id %q", got)
	}
}

func TestRedacted(t *testing.T) {
	d := load3(t, everything, rich())
	shown, err := d.Redacted()
	if err != nil {
		t.Fatal(err)
	}
	full, _ := d.Encode()
	for _, secret := range []string{"literal-hush", "hush-token", "hush-nested", "hush0pw", "hush-key", "hush-secret", "hush-crl", "hush-eab", "hush-up"} {
		if bytes.Contains(shown, []byte(secret)) {
			t.Errorf("%s is shown", secret)
		}
		if !bytes.Contains(full, []byte(secret)) {
			t.Errorf("%s is not in the operator's own document", secret)
		}
	}
	for _, open := range []string{"{vault://env/x}", "{vault://env/k}", "v.test", "host: h\n"} {
		if !bytes.Contains(shown, []byte(open)) {
			t.Errorf("%s is not shown", open)
		}
	}
	// And nothing that formats entities shows a literal.
	text, _ := json.Marshal(d.KeyAuths)
	if bytes.Contains(text, []byte("literal-hush")) {
		t.Errorf("JSON of a credential shows its key: %s", text)
	}
}

func FuzzLoadEncode(f *testing.F) {
	f.Add([]byte("_format_version: \"3.0\"\n" + everything))
	f.Add([]byte(`{"_format_version":"2.1","services":[{"url":"http://h/p","routes":[{"paths":["/a.*"]}]}]}`))
	f.Add([]byte("_format_version: \"3.0\"\nvaults: [{name: env, prefix: aa, config: {? a : |\n  x\n\n  y\n}}]\n"))
	f.Add([]byte("_format_version: \"3.0\"\nplugins: [{name: rich, config: {count: 2, free: {a: [1.5, null, -0]}, mode: local}}]\n"))
	f.Add([]byte("_format_version: \"3.0\"\n_info: {select_tags: [a], defaults: {service: {retries: 1}}}\nservices: [{host: \"::1\", tags: [\"\\u2028\\x85\"]}]\n"))
	schemas := rich()
	f.Fuzz(func(t *testing.T, text []byte) {
		d, problems := Load([]Source{{Name: "fuzz", Data: text}}, schemas)
		if (d == nil) == (len(problems) == 0) {
			t.Fatalf("document %v with %d problems", d != nil, len(problems))
		}
		if d != nil {
			roundTrip(t, d, schemas)
		}
	})
}

// FuzzEncodeText looks for texts and numbers that writing and reading changes.
func FuzzEncodeText(f *testing.F) {
	for _, s := range []string{"", "a", "a: b", "- x", "a\nb\nc\n", "a\nb\n\n", " a\nb\n", "\t", "\u2028", "\ufeff", "\x00", "é", "😀", "1", "1e5", "yes", "~", "<<", "? ", "#", "---\n...\n", "|\n", "\u0085\r\n", "'\"\\"} {
		f.Add(s, 0.5)
	}
	f.Add("x", 1e17)
	f.Add("x", -9007199254740993.0)
	f.Fuzz(func(t *testing.T, s string, n float64) {
		text, err := json.Marshal(map[string]any{
			"_format_version": "3.0",
			"consumers":       []any{map[string]any{"username": s, "custom_id": "-" + s}},
			"vaults": []any{map[string]any{"name": "env", "prefix": "aa", "description": s, "config": map[string]any{
				s: s, "n": n, "list": []any{s, n, []any{s}, map[string]any{s: n}},
			}}},
		})
		if err != nil {
			return // not a number
		}
		d, problems := Load([]Source{{Name: "f.json", Data: text}}, nil)
		if len(problems) > 0 {
			if s != "" && s != "n" && s != "list" {
				t.Fatal(problems)
			}
			return
		}
		roundTrip(t, d, nil)
	})
}
