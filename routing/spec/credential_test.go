package spec

import (
	"slices"
	"strings"
	"testing"
)

func TestIssuedPairs(t *testing.T) {
	d := load3(t, `
x_keyway_issuers: [{name: le, type: acme}]
certificates:
- {x_keyway_issuer: le, snis: [b.test, a.test, "c.*"]}
- {x_keyway_issuer: le, x_keyway_key_type: rsa-3072, snis: [{name: d.test}]}
- {cert: "{vault://env/cert}", key: "{vault://env/key}"}
`, nil)
	c := d.Certificates[0]
	cert, key := d.Pair(c)
	want := "{vault://issuer.le/" + c.ID + "/cert?key_type=ecdsa-p256&names=a.test%2Cb.test}"
	if cert.Ref.String() != want || key.Ref.Key != "key" || key.Ref.Resource != cert.Ref.Resource || key.Ref.Query != cert.Ref.Query {
		t.Errorf("%s and %s, want %s", cert.Ref, key.Ref, want)
	}
	if cert, _ := d.Pair(d.Certificates[2]); cert.Ref.String() != "{vault://env/cert}" {
		t.Errorf("a pair of its own became %s", cert.Ref)
	}
	if c.ID == d.Certificates[1].ID {
		t.Error("two certificates of one issuer have one id")
	}
	var seen []string
	for u := range d.Uses() {
		seen = append(seen, u.Kind+" "+u.Field+" "+u.Ref.Vault)
	}
	if want := "certificates cert issuer.le,certificates key issuer.le,certificates cert issuer.le,certificates key issuer.le,certificates cert env,certificates key env"; strings.Join(seen, ",") != want {
		t.Errorf("uses are %q", seen)
	}
}

func TestCredentialsAreJudged(t *testing.T) {
	sources := Schemas{
		"vaults/hcv": {Verify: func(c map[string]any) []FieldError {
			if c["port"] == nil {
				return []FieldError{{"port", "expected a number"}}
			}
			return nil
		}},
		"x_keyway_issuers/acme": {},
	}
	f := func(text, want string) {
		t.Helper()
		_, problems := Load([]Source{{"t.yaml", []byte("_format_version: \"3.0\"\n" + text)}}, sources)
		if want == "" && len(problems) > 0 || want != "" && (len(problems) == 0 || !strings.Contains(problems.Error(), want)) {
			t.Errorf("%s\ngot %v\nwant %q", text, problems, want)
		}
	}
	service := func(protocol, auth string) string {
		return "services: [{name: s, host: h, protocol: " + protocol + ", x_keyway_upstream_auth: " + auth + "}]"
	}
	f(service("http", "{type: bearer, value: x}"), "")
	f(service("http", "null"), "")
	f(service("http", "{type: bearer}"), "x_keyway_upstream_auth.value: required field missing")
	f(service("http", "{value: x}"), "x_keyway_upstream_auth.type: required field missing")
	f(service("http", "{type: token, value: x}"), "x_keyway_upstream_auth.type: expected one of: header")
	f(service("http", "{type: bearer, value: x, name: y}"), "x_keyway_upstream_auth.name: expected nothing")
	f(service("http", "{type: bearer, value: x, nope: y}"), "x_keyway_upstream_auth.nope: unknown field")
	f(service("http", "{type: header, name: host, value: x}"), "writes itself")
	f(service("http", "{type: client_certificate, cert: x, key: y}"), "needs 'protocol' to be https")
	f(service("tcp", "{type: bearer, value: x}"), "expected nothing, since 'protocol' is 'tcp'")
	f(service("http", "{type: bearer, value: \"{vault://}\"}"), "vault or resource is missing")
	f("certificates: [{}]", "cert: required field missing")
	f("certificates: [{x_keyway_key_type: rsa-2048, cert: \"{vault://env/a}\", key: \"{vault://env/b}\"}]", "there is no 'x_keyway_issuer'")
	f("x_keyway_issuers: [{name: i, type: acme}]\ncertificates: [{x_keyway_issuer: i, cert: \"{vault://env/a}\"}]", "cert: expected nothing")
	f("certificates: [{x_keyway_issuer: nobody}]", "no such entry in 'x_keyway_issuers'")
	f("x_keyway_issuers: [{name: i, type: vault_pki}]", "type: 'vault_pki' is not in this build; expected one of: acme")
	f("x_keyway_issuers: [{name: i, type: magic}]", "type: expected one of: acme, vault_pki")
	f("vaults: [{name: hcv, prefix: my-vault}]", "config.port: expected a number")
	f("vaults: [{name: nope, prefix: my-vault}]", "'nope' is not in this build; expected one of: hcv")
	f("x_keyway_tls_policies: [{name: p, crl_required: true}]", "expected nothing, since 'client_auth' is 'off'")
	f("vaults: [{name: hcv, prefix: my-vault, config: {port: 1}, x_keyway_allow: [{paths: ['[']}]}]", "invalid pattern")
	f("vaults: [{name: hcv, prefix: my-vault, config: {port: 1}, x_keyway_allow: [{entities: [nobody]}]}]", "x_keyway_allow.1.entities.1: expected one of")
}

func TestVaultRules(t *testing.T) {
	const vault = "vaults: [{name: hcv, prefix: my-vault, x_keyway_allow: [{paths: [apps/*/key], entities: [services]}, {paths: ['public/**']}, {tags: [ops]}, {namespaces: ['team-*']}]}]\n"
	f := func(entity, want string) {
		t.Helper()
		_, problems := Load([]Source{{"t.yaml", []byte("_format_version: \"3.0\"\n" + vault + entity)}}, nil)
		if want == "" && len(problems) > 0 || want != "" && (len(problems) != 1 || !strings.Contains(problems.Error(), want)) {
			t.Errorf("%s\ngot %v\nwant %q", entity, problems, want)
		}
	}
	service := func(ref, more string) string {
		return "services: [{name: s, host: h, x_keyway_upstream_auth: {type: bearer, value: \"{vault://my-vault/" + ref + "}\"}" + more + "}]"
	}
	f(service("apps/one/key/value", ""), "")
	f(service("apps/one/two/key/value", ""), "services \"s\": x_keyway_upstream_auth.value: the rules (x_keyway_allow) of vault 'my-vault' do not let this object use 'apps/one/two/key'")
	f(service("other/value", ", tags: [ops]"), "")
	f(service("other/value", ", tags: ['k8s-namespace:team-a']"), "")
	f(service("other/value", ", tags: ['k8s-namespace:else']"), "do not let this object")
	f("consumers: [{username: c, keyauth_credentials: [{key: \"{vault://my-vault/apps/one/key/value}\"}]}]", "keyauth_credentials")
	f("consumers: [{username: c, keyauth_credentials: [{key: \"{vault://my-vault/public/a/b/value}\"}]}]", "")
}

func TestGlob(t *testing.T) {
	f := func(pattern string, fits, not []string) {
		t.Helper()
		for _, s := range fits {
			if !glob(pattern, s) {
				t.Errorf("%s does not fit %s", pattern, s)
			}
		}
		if i := slices.IndexFunc(not, func(s string) bool { return glob(pattern, s) }); i >= 0 {
			t.Errorf("%s fits %s", pattern, not[i])
		}
	}
	f("a/*", []string{"a/b"}, []string{"a", "a/b/c", "ab"})
	f("a/**", []string{"a", "a/b", "a/b/c"}, []string{"ab", "b/a"})
	f("**/key", []string{"key", "a/key", "a/b/key"}, []string{"keys", "key/a"})
	f("k?y-*", []string{"key-1"}, []string{"kay"})
}
