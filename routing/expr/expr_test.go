package expr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
)

func request() *Request {
	var f exchange.Fields
	f.Add("X-A", "1")
	f.Add("x-a", "2")
	f.Add("X_B", "under")
	f.Add("X-B", "dash")
	return &Request{
		Protocol: "https", Method: "GET", Host: "api.example.com", Path: "/v1/users/7", RawQuery: "q=1&q=2&empty&sp=a%20b+c&bad=%zz&user-id=7", SNI: "api.example.com", Fields: &f,
		Src: netip.MustParseAddrPort("192.0.2.7:1234"), Dst: netip.MustParseAddrPort("[::ffff:198.51.100.1]:443"),
	}
}

// TestMatch: every field and operator, and how they are joined.
func TestMatch(t *testing.T) {
	for s, want := range map[string]bool{
		`http.method == "GET"`:                                                   true,
		`http.method != "GET"`:                                                   false,
		`http.host =^ ".example.com"`:                                            true,
		`http.host ^= "api."`:                                                    true,
		`http.host contains "ample"`:                                             true,
		`http.path ~ "^/v\\d"`:                                                   true,
		`http.path ~ r#"^/v\d+/users/(?P<id>\d+)$"#`:                             true,
		`lower(http.path) == "/v1/users/7"`:                                      true,
		`net.protocol == "https"`:                                                true,
		`tls.sni == "api.example.com"`:                                           true,
		`http.path.segments.len == 3`:                                            true,
		`http.path.segments.0 == "v1"`:                                           true,
		`http.path.segments.1_2 == "users/7"`:                                    true,
		`http.path.segments.0_9 == "v1"`:                                         false,
		`http.path.segments.9 != "v1"`:                                           false, // absent
		`http.headers.x_a == "1"`:                                                false, // not all
		`any(http.headers.x_a) == "1"`:                                           true,
		`http.headers.x_a ~ "^[12]$"`:                                            true,
		`http.headers.x_b == "under"`:                                            true, // the very name first
		`http.headers.x_c != "1"`:                                                false,
		`http.queries.q == "1"`:                                                  false,
		`any(http.queries.q) == "2"`:                                             true,
		`http.queries.empty == ""`:                                               true,
		`http.queries.sp == "a b c"`:                                             true,
		`http.queries.bad == "%zz"`:                                              true,
		`http.queries.user-id == "7"`:                                            true,
		`any(lower(http.queries.none)) != "1"`:                                   false,
		`net.src.ip == 192.0.2.7`:                                                true,
		`net.src.ip in 192.0.2.0/24`:                                             true,
		`net.src.ip not in 192.0.2.0/24`:                                         false,
		`net.src.ip in 2001:db8::/32`:                                            false,
		`net.src.port == 1234`:                                                   true,
		`net.dst.ip == 198.51.100.1`:                                             true,
		`net.dst.port >= 443 && net.port <= 0x1bb`:                               true,
		`net.dst.port > 443 || net.dst.port < 443`:                               false,
		`!(http.method == "GET")`:                                                false,
		`http.method == "PUT" && http.method == "PUT" || http.method == "GET"`:   true, // && binds tighter
		`http.method == "GET" || http.method == "PUT" && http.method == "PUT"`:   true,
		`(http.method == "GET" || http.method == "PUT") && http.method == "PUT"`: false,
		"\t(( http.method\n==\r\"GET\" ))":                                       true,
		`http.host == "api.example.com" && !(http.path ^= "/v2" || http.path =^ "/admin")`: true,
	} {
		e, err := Parse(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if got := e.Match(request(), nil); got != want {
			t.Errorf("%s is %v", s, got)
		}
		if got := e.Match(request(), &Result{}); got != want {
			t.Errorf("%s is %v when its findings are kept", s, got)
		}
	}
}

// TestFindings: what a path's predicate has matched, and the groups.
func TestFindings(t *testing.T) {
	for s, want := range map[string]string{
		`http.path ^= "/v1"`:                                  `/v1 []`,
		`http.path == "/v1/users/7"`:                          `/v1/users/7 []`,
		`http.path =^ "/7"`:                                   `/7 []`,
		`http.path ~ "/users/(?P<id>\\d+)"`:                   `/users/7 [{0 /users/7} {1 7} {id 7}]`,
		`http.path ^= "/v1" && http.path ~ "^/v(1)"`:          `/v1 [{0 /v1} {1 1}]`,
		`http.host ~ "^(api)" && http.path ~ "(7)$"`:          `7 [{0 7} {1 7}]`,
		`http.path ^= "/v2" || http.path ^= "/v1/u"`:          `/v1/u []`,
		`http.method == "GET"`:                                ` []`,
		`http.host ~ "^(?P<sub>[a-z]+)" && http.path ^= "/v"`: `/v [{0 api} {1 api} {sub api}]`,
	} {
		e, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		var res Result
		if !e.Match(request(), &res) {
			t.Errorf("%s does not match", s)
		}
		if got := fmt.Sprint(res.Path, " ", res.Captures); got != want {
			t.Errorf("%s found %s, want %s", s, got, want)
		}
	}
}

// TestErrors: what is wrong is named, with its place.
func TestErrors(t *testing.T) {
	for s, want := range map[string]string{
		``:                                     "at character 1: expected term",
		`((`:                                   "at character 3: expected term",
		`http.path`:                            "at character 10: expected binary_operator",
		`http.path ==`:                         "at character 13: expected rhs",
		`http.path == "a`:                      `at character 16: expected "`,
		`http.path == "\x"`:                    "at character 16: expected one of the escapes",
		`http.path == r#"a`:                    "expected \"#",
		`(http.path == "a"`:                    "at character 18: expected and_op, or_op or )",
		`http.path == "a" and`:                 "at character 18: expected EOI",
		`!http.path == "a"`:                    "at character 1: expected term",
		`http.foo == "a"`:                      `Unknown LHS field "http.foo"`,
		`http.path.segments.2_1 == "a"`:        "Unknown LHS field",
		`http.path == 5`:                       "Type mismatch",
		`net.src.port == "5"`:                  "Type mismatch",
		`net.src.ip == 192.0.2.0/24`:           "Type mismatch",
		`net.src.ip in 192.0.2.1`:              "only supports IP in CIDR",
		`http.path in 192.0.2.0/24`:            "only supports IP in CIDR",
		`http.path > "a"`:                      "only supports integer operands",
		`net.src.port ~ 5`:                     "only supports string operands",
		`lower(net.src.port) == 5`:             "lower-case transformation",
		`upper(http.path) == "a"`:              `unknown function "upper"`,
		`http.path ~ "("`:                      "at character 13: regex parse error",
		`http.path ~ "(?<n>a)"`:                "at character 13: regex parse error",
		`net.src.ip == 1.2.3`:                  "at character 15: expected rhs",
		`net.src.port == 99999999999999999999`: "number too large",
		`ü == "a"`:                             "at character 1: expected term",
		`http.path == "ü" x`:                   "at character 18: expected EOI",
		strings.Repeat("(", 200) + `http.path == "a"`: "parentheses within each other",
		strings.Repeat("a", MaxLength+1):              "bytes long",
	} {
		_, err := Parse(s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", s, err, want)
		}
	}
}

// TestFacts: what is known of everything that matches.
func TestFacts(t *testing.T) {
	for s, want := range map[string]string{
		`http.host == "A.test" && http.path ^= "/x"`:                                          "[{a.test 0}] [/x]",
		`(http.host == "a" || http.host =^ ".b") && (http.path == "/x")`:                      "[{a 0} {.b 1}] [/x]",
		`http.host == "a" || http.path == "/x"`:                                               "[] []",
		`!(http.host == "a") && http.path ~ "^/x/y\\d"`:                                       "[] [/x/y]",
		`(http.host ^= "a." && http.path ^= "/1") || (http.host == "b" && http.path ^= "/2")`: "[{a. 2} {b 0}] [/1 /2]",
		`lower(http.path) ^= "/x"`:                                                            "[] []",
		`http.path ~ "/x"`:                                                                    "[] []",
		`http.path =^ "/x" && http.host != "a"`:                                               "[] []",
	} {
		e, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(e.Hosts(), e.Paths()); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
}

// TestWhy: the part that is false is shown.
func TestWhy(t *testing.T) {
	e, err := Parse(`http.method == "GET" && (http.path ^= "/v1" && http.host == "other") && http.path =^ "x"`)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Why(request()); got != `http.host == "other"` {
		t.Errorf("got %s", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`http.host == "a" && (http.path ^= "/v" || !(any(lower(http.headers.x_a)) ~ r#"^v\d"#))`,
		`net.src.ip not in 10.0.0.0/8 || net.dst.port >= 0x1bb`, `http.path.segments.0_1 == "a/b"`, `tls.sni contains "\"\\\n"`, `((`, `"`, `a in ::/0`,
	} {
		f.Add(s)
	}
	r := request()
	f.Fuzz(func(t *testing.T, s string) {
		e, err := Parse(s)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error that says nothing")
			}
			return
		}
		var res Result
		if e.Match(r, nil) != e.Match(r, &res) {
			t.Errorf("%s: keeping what is found changes the verdict", s)
		}
		if e.Match(r, nil) {
			// What is said of everything that matches must be true of this.
			if h := e.Hosts(); h != nil && !slices.ContainsFunc(h, func(h Host) bool {
				return h.Kind == Whole && h.Text == r.Host || h.Kind == EndsWith && strings.HasSuffix(r.Host, h.Text) || h.Kind == StartsWith && strings.HasPrefix(r.Host, h.Text)
			}) {
				t.Errorf("%s: hosts %v", s, h)
			}
			if p := e.Paths(); p != nil && !slices.ContainsFunc(p, func(p string) bool { return strings.HasPrefix(r.Path, p) }) {
				t.Errorf("%s: paths %v", s, p)
			}
		} else if why := e.Why(r); why == "" || !strings.Contains(s, why) {
			t.Errorf("%s: why %q", s, why)
		}
		again, err := Parse("(" + e.String() + ")")
		if err != nil || again.Match(r, nil) != e.Match(r, nil) {
			if e.depthNear() {
				return
			}
			t.Errorf("%s: within parentheses it is another: %v", s, err)
		}
	})
}

// depthNear says that one more pair of parentheses may be too many.
func (e *Expr) depthNear() bool {
	return strings.Count(e.source, "(") >= MaxDepth || len(e.source)+2 > MaxLength
}
