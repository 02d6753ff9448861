package routefilters

import (
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
)

func instance(t *testing.T, config string) policy.Instance {
	t.Helper()
	i, problems := vectortest.Compile(t, Kind(), nil, config)
	if len(problems) > 0 {
		t.Fatalf("%s: %v", config, problems)
	}
	return i
}

// The table of Gateway API's HTTPPathModifier, and what it leaves open.
func TestPrefix(t *testing.T) {
	for _, row := range [][4]string{
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"},
		{"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "", "/bar"},
		{"/foo/", "/foo", "", "/"},
		{"/foo", "/foo", "", "/"},
		{"/foo/", "/foo", "/", "/"},
		{"/foo", "/foo", "/", "/"},
		{"/foobar", "/foo", "/xyz", "/foobar"},
		{"/foo", "/foo/", "/xyz/", "/xyz"},
		{"/bar", "/", "/xyz", "/xyz/bar"},
		{"/", "/", "/xyz", "/xyz/"},
		{"/foo/a%2Fb", "/foo", "/x y?", "/x%20y%3F/a%2Fb"},
		{"/f%20o/a", "/f o", "/xyz", "/xyz/a"},
	} {
		c := vectortest.NewContext("GET", row[0], "h.test")
		c.UpstreamURI, c.StrippedURI = row[0], "/stripped"
		i := instance(t, `{"rewrite":{"path":{"prefix":{"match":"`+row[1]+`","replace":"`+row[2]+`"}}}}`)
		if reply := i.Access(c); reply != nil || c.UpstreamURI != row[3] {
			t.Errorf("%s with %s -> %q: got %s, want %s", row[0], row[1], row[2], c.UpstreamURI, row[3])
		}
		if changed := row[0] != row[3]; changed == (c.StrippedURI != "") {
			t.Errorf("%s: stripped path %q", row[0], c.StrippedURI)
		}
	}
}

func TestRewrite(t *testing.T) {
	c := vectortest.NewContext("GET", "/a/b?q=1", "h.test")
	c.UpstreamURI = "/a/b"
	if i := instance(t, `{"rewrite":{"hostname":"in.test","path":{"full":"/one"}}}`); i.Access(c) != nil || i.Header != nil {
		t.Fatal("answered")
	}
	if c.UpstreamURI != "/one" || c.UpstreamHost != "in.test" || c.X.Request.Query != "q=1" {
		t.Errorf("%s %s %s", c.UpstreamURI, c.UpstreamHost, c.X.Request.Query)
	}
}

func lines(f *exchange.Fields) string {
	var list []string
	for x := range f.All() {
		list = append(list, x.Name+": "+x.Value)
	}
	return strings.Join(list, "\n")
}

func TestFields(t *testing.T) {
	i := instance(t, `{
		"request_headers":{"set":[{"name":"X-Set","value":"s"},{"name":"X-New","value":""},{"name":"host","value":"other.test"}],"add":[{"name":"X-Add","value":"b"},{"name":"X-Gone","value":"x"}],"remove":["x-gone"]},
		"response_headers":{"set":[{"name":"x-r","value":"1"}],"add":[{"name":"Set-Cookie","value":"b=2"}],"remove":["X-Powered-By"]}}`)
	c := vectortest.NewContext("GET", "/", "h.test")
	for _, f := range [][2]string{{"x-set", "1"}, {"Keep", "k"}, {"X-Add", "a"}, {"X-Set", "2"}, {"X-Gone", "g"}} {
		c.X.Request.Fields.Add(f[0], f[1])
	}
	if reply := i.Access(c); reply != nil {
		t.Fatal(reply)
	}
	if got, want := lines(&c.X.Request.Fields), "X-Set: s\nKeep: k\nX-Add: a\nX-New: \nX-Add: b"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if c.UpstreamHost != "other.test" || c.X.Request.Host != "h.test" {
		t.Errorf("hosts %q, %q", c.UpstreamHost, c.X.Request.Host)
	}
	r := &c.X.Response
	for _, f := range [][2]string{{"Set-Cookie", "a=1"}, {"X-Powered-By", "p"}, {"X-R", "0"}} {
		r.Fields.Add(f[0], f[1])
	}
	i.Header(c)
	if got, want := lines(&r.Fields), "Set-Cookie: a=1\nx-r: 1\nSet-Cookie: b=2"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRedirect(t *testing.T) {
	type from struct {
		target, host, scheme, proto string
		port                        int
	}
	plain, secure := from{"/a/b?q=1", "h.test", "http", "http", 80}, from{"/a/b?q=1", "h.test", "https", "https", 443}
	odd, oddSecure := plain, secure
	odd.port, oddSecure.port = 8080, 8443
	for _, row := range []struct {
		config string
		from   from
		want   string
	}{
		{`{}`, plain, "302 http://h.test/a/b?q=1"},
		{`{}`, secure, "302 https://h.test/a/b?q=1"},
		{`{}`, odd, "302 http://h.test:8080/a/b?q=1"},
		{`{}`, oddSecure, "302 https://h.test:8443/a/b?q=1"},
		{`{"scheme":"https","status_code":301}`, odd, "301 https://h.test/a/b?q=1"},
		{`{"scheme":"http"}`, oddSecure, "302 http://h.test/a/b?q=1"},
		{`{"scheme":"http"}`, odd, "302 http://h.test/a/b?q=1"},
		{`{"port":8083}`, plain, "302 http://h.test:8083/a/b?q=1"},
		{`{"port":80}`, odd, "302 http://h.test/a/b?q=1"},
		{`{"port":443,"scheme":"https"}`, odd, "302 https://h.test/a/b?q=1"},
		{`{"port":443,"scheme":"http"}`, odd, "302 http://h.test:443/a/b?q=1"},
		{`{"port":80}`, secure, "302 https://h.test:80/a/b?q=1"},
		{`{"hostname":"example.org","status_code":308}`, plain, "308 http://example.org/a/b?q=1"},
		{`{"path":{"full":"/x y"}}`, plain, "302 http://h.test/x%20y?q=1"},
		{`{"path":{"prefix":{"match":"/a","replace":"/z"}}}`, plain, "302 http://h.test/z/b?q=1"},
		{`{"path":{"prefix":{"match":"/a","replace":""}}}`, from{"/a", "h.test", "http", "http", 80}, "302 http://h.test/"},
		{`{"path":{"prefix":{"match":"/a","replace":"/z"}}}`, from{"//%61//b/../c", "h.test", "http", "http", 80}, "302 http://h.test/z/c"},
		// A trusted proxy ended TLS: the port of this connection is not the client's.
		{`{}`, from{"/", "h.test", "http", "HTTPS", 8000}, "302 https://h.test/"},
		{`{}`, from{"/", "[::1]", "http", "http", 81}, "302 http://[::1]:81/"},
		{`{}`, from{"//evil.test/x", "", "http", "http", 80}, "302 /evil.test/x"},
		{`{}`, from{"//evil.test/x", "h.test", "http", "http", 80}, "302 http://h.test//evil.test/x"},
		{`{}`, from{"*", "h.test", "http", "http", 80}, "302 http://h.test/"},
		{`{"scheme":"https","hostname":"example.org","port":8443,"path":{"full":"/"},"status_code":303}`, from{"/q?", "h.test", "http", "http", 80}, "303 https://example.org:8443/?"},
	} {
		i := instance(t, `{"redirect":`+row.config+`}`)
		c := vectortest.NewContext("GET", row.from.target, row.from.host)
		c.X.Request.Scheme, c.ForwardedProto, c.ForwardedHost, c.ForwardedPort = row.from.scheme, row.from.proto, row.from.host, row.from.port
		reply := i.Access(c)
		if got := status(reply) + " " + reply.Fields[0].Value; got != row.want || reply.Fields[0].Name != "Location" || len(reply.Body) > 0 || reply.Body == nil {
			t.Errorf("%s of %+v: got %s, want %s", row.config, row.from, got, row.want)
		}
	}
}

func status(r *policy.Reply) string {
	return string([]byte{'0' + byte(r.Status/100), '0' + byte(r.Status/10%10), '0' + byte(r.Status%10)})
}

func TestVerifyRefuses(t *testing.T) {
	for config, want := range map[string]string{
		`{"request_headers":{"set":[{"name":"a b","value":"x"}]}}`:               "not a field name",
		`{"request_headers":{"add":[{"name":"Content-Length","value":"1"}]}}`:    "written by the gateway alone",
		`{"response_headers":{"remove":["Transfer-Encoding"]}}`:                  "written by the gateway alone",
		`{"request_headers":{"remove":["Host"]}}`:                                "request_headers.remove.1: a request has one Host",
		`{"request_headers":{"set":[{"name":"Host","value":""}]}}`:               "expected the name of a host",
		`{"response_headers":{"set":[{"name":"a","value":"x\ny"}]}}`:             "control character",
		`{"request_headers":{"set":[{"name":"a"}]}}`:                             "value: required field missing",
		`{"rewrite":{"path":{}}}`:                                                "rewrite.path: expected one of 'full' and 'prefix'",
		`{"rewrite":{"path":{"full":"/a","prefix":{"match":"/","replace":""}}}}`: "expected one of 'full' and 'prefix'",
		`{"rewrite":{"path":{"full":"a"}}}`:                                      "should start with: /",
		`{"rewrite":{"path":{"prefix":{"match":"/a"}}}}`:                         "replace: required field missing",
		`{"rewrite":{"path":{"prefix":{"match":"/a","replace":"b"}}}}`:           "rewrite.path.prefix.replace: should start with: /",
		`{"rewrite":{"hostname":"a:80"}}`:                                        "rewrite.hostname: \"a:80\" is not the name of a host",
		`{"redirect":{"hostname":"*.a"}}`:                                        "is not the name of a host",
		`{"redirect":{"status_code":304}}`:                                       "expected one of: 301, 302, 303, 307, 308",
		`{"redirect":{"scheme":"ftp"}}`:                                          "expected one of: http, https",
		`{"redirect":{"port":0}}`:                                                "value should be between 1 and 65535",
		`{"redirect":{},"rewrite":{"hostname":"a"}}`:                             "a request is either sent on or redirected",
	} {
		_, problems := vectortest.Compile(t, Kind(), nil, config)
		if len(problems) == 0 || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: got %v, want %q", config, problems, want)
		}
	}
}

func TestNothing(t *testing.T) {
	if i := instance(t, `{}`); i.Access != nil || i.Header != nil || i.Log != nil {
		t.Errorf("a config that says nothing takes part: %+v", i)
	}
}

func TestReadmeExample(t *testing.T) {
	doc := vectortest.Example(t, Kind())
	rewrite, err := Kind().Compile(nil, doc.Plugins[0])
	if err != nil {
		t.Fatal(err)
	}
	c := vectortest.NewContext("GET", "/shop/items/42?page=2", "www.example.com")
	c.UpstreamURI = "/shop/items/42"
	if rewrite.Access(c); c.UpstreamURI != "/v2/items/42" || c.X.Request.Fields.Get("X-Area") != "items" {
		t.Errorf("sent %s with %v", c.UpstreamURI, lines(&c.X.Request.Fields))
	}
	moved, err := Kind().Compile(nil, doc.Plugins[1])
	if err != nil {
		t.Fatal(err)
	}
	c = vectortest.NewContext("GET", "/old/a", "www.example.com")
	c.ForwardedProto, c.ForwardedHost, c.ForwardedPort = "http", "www.example.com", 8000
	if reply := moved.Access(c); reply.Status != 301 || reply.Fields[0].Value != "https://www.example.com/shop/a" {
		t.Errorf("%+v", reply)
	}
}
