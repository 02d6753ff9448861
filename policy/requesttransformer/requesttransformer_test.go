package requesttransformer

import (
	"bytes"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
)

func TestKongVectors(t *testing.T) {
	vectortest.Open(t, Kind(), nil).Each(t, func(c *vectortest.Case) error { return c.Access(t, nil) })
}

func TestKongDefaults(t *testing.T) { vectortest.Defaults(t, Kind()) }

func TestReadmeExample(t *testing.T) {
	doc := vectortest.Example(t, Kind())
	instance, err := Kind().Compile(nil, doc.Plugins[0])
	if err != nil {
		t.Fatal(err)
	}
	c := vectortest.NewContext("GET", "/items/42?page=2&debug=1", "shop.test")
	c.X.Request.Fields.Add("X-Internal", "1")
	c.Captures = []exchange.Capture{{Name: "id", Value: "42"}}
	if reply := instance.Access(c); reply != nil {
		t.Fatalf("answered %d", reply.Status)
	}
	if got := c.UpstreamURI + "?" + c.X.Request.Query; got != "/v2/items/42?page=2" {
		t.Errorf("uri %s", got)
	}
	if f := &c.X.Request.Fields; f.Has("X-Internal") || f.Get("X-Public-Host") != "shop.test" || f.Get("X-Page") != "2" {
		t.Errorf("fields %v", f)
	}
}

// run sends one request through the plugin with config.
func run(t *testing.T, config string, c *policy.Context) *policy.Reply {
	t.Helper()
	instance, problems := vectortest.Compile(t, Kind(), nil, config)
	if len(problems) > 0 {
		t.Fatalf("%s: %v", config, problems)
	}
	return instance.Access(c)
}

func TestVerifyRefuses(t *testing.T) {
	f := func(config, want string) {
		t.Helper()
		_, problems := vectortest.Compile(t, Kind(), nil, config)
		if len(problems) == 0 || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: got %v, want %q", config, problems, want)
		}
	}
	f(`{"add":{"headers":["a:$(os.time())"]}}`, "expected a value of the request")
	f(`{"add":{"headers":["a:$(headers.host:upper())"]}}`, "expected 'or', '..' or ')'")
	f(`{"add":{"headers":["a:$(shared.x)"]}}`, "other plugins")
	f(`{"add":{"headers":["a:$(headers.x"]}}`, "expected 'or'")
	f(`{"add":{"headers":["a:$(headers['x)"]}}`, "closing quote")
	f(`{"add":{"headers":["a:$(headers[1])"]}}`, "quoted name")
	f(`{"add":{"headers":["a:$(headers.)"]}}`, "expected a name")
	f(`{"add":{"headers":["a:$(headers)"]}}`, "headers.name")
	f(`{"add":{"headers":["Content-Length:1"]}}`, "written by the gateway alone")
	f(`{"rename":{"headers":["x:Transfer-Encoding"]}}`, "written by the gateway alone")
	f(`{"rename":{"headers":["x:$(headers.y)"]}}`, "cannot be an expression")
	f(`{"add":{"headers":["a b:1"]}}`, "not a field name")
	f(`{"add":{"headers":["a:1\rb: 2"]}}`, "control character")
	f(`{"add":{"body":["lonely"]}}`, "expected name:value")
	f(`{"replace":{"uri":"no/slash"}}`, "starts with /")
	f(`{"replace":{"uri":"/a b"}}`, "not a path")
}

func TestTemplates(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		c := vectortest.NewContext("GET", "/p?a=1%202&b&a=9", "h.test")
		c.X.Request.Fields.Add("X-One", "one")
		c.X.Request.Fields.Add("x-one", "two")
		c.X.Request.Fields.Add("Content-Type", "t/t")
		c.Captures = []exchange.Capture{{Name: "0", Value: "/p"}, {Name: "1", Value: "cap"}, {Name: "id", Value: "42"}}
		tmpl, err := parseTemplate(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := tmpl.render(&env{c: c}, func(s string) string { return s }); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
	f("plain $ (x)", "plain $ (x)")
	f("<$(query_params.a)|$(query_params['b'])|$(query_params.none)>", "<1 2|true|>")
	f(`$(headers["X-ONE"]) $(headers.x_one) $(headers.content_type) $(headers.host)`, "one one t/t h.test")
	f(`$(uri_captures[1])$(uri_captures.id)$(uri_captures["id"])$(uri_captures[9])`, "cap4242")
	f(`$(headers.none or query_params.none or 'it\'s') $( headers.none or "" )`, "it's ")
	f(`$("a" .. headers.x_one .. 'b' or "never")`, "aoneb")
	f(`$(headers.none .. query_params.none or "other")`, "other")
}

func TestExpressionsSeeTheRequestAsItCame(t *testing.T) {
	c := vectortest.NewContext("GET", "/x?a=1", "h")
	c.X.Request.Fields.Add("X-Old", "v")
	run(t, `{"remove":{"headers":["X-Old"],"querystring":["a"]},"add":{"headers":["X-New:$(headers.x_old)"],"querystring":["b:$(headers.x_old)$(query_params.a)"]}}`, c)
	if got := c.X.Request.Fields.Get("X-New") + "|" + c.X.Request.Query; got != "v|b=v1" {
		t.Error(got)
	}
}

func TestClientCannotInject(t *testing.T) {
	c := vectortest.NewContext("GET", "/x?v=a%0d%0aX-Evil:%201", "h")
	run(t, `{"add":{"headers":["X-V:$(query_params.v)"]},"replace":{"uri":"/u/$(query_params.v)"}}`, c)
	if got := c.X.Request.Fields.Get("X-V"); got != "a%0D%0AX-Evil: 1" {
		t.Errorf("field value %q", got)
	}
	if c.UpstreamURI != "/u/a%0D%0AX-Evil:%201" {
		t.Errorf("path %q", c.UpstreamURI)
	}
	for _, v := range []string{"..%2Fadmin", "../admin", "%252e%252e/x", "..;a/b"} {
		c = vectortest.NewContext("GET", "/x?v="+v, "h")
		if reply := run(t, `{"replace":{"uri":"/u/$(query_params.v)"}}`, c); reply == nil || reply.Status != 400 {
			t.Errorf("%s went to %s", v, c.UpstreamURI)
		}
	}
	c = vectortest.NewContext("GET", "/x?v=a%3Fb%23c%25", "h")
	run(t, `{"replace":{"uri":"/u/$(query_params.v)"}}`, c)
	if c.UpstreamURI != "/u/a%3Fb%23c%25" {
		t.Errorf("path %q", c.UpstreamURI)
	}
}

func TestURIKeepsAndMergesTheQuery(t *testing.T) {
	f := func(target, uri, want string) {
		t.Helper()
		c := vectortest.NewContext("GET", target, "h")
		run(t, `{"replace":{"uri":"`+uri+`"}}`, c)
		got := c.UpstreamURI
		if c.X.Request.HasQuery {
			got += "?" + c.X.Request.Query
		}
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	f("/x?a=1", "/n", "/n?a=1")
	f("/x?", "/n", "/n?")
	f("/x", "/n?z=1", "/n?z=1")
	f("/x?a=1", "/n?z=1", "/n?z=1&a=1")
}

func TestHostFields(t *testing.T) {
	f := func(config, wantHost, wantFields string) {
		t.Helper()
		c := vectortest.NewContext("GET", "/", "h.test")
		c.X.Request.Fields.Add("X-A", "a")
		run(t, config, c)
		var got []string
		for x := range c.X.Request.Fields.All() {
			got = append(got, x.Name+"="+x.Value)
		}
		if c.UpstreamHost != wantHost || strings.Join(got, " ") != wantFields {
			t.Errorf("%s: host %q fields %q", config, c.UpstreamHost, got)
		}
	}
	f(`{"replace":{"headers":["Host:o.test"]}}`, "o.test", "X-A=a")
	f(`{"add":{"headers":["Host:o.test"]},"append":{"headers":["host:o.test"]},"remove":{"headers":["host"]}}`, "", "X-A=a")
	f(`{"rename":{"headers":["host:X-Host"]}}`, "", "X-A=a X-Host=h.test")
	f(`{"rename":{"headers":["x-a:host"]}}`, "a", "")
	f(`{"rename":{"headers":["x-a:X-a"]}}`, "", "X-a=a")
}

func TestBodies(t *testing.T) {
	const config = `{"add":{"body":["n:1"]},"remove":{"body":["r"]},"rename":{"body":["o:p"]},"replace":{"body":["c:cc"]},"append":{"body":["a:2"]}}`
	f := func(contentType, body, want string) {
		t.Helper()
		c := vectortest.NewContext("POST", "/", "h")
		c.X.Request.Fields.Add("Content-Type", contentType)
		c.X.Request.Body, c.X.Request.Length = bytes.NewReader([]byte(body)), int64(len(body))
		if reply := run(t, config, c); reply != nil {
			t.Fatalf("answered %d", reply.Status)
		}
		if got := vectortest.ReadAll(t, c.X.Request.Body); got != want || c.X.Request.Length != int64(len(want)) {
			t.Errorf("%s %q: got %q length %d, want %q", contentType, body, got, c.X.Request.Length, want)
		}
	}
	f("application/json", "", `{"n":"1","a":["2"]}`)
	f("application/json", "[1,2]", "[1,2]")
	f("Application/JSON; charset=x", `{"x":1.0,"a":"1"}`, `{"x":1.0,"a":["1","2"],"n":"1"}`)
	f("application/x-www-form-urlencoded", "", "n=1&a=2")
	f("application/x-www-form-urlencoded", "o=1&p=2&c&c=3&r&x=%2f+y&a", "p=1&c=cc&x=%2F%20y&a=2&n=1")
	f("text/plain", "r=1", "r=1")
	const head = "--B\r\nContent-Disposition: form-data; name=\""
	f("multipart/form-data; boundary=B", head+"o\"; filename=\"f\"\r\nX: y\r\n\r\n1\r\n2\r\n"+head+"c\"\r\n\r\n\r\n"+head+"keep\"\r\nX: y\r\n\r\nz\r\n--B--\r\n",
		head+"p\"\r\n\r\n1\r\n2\r\n"+head+"c\"\r\n\r\ncc\r\n"+head+"keep\"\r\nX: y\r\n\r\nz\r\n"+head+"n\"\r\n\r\n1\r\n--B--\r\n")
	f("multipart/form-data; boundary=B", "--B\r\nbroken", "--B\r\nbroken")
	f("multipart/form-data", "--B--", "--B--")
}

func TestBodyThatCannotBeChangedIsLeftOrRefused(t *testing.T) {
	c := vectortest.NewContext("POST", "/", "h")
	c.X.Request.Fields.Add("Content-Type", "application/json")
	c.X.Request.Fields.Add("Content-Encoding", "gzip")
	c.X.Request.Body, c.X.Request.Length = strings.NewReader(`{"r":1}`), 7
	run(t, `{"remove":{"body":["r"]}}`, c)
	if got := vectortest.ReadAll(t, c.X.Request.Body); got != `{"r":1}` {
		t.Errorf("encoded body became %q", got)
	}
	c = vectortest.NewContext("POST", "/", "h")
	c.X.Request.Fields.Add("Content-Type", "application/json")
	c.X.Request.Body, c.X.Request.Length = strings.NewReader(strings.Repeat(" ", bodyLimit+1)), -1
	if reply := run(t, `{"remove":{"body":["r"]}}`, c); reply == nil || reply.Status != 413 || reply.Err == nil {
		t.Errorf("a body over the limit: %+v", reply)
	}
}

func TestFormBecomesQueryOfGET(t *testing.T) {
	c := vectortest.NewContext("POST", "/x?q=1", "h")
	c.X.Request.Fields.Add("Content-Type", "application/x-www-form-urlencoded")
	c.X.Request.Body, c.X.Request.Length = strings.NewReader("b=2&a=1"), 7
	run(t, `{"http_method":"GET"}`, c)
	if got := c.X.Request.Method + " " + c.X.Request.Target + " " + vectortest.ReadAll(t, c.X.Request.Body); got != "GET /x?a=1&b=2&q=1 b=2&a=1" {
		t.Error(got)
	}
}

func TestResponseIsForTheMethodOfTheClient(t *testing.T) {
	f := func(client, sent string, length int64, wantLength int64) {
		t.Helper()
		instance, _ := vectortest.Compile(t, Kind(), nil, `{"http_method":"`+sent+`"}`)
		c := vectortest.NewContext(client, "/", "h")
		instance.Header(c)
		if c.X.Request.Method != client {
			t.Errorf("%s before its turn became %s", client, c.X.Request.Method)
		}
		instance.Access(c)
		if c.X.Request.Method != sent {
			t.Errorf("%s was sent as %s, not %s", client, c.X.Request.Method, sent)
		}
		c.X.Response = exchange.Response{Status: 200, Length: length, FromUpstream: true}
		instance.Header(c)
		if c.X.Request.Method != client || c.X.Response.Length != wantLength {
			t.Errorf("%s sent as %s: answered as to %s, length %d", client, sent, c.X.Request.Method, c.X.Response.Length)
		}
	}
	f("HEAD", "GET", 5, 5)
	f("GET", "HEAD", 5, 0)
	f("HEAD", "HEAD", 5, 5)
	f("PUT", "POST", 5, 5)
}

func TestLiteralFieldsAllocateLittle(t *testing.T) {
	instance, _ := vectortest.Compile(t, Kind(), nil, `{"add":{"headers":["x-a:1"]},"remove":{"headers":["x-b"]},"replace":{"headers":["x-c:2"]}}`)
	c := vectortest.NewContext("GET", "/x?q=1", "h")
	c.X.Request.Fields.Add("X-C", "1")
	instance.Access(c)
	if n := testing.AllocsPerRun(100, func() { instance.Access(c) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add(`a$(headers.x or "y" .. uri_captures[1])b`)
	f.Fuzz(func(t *testing.T, text string) {
		tmpl, err := parseTemplate(text)
		if err != nil {
			return
		}
		c := vectortest.NewContext("GET", "/?a=1", "h")
		if path := tmpl.render(&env{c: c}, safePath); !strings.Contains(text, "$(") && path != text {
			t.Errorf("%q became %q", text, path)
		}
	})
}

func FuzzArgs(f *testing.F) {
	f.Add("a=1&b&&=x&a=%2&c=+%41")
	f.Fuzz(func(t *testing.T, text string) {
		once := parseArgs(text).encode()
		if twice := parseArgs(once).encode(); once != twice {
			t.Errorf("%q: %q then %q", text, once, twice)
		}
	})
}
