package keyauth

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
	"github.com/keyway-edge/keyway/routing/spec"
)

// chain is a route with key-auth of this config, for two consumers.
func chain(t *testing.T, config string) *policy.Chain {
	t.Helper()
	return vectortest.ChainOf(t, `
_format_version: "3.0"
routes: [{name: r, paths: [/], plugins: [{name: key-auth, config: `+config+`}]}]
consumers:
- {username: ann, keyauth_credentials: [{key: annkey}, {key: "a+b c"}, {key: short, ttl: 60, created_at: 1795395100}]}
- {username: anon}
`, Kind())
}

// outcome is what became of a request: the consumer, or the status and message.
func outcome(ch *policy.Chain, c *policy.Context) string {
	if reply := ch.Access(c); reply != nil {
		return fmt.Sprintf("%d %s", reply.Status, reply.Message)
	}
	if c.Consumer == nil {
		return "nobody"
	}
	return c.Consumer.Username
}

func TestKongDefaults(t *testing.T) { vectortest.Defaults(t, Kind()) }

func TestExample(t *testing.T) {
	doc := vectortest.Example(t, Kind())
	ch := vectortest.FirstChain(t, doc, vectortest.Env(doc), Kind())
	reply := ch.Access(vectortest.NewContext("GET", "/orders", ""))
	if reply == nil || reply.Status != 401 || reply.Message != "No API key found in request" || fmt.Sprint(reply.Fields) != "[{WWW-Authenticate Key}]" {
		t.Errorf("without a key: %+v", reply)
	}
	c := vectortest.NewContext("GET", "/orders?apikey=key-of-ann", "")
	if reply := ch.Access(c); reply != nil || c.X.Request.Target != "/orders" || c.X.Request.Fields.Get("X-Consumer-Username") != "ann" {
		t.Errorf("with a key: %+v, %+v", reply, c.X.Request)
	}
}

func TestKongVectors(t *testing.T) {
	vectortest.Replay(t, vectortest.OpenChains(t, Name, Kind()))
}

func TestWhereKeysAreFound(t *testing.T) {
	ch := chain(t, `{key_names: [k, other-key], key_in_body: true}`)
	const missing, twice, wrong = "401 No API key found in request", "401 Duplicate API key found", "401 Unauthorized"
	f := func(target, field, contentType, body, want string) {
		t.Helper()
		c := vectortest.NewContext("POST", target, "")
		if name, value, ok := strings.Cut(field, ": "); ok {
			c.X.Request.Fields.Add(name, value)
		}
		if contentType != "" {
			c.X.Request.Fields.Add("Content-Type", contentType)
			c.X.Request.Body, c.X.Request.Length = strings.NewReader(body), int64(len(body))
		}
		if got := outcome(ch, c); got != want {
			t.Errorf("%s %s %s %q: got %s, want %s", target, field, contentType, body, got, want)
		}
	}
	const urlForm, jsonBody = "application/x-www-form-urlencoded", "application/json; charset=utf-8"
	f("/", "", "", "", missing)
	f("/", "OTHER-KEY: annkey", "", "", "ann")
	f("/", "Other-Key: Annkey", "", "", wrong)
	f("/?k=annkey", "k: wrong", "", "", wrong) // fields come before the query
	f("/?k=annkey", "other-key: wrong", "", "", "ann")
	f("/?other-key=annkey&k=", "", "", "", missing) // the first name that is there decides
	f("/?K=annkey", "", "", "", missing)
	f("/?k", "", "", "", missing)
	f("/?k&k=annkey", "", "", "", "ann")
	f("/?k=annkey&k=annkey", "", "", "", twice)
	f("/?%6b=a%2Bb%20c", "", "", "", "ann")
	f("/?k=a%2Bb+c", "", "", "", "ann")
	f("/?k=%zz", "", "", "", wrong)
	f("/", "", urlForm, "x=1&k=a%2Bb+c", "ann")
	f("/", "", urlForm, "k=annkey&k=2", twice)
	f("/", "", jsonBody, `{"x": {}, "k": "annkey"}`, "ann")
	f("/", "", jsonBody, `{"k": ["annkey"]}`, twice)
	f("/", "", jsonBody, `{"k": 5}`, missing)
	f("/", "", jsonBody, `{"k": "annkey"`, missing)
	f("/", "", "text/plain", "k=annkey", missing)
	f("/", "", "multipart/form-data; boundary=B", "--B\r\nContent-Disposition: form-data; name=\"k\"\r\n\r\nannkey\r\n--B--\r\n", "ann")
	f("/", "", "multipart/form-data; boundary=B", "--B\r\nContent-Disposition: form-data; name=\"k\"\r\n\r\nannkey\r\n", missing)
	f("/", "", urlForm, "k=annkey&x="+strings.Repeat("x", bodyLimit), missing)
}

func TestHideCredentials(t *testing.T) {
	ch := chain(t, `{key_names: [k], key_in_body: true, hide_credentials: true}`)
	f := func(query, contentType, body, wantQuery, wantBody string) {
		t.Helper()
		c := vectortest.NewContext("POST", "/p?"+query, "")
		r := &c.X.Request
		r.Fields.Add("Content-Type", contentType)
		r.Body, r.Length = strings.NewReader(body), int64(len(body))
		if got := outcome(ch, c); got != "ann" {
			t.Errorf("?%s %q: %s", query, body, got)
		}
		if got := vectortest.ReadAll(t, r.Body); got != wantBody || r.Length != int64(len(wantBody)) || r.Query != wantQuery {
			t.Errorf("?%s %q: upstream gets ?%s and %q of length %d, want ?%s and %q", query, body, r.Query, got, r.Length, wantQuery, wantBody)
		}
	}
	const urlForm = "application/x-www-form-urlencoded"
	f("b=%20x&k=annkey&a=%c3%a9&c&bad=%zz", "text/plain", "k=annkey", "b=+x&a=%C3%A9&c&bad=%zz", "k=annkey")
	f("k=annkey", urlForm, "z=1&k=annkey&y=2", "", "z=1&y=2") // what is said twice is hidden twice
	f("a=%20", urlForm, "k=annkey", "a=%20", "")
	f("a", "application/json", `{"b": [1, 2.50], "k": "annkey", "a": null}`, "a", `{"b":[1,2.50],"a":null}`)
	part := func(name, value string) string {
		return "--B\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"
	}
	f("a", "multipart/form-data; boundary=B", "preamble\r\n"+part("x", "x--B--")+part("k", "annkey")+part("y", "1")+"--B--\r\n",
		"a", "preamble\r\n"+part("x", "x--B--")+part("y", "1")+"--B--\r\n")
}

func TestTTL(t *testing.T) {
	ch := chain(t, `{}`)
	for seconds, want := range map[int64]string{1795395159: "ann", 1795395160: "401 Unauthorized"} {
		c := vectortest.NewContext("GET", "/?apikey=short", "")
		c.Now = time.Unix(seconds, 0)
		if got := outcome(ch, c); got != want {
			t.Errorf("at %d: %s, want %s", seconds, got, want)
		}
	}
}

func TestPreflight(t *testing.T) {
	for config, want := range map[string]string{`{}`: "401 No API key found in request", `{run_on_preflight: false}`: "nobody"} {
		if got := outcome(chain(t, config), vectortest.NewContext("OPTIONS", "/", "")); got != want {
			t.Errorf("%s: %s, want %s", config, got, want)
		}
	}
}

// TestSeveralPlugins: with an anonymous consumer one success is enough, without
// one each plugin judges for itself.
func TestSeveralPlugins(t *testing.T) {
	either, each := chain(t, `{anonymous: anon}`), chain(t, `{}`)
	request := func(target string, known bool) *policy.Context {
		c := vectortest.NewContext("GET", target, "")
		if known { // by a plugin that ran before
			policy.Authenticate(c, &spec.Consumer{Username: "other"}, &policy.Identity{Plugin: "jwt", ID: "j"}, false)
		}
		return c
	}
	f := func(ch *policy.Chain, target string, known bool, want string) {
		t.Helper()
		if got := outcome(ch, request(target, known)); got != want {
			t.Errorf("%s, known before: %v: got %s, want %s", target, known, got, want)
		}
	}
	f(either, "/", false, "anon")
	f(either, "/", true, "other")
	f(either, "/?apikey=annkey", true, "other")
	f(each, "/", true, "401 No API key found in request")
	f(each, "/?apikey=annkey", true, "ann")
	f(chain(t, `{anonymous: gone}`), "/", false, "500 An unexpected error occurred")
}

// TestBrokenBody: a body that cannot be read is not a missing key.
func TestBrokenBody(t *testing.T) {
	for _, config := range []string{`{key_in_body: true}`, `{key_in_body: true, anonymous: anon}`} {
		c := vectortest.NewContext("POST", "/", "")
		c.X.Request.Fields.Add("Content-Type", "application/json")
		c.X.Request.Length = -1
		c.X.Request.Body = io.MultiReader(strings.NewReader("{"), failing{&exchange.BodyError{Status: 408, Err: errors.New("too slow")}})
		if got := outcome(chain(t, config), c); got != "408 Request timeout" {
			t.Errorf("%s: got %s", config, got)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestConfigErrors(t *testing.T) {
	for config, want := range map[string]string{
		`{"key_names":["a b"]}`: "config.key_names.1: bad header name 'a b'",
		`{"key_names":[""]}`:    "config.key_names.1: length must be at least 1",
		`{"x":1}`:               "config.x: unknown field",
	} {
		_, problems := vectortest.Compile(t, Kind(), &policy.Env{}, config)
		if len(problems) != 1 || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
}
