package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
)

// keyway runs a command line and answers what it printed and its exit status.
func keyway(t *testing.T, args ...string) (string, int, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot(&out, &out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), status(err), err
}

// status is the exit status that main ends with.
func status(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &e):
		return e.status
	}
	return exitFailed
}

func document(t *testing.T, text string) *spec.Document {
	t.Helper()
	doc, problems := spec.Load([]spec.Source{{Name: "t.yaml", Data: []byte("_format_version: \"3.0\"\n" + text)}}, schemas())
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return doc
}

func emptyDocument(t *testing.T) *spec.Document { return document(t, "consumers: []\n") }

func TestHelpListsEverySetting(t *testing.T) {
	help, code, _ := keyway(t, "serve", "--help")
	list, code2, _ := keyway(t, "config", "settings")
	asJSON, _, _ := keyway(t, "config", "settings", "--json")
	if code != exitOK || code2 != exitOK {
		t.Fatalf("exit statuses %d and %d", code, code2)
	}
	var rows []map[string]string
	if err := json.Unmarshal([]byte(asJSON), &rows); err != nil || len(rows) != len(settingTable()) {
		t.Errorf("%d rows: %v", len(rows), err)
	}
	for _, x := range settingTable() {
		for where, text := range map[string]string{"serve --help": help, "config settings": list} {
			if !strings.Contains(text, x.env()) || !strings.Contains(text, x.meaning) || x.def != "" && !strings.Contains(text, x.def) {
				t.Errorf("%s does not say all about %s", where, x.key)
			}
		}
		if !strings.Contains(help, "--"+x.flag()+" ") {
			t.Errorf("serve has no flag --%s", x.flag())
		}
	}
	for _, s := range []string{"0 stopped as asked", "1 failed", "2 wrong settings", "3 requests were cut", "4 a second signal"} {
		if !strings.Contains(help, s) {
			t.Errorf("serve --help does not say %q", s)
		}
	}
}

func TestExitStatusOfWrongCommandLines(t *testing.T) {
	f := func(want int, text string, args ...string) {
		t.Helper()
		out, code, err := keyway(t, args...)
		if code != want || err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: status %d, %v, printed %q; want %d and %q", args, code, err, out, want, text)
		}
	}
	f(exitSettings, "unknown flag", "serve", "--nonsense")
	f(exitSettings, "unknown command", "nonsense")
	f(exitSettings, "unknown command", "certs", "nonsense")
	f(exitSettings, "arg", "validate")
	f(exitSettings, "unknown command", "serve", "extra")
	f(exitSettings, "setting grace (from --grace)", "serve", "--grace", "30")
	f(exitFailed, "is it running", "certs", "list", "--data-dir", t.TempDir())
}

func TestValidate(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("_format_version: \"3.0\"\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.yaml", "services: [{name: s, host: a.test, plugins: [{name: key-auth}]}]\n")
	bad := file("bad.yaml", "services: [{name: s, hos: a.test, host: a.test}]\nroutes: [{name: r, path: [/]}]\n")
	if out, code, err := keyway(t, "validate", good); code != exitOK || !strings.Contains(out, "valid") {
		t.Errorf("status %d, %q, %v", code, out, err)
	}
	out, code, err := keyway(t, "validate", bad)
	if code != exitFailed || !strings.Contains(out, bad+":2: services \"s\": hos: unknown field") || !strings.Contains(out, "path: unknown field") || !strings.Contains(out, "problems") {
		t.Errorf("status %d, %q", code, out)
	}
	if err == nil || err.Error() != "" {
		t.Errorf("what was printed is not said again: %v", err)
	}
	out, code, _ = keyway(t, "validate", "--json", bad)
	var v struct {
		Valid    bool
		Problems []map[string]string
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || v.Valid || len(v.Problems) < 2 || code != exitFailed {
		t.Errorf("status %d, %q, %v", code, out, err)
	}
	if _, code, err := keyway(t, "validate", filepath.Join(dir, "none.yaml")); code != exitFailed || err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("status %d, %v", code, err)
	}
}

// TestValidateExport reads what an export of a database looks like, and says of each list what it needs.
func TestValidateExport(t *testing.T) {
	path := filepath.Join("testdata", "export.yaml")
	want := "warning: " + path + ":4: parameters: it says nothing about traffic and is left out\n" + path + ": valid\n"
	if out, code, err := keyway(t, "validate", path); out != want || code != exitOK {
		t.Errorf("status %d, %v, got\n%s\nwant\n%s", code, err, out, want)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.NewReplacer(
		"- consumer: 0b7cf0a5-4a3f-4d0c-9a53-3e1f6cb1c002\n  consumer_group", "- consumer: nobody\n  group",
		"    policy: local\n  consumer_group: 5f0d3f0e-2a55-4d2f-8c5c-7a9b1c2d3e01", "    policy: 5\n  consumer_group: silver",
		"jwt_secrets: ~", "jwt_secrets: [{key: a}]",
	).Replace(string(text))
	path = filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(path, []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code, _ := keyway(t, "validate", path)
	for _, line := range []string{
		`:39: consumer_group_consumers: 2.consumer: invalid reference 'consumer: nobody' (no such entry in 'consumers')`,
		`:39: consumer_group_consumers: 2.consumer_group: required field missing`,
		`:40: consumer_group_consumers: 2.group: unknown field`,
		`:46: consumer_group_plugins "rate-limiting": config.policy: expected a string`,
		`:47: consumer_group_plugins "rate-limiting": consumer_group: invalid reference 'consumer_group: silver' (no such entry in 'consumer_groups')`,
		`: jwt_secrets: expected nothing: credentials of the plugin 'jwt', which is not in this build; those that it has are 'keyauth_credentials'`,
		"6 problems",
	} {
		if !strings.Contains(out, line+"\n") || code != exitFailed {
			t.Errorf("status %d, missing %q in\n%s", code, line, out)
		}
	}
}

func TestExplain(t *testing.T) {
	doc := document(t, `
services:
- name: s
  host: up
  path: /base
  plugins: [{name: key-auth}]
  routes:
  - {name: wide, paths: [/api]}
  - {name: narrow, hosts: [a.test], paths: [/api], methods: [POST], plugins: [{name: cors}]}
  - {name: reads, paths: [/reads], methods: [GET]}
- {name: t, host: other.test, port: 81}
routes:
- {name: shared, paths: [/shared], x_keyway_split: [{service: s, weight: 3}, {service: t}, {service: null}], x_keyway_mirrors: [{service: t, numerator: 1, denominator: 4}], plugins: [{name: cors, service: t}]}
upstreams: [{name: up, targets: [{target: "127.0.0.1:9", weight: 7}]}]
consumer_groups:
- {name: gold, plugins: [{name: rate-limiting, route: wide, config: {minute: 9}}]}
- {name: iron, plugins: [{name: rate-limiting, config: {minute: 1}}]}
consumers: [{username: ann, groups: [iron, gold]}, {username: bob, groups: [iron]}]
`)
	config := &edge.Config{Policy: routing.Strict}
	pools := upstream.NewPools(upstream.Settings{})
	t.Cleanup(pools.Close)
	b := &edge.Builder{Config: config, Kinds: plugins(), Pools: pools, Env: policy.Env{Shared: sharedState()}}
	s, _ := b.Build(nil, edge.Inputs{Document: doc, Now: time.Now()})
	f := func(q control.Question, want explanation) *explanation {
		t.Helper()
		e, err := explain(s, config, q)
		if err != nil {
			t.Fatal(err)
		}
		if e.Route != want.Route || e.Refused != want.Refused || e.UpstreamURI != want.UpstreamURI || e.Generation != 1 {
			t.Errorf("%+v: %+v", q, e)
		}
		return e
	}
	e := f(control.Question{Method: "POST", URL: "http://a.test/api/x"}, explanation{Route: "narrow", UpstreamURI: "/base/x"})
	if e.Service != "s" || len(e.Targets) != 1 || !strings.HasPrefix(e.Targets[0], "127.0.0.1:9 weight 7") || len(e.Plugins) != 2 {
		t.Errorf("leads to %+v", e)
	}
	if len(e.Candidates) < 2 || e.Candidates[0].Route != "narrow" || !e.Candidates[0].Matches || e.Candidates[1].Reason == "" {
		t.Errorf("candidates %+v", e.Candidates)
	}
	f(control.Question{URL: "http://a.test/api"}, explanation{Route: "wide", UpstreamURI: "/base"})
	f(control.Question{URL: "http://a.test/reads"}, explanation{Route: "reads", UpstreamURI: "/base"})
	f(control.Question{Method: "GET", URL: "http://a.test/none"}, explanation{Refused: "404: no route matched"})
	if e := f(control.Question{URL: "https://a.test/api"}, explanation{Route: "wide", UpstreamURI: "/base"}); !strings.Contains(e.Certificate.Why, "unrecognized_name") {
		t.Errorf("certificate %+v", e.Certificate)
	}
	if e, err := explain(s, config, control.Question{URL: "http://a.test/api%00"}); err != nil || !strings.HasPrefix(e.Refused, "400: ") {
		t.Errorf("%+v %v", e, err)
	}
	for _, q := range []control.Question{{URL: "a.test/api"}, {URL: "ftp://a.test/"}, {URL: "http://a.test/", Headers: []string{"nonsense"}}} {
		if _, err := explain(s, config, q); err == nil {
			t.Errorf("%+v must be refused", q)
		}
	}
	if _, err := explain(nil, config, control.Question{URL: "http://a.test/"}); err == nil {
		t.Error("without a configuration there is nothing to explain")
	}
	for consumer, want := range map[string]string{"": "key-auth service", "ann": "key-auth service rate-limiting route+consumer_group", "bob": "key-auth service rate-limiting consumer_group"} {
		e := f(control.Question{URL: "http://a.test/api", Consumer: consumer}, explanation{Route: "wide", UpstreamURI: "/base"})
		got := ""
		for _, p := range e.Plugins {
			got += " " + p.Plugin + " " + p.Scope
		}
		if got != " "+want || e.Consumer != consumer || consumer == "ann" && strings.Join(e.Groups, " ") != "gold iron" {
			t.Errorf("for %q: plugins%s, want %s; %v", consumer, got, want, e.Groups)
		}
	}
	if _, err := explain(s, config, control.Question{URL: "http://a.test/", Consumer: "eve"}); err == nil || !strings.Contains(err.Error(), "eve") {
		t.Errorf("an unknown consumer: %v", err)
	}
	shared := f(control.Question{URL: "http://a.test/shared/x"}, explanation{Route: "shared"})
	if len(shared.Shares) != 3 || len(shared.Mirrors) != 1 || shared.Mirrors[0] != "t (1 of 4)" || shared.Service != "" {
		t.Fatalf("leads to %+v", shared)
	}
	for i, want := range []shareOf{{Weight: 3, Service: "s", UpstreamURI: "/base/x"}, {Weight: 1, Service: "t", UpstreamURI: "/x"}, {Weight: 1, UpstreamURI: "/x"}} {
		got := shared.Shares[i]
		if got.Weight != want.Weight || got.Service != want.Service || got.UpstreamURI != want.UpstreamURI || len(got.Plugins) != min(1, len(want.Service)) {
			t.Errorf("share %d: %+v, want %+v", i, got, want)
		}
	}
	var out bytes.Buffer
	if err := (&cli{out: &out}).printExplanation(shared); err != nil || !strings.Contains(out.String(), "s (3 of 5 requests)") || !strings.Contains(out.String(), "none, answered 500 (1 of 5 requests)") || !strings.Contains(out.String(), "copies to") {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if err := (&cli{out: &out}).printExplanation(e); err != nil || !strings.Contains(out.String(), "plugin 1") || !strings.Contains(out.String(), "CANDIDATE") {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// What the rules of a vault refuse is explained by the rule.
func TestExplainNamesTheRuleThatRefuses(t *testing.T) {
	doc, problems := spec.Load([]spec.Source{{Name: "t.yaml", Data: []byte(`_format_version: "3.0"
vaults: [{name: env, prefix: my-vault, x_keyway_allow: [{entities: [certificates, services]}]}]
services:
- {name: s, host: up, x_keyway_upstream_auth: {type: bearer, value: "{vault://my-vault/key}"}, routes: [{name: r, paths: [/]}]}
certificates: [{cert: "{vault://my-vault/cert}", key: "{vault://my-vault/pem}", snis: [a.test]}]
`)}}, schemas())
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	doc.Vaults[0].Allow[0].Entities = []string{"plugins"} // as a provider would that reads nothing
	config := &edge.Config{Policy: routing.Strict}
	pools := upstream.NewPools(upstream.Settings{})
	t.Cleanup(pools.Close)
	b := &edge.Builder{Config: config, Kinds: plugins(), Pools: pools, Env: policy.Env{Shared: sharedState()}}
	s, _ := b.Build(nil, edge.Inputs{Document: doc, Now: time.Now()})
	e, err := explain(s, config, control.Question{URL: "https://a.test/"})
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"certificate": e.Certificate.Refused, "service": e.Closed, "problems": s.Problems.Error()} {
		if !strings.Contains(text, "vault 'my-vault'") || !strings.Contains(text, "x_keyway_allow[0] by its entities") {
			t.Errorf("%s: %q names neither the vault nor its rule", what, text)
		}
	}
}

func TestRunTasks(t *testing.T) {
	boom := errors.New("boom")
	ended := false
	err := runTasks(t.Context(), []task{
		{"good", func(ctx context.Context) error { <-ctx.Done(); ended = true; return context.Cause(ctx) }},
		{"bad", func(context.Context) error { return boom }},
	})
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), "bad: boom") || !ended {
		t.Errorf("the first failure ends the others, and all are waited for: %v, ended %v", err, ended)
	}
	err = runTasks(t.Context(), []task{{"wild", func(context.Context) error { panic("goes off") }}})
	if err == nil || !strings.Contains(err.Error(), "wild: panic: goes off") {
		t.Errorf("a panic of a task is its error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runTasks(ctx, []task{{"asked", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}}); err != nil {
		t.Errorf("to be asked to end is no failure: %v", err)
	}
}

func TestPrepareDataDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "data")
	if err := prepareDataDir(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := prepareDataDir(dir); err == nil || !strings.Contains(err.Error(), "chmod 700 "+dir) {
		t.Errorf("a folder that others can read must be refused, with what to do: %v", err)
	}
	if id, err := nodeID(dir); err != nil || len(id) != 36 {
		t.Errorf("%q %v", id, err)
	} else if again, _ := nodeID(dir); again != id {
		t.Error("a node's id is made once")
	}
}

func TestWhyCertificate(t *testing.T) {
	claim := func(pattern, why string) certs.Claim {
		return certs.Claim{Match: certs.Match{Pattern: pattern}, Why: why}
	}
	exact, wild, def := claim("a.test", "the exact name"), claim("*.test", "a wildcard"), claim("", "the default certificate")
	for want, claims := range map[string][]certs.Claim{
		"nothing else is bound to the name":          nil,
		"the exact name":                             {exact},
		"the exact name, before *.test, the default": {exact, wild, def},
	} {
		if got := whyCertificate(claims); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestValidateUnverified: names that no certificate is held to are a warning.
func TestValidateUnverified(t *testing.T) {
	doc := filepath.Join(t.TempDir(), "doc.yaml")
	const names = "tls_sans: {dnsnames: [a.test]}"
	text := "_format_version: \"3.0\"\nservices:\n- {name: on, url: https://h, tls_verify: true, " + names + "}\n- {name: off, url: https://h, tls_verify: false, " + names + "}\n" +
		"- {name: unsaid, url: https://h, " + names + "}\n- {name: bare, url: https://h, tls_verify: false}\n"
	if err := os.WriteFile(doc, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	off := `warning: ` + doc + `:4: services "off": tls_sans: no certificate is verified while 'tls_verify' is false; set it to true, or remove these names` + "\n"
	if out, code, err := keyway(t, "validate", doc); code != exitOK || err != nil || out != off+doc+": valid\n" {
		t.Errorf("%d %v\n%s", code, err, out)
	}
	t.Setenv("KEYWAY_UPSTREAM_TLS_VERIFY", "off")
	unsaid := `warning: ` + doc + `:5: services "unsaid": tls_sans: no certificate is verified while the setting upstream_tls_verify is off and the service has no 'tls_verify'; set that to true, or remove these names` + "\n"
	if out, code, err := keyway(t, "validate", doc); code != exitOK || err != nil || out != off+unsaid+doc+": valid\n" {
		t.Errorf("%d %v\n%s", code, err, out)
	}
}

// TestValidateShadowed: a route that nothing reaches is a warning, and with --strict a failure.
func TestValidateShadowed(t *testing.T) {
	doc := filepath.Join(t.TempDir(), "doc.yaml")
	if err := os.WriteFile(doc, []byte("_format_version: \"3.0\"\nroutes:\n- {name: one, paths: [/x]}\n- {name: two, paths: [/x]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code, err := keyway(t, "validate", doc)
	if code != exitOK || err != nil || !strings.Contains(out, "warning: ") || !strings.Contains(out, "says the same") || !strings.Contains(out, "valid") {
		t.Errorf("%d %v\n%s", code, err, out)
	}
	if out, code, _ = keyway(t, "validate", "--strict", doc); code != exitFailed || !strings.Contains(out, "1 problems") {
		t.Errorf("strict: %d\n%s", code, out)
	}
	out, code, _ = keyway(t, "validate", "--json", doc)
	if code != exitOK || !strings.Contains(out, `"warnings": [`) || !strings.Contains(out, `"valid": true`) {
		t.Errorf("json: %d\n%s", code, out)
	}
}
