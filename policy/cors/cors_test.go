package cors

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
)

// send sends a request through chain and answers the status made here, 0 for the
// upstream's, with the fields that the client gets.
func send(ch *policy.Chain, method, origin, asks string, upstream ...string) string {
	c := vectortest.NewContext(method, "/", "")
	if origin != "" {
		c.X.Request.Fields.Add("Origin", origin)
	}
	if asks != "" {
		c.X.Request.Fields.Add(requestMethod, asks)
		c.X.Request.Fields.Add(requestPrivate, "true")
	}
	reply, status := ch.Access(c), 0
	f := &c.X.Response.Fields
	if reply != nil {
		status = reply.Status
		for _, x := range reply.Fields {
			f.Add(x.Name, x.Value)
		}
	} else {
		for _, line := range upstream {
			name, value, _ := strings.Cut(line, "=")
			f.Add(name, value)
		}
	}
	ch.Header(c)
	out := fmt.Sprint(status)
	for x := range f.All() {
		out += " " + strings.Replace(x.Name, "Access-Control-", "", 1) + "=" + x.Value
	}
	return out
}

func chain(t *testing.T, config string) *policy.Chain {
	t.Helper()
	return vectortest.ChainOf(t, `{"_format_version":"3.0","routes":[{"name":"r","paths":["/"],"plugins":[{"name":"cors","config":`+config+`}]}]}`, Kind())
}

func TestKongDefaults(t *testing.T) { vectortest.Defaults(t, Kind()) }

func TestExample(t *testing.T) {
	doc := vectortest.Example(t, Kind())
	ch := vectortest.FirstChain(t, doc, vectortest.Env(doc), Kind())
	f := func(origin, want string) {
		t.Helper()
		if got := send(ch, "OPTIONS", origin, "PUT"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", origin, got, want)
		}
	}
	const rest = " Allow-Credentials=true Allow-Methods=GET,PUT Max-Age=600"
	f("https://app.example.com", "200 vary=Origin Allow-Origin=https://app.example.com"+rest)
	f("https://x.preview.example.com", "200 vary=Origin Allow-Origin=https://x.preview.example.com"+rest)
	f("https://evil.example", "200 vary=Origin"+rest)
	f("https://x.preview.example.com.evil.example", "200 vary=Origin"+rest)
}

func TestKongVectors(t *testing.T) {
	vectortest.Replay(t, vectortest.OpenChains(t, Name, Kind()))
}

func TestHeader(t *testing.T) {
	f := func(config, origin, want string, upstream ...string) {
		t.Helper()
		if got := send(chain(t, config), "GET", origin, "", upstream...); got != want {
			t.Errorf("%s, from %q after %v:\n got %s\nwant %s", config, origin, upstream, got, want)
		}
	}
	f(`{"origins":["http://a.test","http://b.test"]}`, "http://c.test", "0 vary=Origin", "Access-Control-Allow-Origin=*")
	f(`{"origins":["http://a.test","http://b.test"]}`, "http://a.test", "0 Vary=accept, origin Allow-Origin=http://a.test", "Vary=accept, origin")
	f(`{"credentials":true}`, "", "0 Allow-Origin=*")
	f(`{"origins":["*","http://a.test"],"credentials":true}`, "http://c.test", "0 vary=Origin Allow-Origin=http://c.test Allow-Credentials=true")
	f(`{"exposed_headers":["X-A","X-B"]}`, "http://c.test", "0 Allow-Origin=* Expose-Headers=X-A,X-B")
	f(`{"allow_origin_absent":false}`, "", "0")
	f(`{"allow_origin_absent":false}`, "http://c.test", "0 Allow-Origin=*")
}

func TestOrigins(t *testing.T) {
	f := func(entry, origin string, want bool) {
		t.Helper()
		o, err := parseOrigins([]string{entry, "http://other.test"})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := o.judge(origin, true); (got != "") != want {
			t.Errorf("%q for %q: allowed %q", entry, origin, got)
		}
	}
	f("https://a.test:443", "https://a.test", true)
	f("https://a.test", "https://a.test:443", true)
	f("http://a.test:443", "http://a.test", false)
	f("https://a.test", "https://A.test", false)
	f("a.test", "https://a.test:8443", true) // the host alone
	f("a.test", "https://b.a.test", false)
	f(`(.+\.)?a\.test`, "https://b.a.test:1", true)
	f(`(.+\.)?a\.test`, "https://a.test.evil", false)
	f(`https://.+\.a\.test`, "https://b.a.test", true)
	f(`https://.+\.a\.test`, "http://b.a.test", false)
	f(`https://.+\.a\.test`, "https://b.a.test.evil", false)
	f(`https://a\.test|https://b\.test`, "https://a.test.evil", false) // anchors hold all of it
	f("*", "null", true)
}

func TestPreflight(t *testing.T) {
	f := func(config, origin, asks, want string) {
		t.Helper()
		if got := send(chain(t, config), "OPTIONS", origin, asks, "X-Up=1"); got != want {
			t.Errorf("%s, from %q:\n got %s\nwant %s", config, origin, got, want)
		}
	}
	f(`{"private_network":true,"methods":["GET"]}`, "http://a.test", "GET", "200 Allow-Origin=* Allow-Methods=GET Allow-Private-Network=true")
	f(`{"methods":["GET"],"exposed_headers":["X"]}`, "http://a.test", "GET", "200 Allow-Origin=* Allow-Methods=GET")
	f(`{"preflight_continue":true}`, "http://a.test", "GET", "0 X-Up=1")
	f(`{}`, "http://a.test", "", "0 X-Up=1 Allow-Origin=*")
	f(`{}`, "", "GET", "0 X-Up=1 Allow-Origin=*")
}

func TestConfigErrors(t *testing.T) {
	f := func(config, want string) {
		t.Helper()
		if _, problems := vectortest.Compile(t, Kind(), &policy.Env{}, config); !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
	f(`{"origins":["http://a.test","("]}`, "config.origins.2: '(' is not a valid regex")
	f(`{"origins":["(?=a)b"]}`, "config.origins.1: '(?=a)b' is not a valid regex")
	f(`{"methods":["x"]}`, "config.methods.1: expected one of: GET, HEAD, PUT")
	f(`{"max_age":"a"}`, "config.max_age: expected a number")
}

// TestGatewayAPI holds what the CORS filter of Gateway API says.
func TestGatewayAPI(t *testing.T) {
	listed := chain(t, `{"gateway_api":{"allow_origins":["https://www.foo.com","https://*.bar.com","http://odd.test:8080"],"allow_methods":["GET","OPTIONS"],"allow_headers":["x-header-1","x-header-2"],"expose_headers":["x-header-3","x-header-4"],"allow_credentials":true,"max_age":3600}}`)
	methods := chain(t, `{"gateway_api":{"allow_origins":["https://www.foo.com"],"allow_methods":["*"]}}`)
	anyone := chain(t, `{"gateway_api":{"allow_origins":["*"],"allow_methods":["PUT"]}}`)
	stars := chain(t, `{"gateway_api":{"allow_origins":["*"],"allow_methods":["*"],"allow_headers":["*"],"expose_headers":["*"],"allow_credentials":true}}`)
	open := chain(t, `{"gateway_api":{"allow_origins":["*"],"allow_methods":["*"],"allow_headers":["*"],"expose_headers":["*"]}}`)
	secure := chain(t, `{"gateway_api":{"allow_origins":["https://*"]}}`)
	nobody := chain(t, `{"gateway_api":{}}`)
	const marks = " Allow-Credentials=true Expose-Headers=x-header-3, x-header-4"
	const rest = marks + " Allow-Methods=GET, OPTIONS Allow-Headers=x-header-1, x-header-2 Max-Age=3600"
	for _, row := range []struct {
		chain                        *policy.Chain
		method, origin, asks, answer string
	}{
		{listed, "OPTIONS", "https://www.foo.com", "GET", "200 vary=Origin Allow-Origin=https://www.foo.com" + rest},
		{listed, "OPTIONS", "https://www.bar.com", "GET", "200 vary=Origin Allow-Origin=https://www.bar.com" + rest},
		{listed, "OPTIONS", "https://xpto.www.bar.com:443", "GET", "200 vary=Origin Allow-Origin=https://xpto.www.bar.com:443" + rest},
		{listed, "OPTIONS", "https://foobar.com", "GET", "200 vary=Origin"},
		{listed, "OPTIONS", "https://bar.com", "GET", "200 vary=Origin"},
		{listed, "OPTIONS", "https://.bar.com", "GET", "200 vary=Origin"},
		{listed, "OPTIONS", "http://www.foo.com", "GET", "200 vary=Origin"},
		{listed, "OPTIONS", "https://www.foo.com:8443", "GET", "200 vary=Origin"},
		{listed, "OPTIONS", "null", "GET", "200 vary=Origin"},
		{listed, "GET", "http://odd.test:8080", "", "0 vary=Origin Allow-Origin=http://odd.test:8080" + marks},
		{listed, "GET", "http://odd.test", "", "0 vary=Origin"},
		{listed, "GET", "https://foobar.com", "GET", "0 vary=Origin"},
		{listed, "GET", "", "", "0 vary=Origin"},
		{methods, "OPTIONS", "https://www.foo.com", "POST", "200 vary=Origin Allow-Origin=https://www.foo.com Allow-Methods=* Max-Age=5"},
		{anyone, "OPTIONS", "https://foobar.com:12345", "PUT", "200 Allow-Origin=* Allow-Methods=PUT Max-Age=5"},
		{anyone, "PUT", "https://foobar.com", "", "0 Allow-Origin=*"},
		{anyone, "PUT", "", "", "0"},
		{stars, "OPTIONS", "https://other.foo.com", "PUT", "200 vary=Origin Allow-Origin=https://other.foo.com Allow-Credentials=true Allow-Methods=PUT Max-Age=5"},
		{stars, "GET", "https://other.foo.com", "", "0 vary=Origin Allow-Origin=https://other.foo.com Allow-Credentials=true"},
		{open, "OPTIONS", "https://other.foo.com", "PUT", "200 Allow-Origin=* Expose-Headers=* Allow-Methods=* Allow-Headers=* Max-Age=5"},
		{secure, "GET", "https://a.b", "", "0 vary=Origin Allow-Origin=https://a.b"},
		{secure, "GET", "http://a.b", "", "0 vary=Origin"},
		{nobody, "OPTIONS", "https://a.b", "GET", "200 vary=Origin"},
		{nobody, "OPTIONS", "https://a.b", "", "0 vary=Origin"}, // no preflight request: it goes to the service
	} {
		if got := send(row.chain, row.method, row.origin, row.asks); got != row.answer {
			t.Errorf("%s from %q:\n got %s\nwant %s", row.method, row.origin, got, row.answer)
		}
	}
	// What the service says widens nothing.
	if got, want := send(methods, "GET", "https://evil.test", "", allowOrigin+"=*", allowCredentials+"=true", "X-A=b"), "0 X-A=b vary=Origin"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, field := range []string{"allow_methods", "allow_headers", "expose_headers"} {
		_, problems := vectortest.Compile(t, Kind(), nil, `{"gateway_api":{"`+field+`":["ok","a, b"]}}`)
		if len(problems) != 1 || !strings.Contains(problems.Error(), "gateway_api."+field+".2: expected one name") {
			t.Errorf("%s: %v", field, problems)
		}
	}
	for _, origin := range []string{"foo.com", "ftp://foo.com", "https://a*.foo.com", "https://*foo.com", "https://foo.com:0", "https://foo.com/x", "https://", "https://*.*.foo.com"} {
		_, problems := vectortest.Compile(t, Kind(), nil, `{"gateway_api":{"allow_origins":["`+origin+`"]}}`)
		if len(problems) != 1 || !strings.Contains(problems.Error(), "gateway_api.allow_origins.1: expected '*' or http(s)://") {
			t.Errorf("%s: %v", origin, problems)
		}
	}
}
