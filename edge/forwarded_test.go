package edge

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing"
)

func (h hop) String() string {
	who := "?"
	if h.client.IsValid() {
		who = h.client.String()
	}
	return who + "|" + h.proto + "|" + h.host
}

func TestParseForwarded(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "[]",
		" , ,, ":                               "[]",
		";;":                                   "[]",
		"for=192.0.2.43":                       "[192.0.2.43||]",
		`For="[2001:db8:cafe::17]:4711"`:       "[2001:db8:cafe::17||]",
		"for=192.0.2.60;proto=HTTP;by=_x.y-z_": "[192.0.2.60|http|]",
		"for=192.0.2.43, for=198.51.100.17":    "[192.0.2.43|| 198.51.100.17||]",
		"for=192.0.2.43,\tfor=unknown,for=_hid;;secret=\"a,b;c=\\\"d\\\\\"": "[192.0.2.43|| ?|| ?||]",
		`host="a.test:8443";proto=https;for="192.0.2.1:_p"`:                 "[192.0.2.1|https|a.test:8443]",
		`host=a.test`:                 "[?||a.test]",
		`for="unknown:80"`:            "[?||]",
		`for="192.0.2.\1"`:            "[192.0.2.1||]",
		`for="[::ffff:192.0.2.1]"`:    "[192.0.2.1||]",
		"secret=\"t\ta b\xe9\"":       "[?||]",
		strings.Repeat("for=a1,", 99): "bad",
		strings.Repeat("for=192.0.2.1,", 99) + "for=192.0.2.2": fmt.Sprint(append(times(hop{client: netip.MustParseAddr("192.0.2.1")}, hopsMax-1), hop{client: netip.MustParseAddr("192.0.2.2")})),
		"for":                          "bad",
		"for=":                         "bad",
		"=a":                           "bad",
		"192.0.2.1":                    "bad",
		`for="192.0.2.1`:               "bad",
		`for="192.0.2.1\`:              "bad",
		"for=\"192.0.2.1\x01\"":        "bad",
		"for=\"192.0.2.1\\\x01\"":      "bad",
		`for="192.0.2.1"x`:             "bad",
		"for = 192.0.2.1":              "bad",
		"for=192.0.2.1; proto=http":    "bad",
		"for=192.0.2.1 ;proto=http":    "bad",
		"for=192.0.2.1 for=192.0.2.2":  "bad",
		"for=192.0.2.1;for=192.0.2.2":  "bad",
		"proto=http;PROTO=https":       "bad",
		"for=192.0.2.1:80":             "bad",
		"for=[2001:db8::1]":            "bad",
		`for="2001:db8::1"`:            "bad",
		`for="[192.0.2.1]"`:            "bad",
		`for="[fe80::1%eth0]"`:         "bad",
		`for="[2001:db8::1"`:           "bad",
		`for="[2001:db8::1]x"`:         "bad",
		`for="[2001:db8::1]x80"`:       "bad",
		`for="192.0.2.1:"`:             "bad",
		`for="192.0.2.1:123456"`:       "bad",
		`for="192.0.2.1:_"`:            "bad",
		"for=192.0.2.256":              "bad",
		"for=192.0.2.01":               "bad",
		"for=a.test":                   "bad",
		`for=_`:                        "bad",
		`for="_a b"`:                   "bad",
		`for=""`:                       "bad",
		"by=a.test":                    "bad",
		"proto=1a":                     "bad",
		`proto="a b"`:                  "bad",
		`host="a b"`:                   "bad",
		`host="a.test:x"`:              "bad",
		`host=""`:                      "bad",
		"for=192.0.2.1, x, proto=http": "bad",
	} {
		hops, ok := parseForwarded(in)
		got := fmt.Sprint(hops)
		if !ok {
			got = "bad"
		}
		if got != want {
			t.Errorf("%q is %s, want %s", in, got, want)
		}
	}
}

// times is n hops that are the same.
func times(h hop, n int) []hop { return slices.Repeat([]hop{h}, n) }

// TestForwarded holds what is believed of Forwarded, and what upstreams are told in it.
func TestForwarded(t *testing.T) {
	o := newOrigin(t, nil)
	near := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/8")}
	const own = "for=192.0.2.7;proto=http;host=h.test"
	const xff, xfp, xfh, real, fwd = "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-Ip", "Forwarded"
	for _, c := range []struct {
		name      string
		policy    routing.Policy
		trusted   []netip.Prefix
		header    string
		recursive bool
		off       bool
		lines     []string
		want      map[string]string // "" for absent
	}{
		{"nobody before", routing.Strict, nil, "", false, false, nil, map[string]string{fwd: own, xff: "192.0.2.7"}},
		{
			"a stranger's word is replaced", routing.Strict, nil, fwd, true, false,
			[]string{"Forwarded: for=9.9.9.9;proto=https;host=evil", "forwarded: for=8.8.8.8", xff + ": 7.7.7.7"},
			map[string]string{fwd: own, xff: "192.0.2.7", xfp: "http", xfh: "h.test", real: "192.0.2.7"},
		},
		{
			"under the compatible policy too", routing.Compatible, nil, fwd, true, false,
			[]string{"Forwarded: for=9.9.9.9;proto=https", xff + ": 7.7.7.7"},
			map[string]string{fwd: own, xff: "7.7.7.7, 192.0.2.7", xfp: "http", real: "192.0.2.7"},
		},
		{
			"a trusted peer's is read where it is asked for only", routing.Strict, near, "", false, false,
			[]string{"Forwarded: for=9.9.9.9;proto=https;host=evil"},
			map[string]string{fwd: own, xff: "192.0.2.7", xfp: "http", xfh: "h.test", real: "192.0.2.7"},
		},
		{
			"and then alone", routing.Strict, near, fwd, false, false,
			[]string{`Forwarded: for=1.2.3.4;proto=https;host="FH.test:444";by=_lb`, xff + ": 6.6.6.6", xfp + ": ftp", xfh + ": evil", "X-Forwarded-Port: 1", "X-Forwarded-Path: /e", "X-Real-IP: 5.5.5.5"},
			map[string]string{
				fwd: `for=1.2.3.4;proto=https;host="FH.test:444";by=_lb, ` + own, xff: "1.2.3.4, 192.0.2.7", xfp: "https", xfh: "fh.test", "X-Forwarded-Port": "444",
				"X-Forwarded-Path": "/", real: "1.2.3.4",
			},
		},
		{
			"without it nothing is", routing.Strict, near, fwd, false, false,
			[]string{xff + ": 6.6.6.6", xfp + ": https", xfh + ": evil", "X-Real-IP: 5.5.5.5"},
			map[string]string{fwd: own, xff: "192.0.2.7", xfp: "http", xfh: "h.test", real: "192.0.2.7"},
		},
		{
			"the port of a host without one is its scheme's", routing.Strict, near, fwd, false, false,
			[]string{"Forwarded: for=1.2.3.4;proto=https;host=fh.test"},
			map[string]string{"X-Forwarded-Port": "443", xfh: "fh.test"},
		},
		{
			"an address of IPv6 as a host", routing.Strict, near, fwd, false, false,
			[]string{`Forwarded: for="[2001:db8::1]:9";host="[2001:db8::2]"`},
			map[string]string{"X-Forwarded-Port": "80", xfh: "[2001:db8::2]", xff: "2001:db8::1, 192.0.2.7", real: "2001:db8::1"},
		},
		{
			"the last of the list", routing.Strict, near, fwd, false, false,
			[]string{"Forwarded: for=5.5.5.5;proto=https, for=10.0.0.1;proto=http"},
			map[string]string{real: "10.0.0.1", xfp: "http", xff: "5.5.5.5, 10.0.0.1, 192.0.2.7"},
		},
		{
			"recursively, the last that is not trusted, and what it asked for", routing.Strict, near, fwd, true, false,
			[]string{"Forwarded: for=5.5.5.5;host=evil", "Forwarded: for=1.2.3.4;proto=https;host=fh.test", "Forwarded: for=10.0.0.1;proto=http;host=inner"},
			map[string]string{real: "1.2.3.4", xfp: "https", xfh: "fh.test", xff: "5.5.5.5, 1.2.3.4, 10.0.0.1, 192.0.2.7", fwd: "for=5.5.5.5;host=evil, for=1.2.3.4;proto=https;host=fh.test, for=10.0.0.1;proto=http;host=inner, " + own},
		},
		{
			"who hides ends the search", routing.Strict, near, fwd, true, false,
			[]string{"Forwarded: for=5.5.5.5, for=_hidden;proto=https, for=10.0.0.1;proto=http"},
			map[string]string{real: "10.0.0.1", xfp: "http", xff: "5.5.5.5, unknown, 10.0.0.1, 192.0.2.7"},
		},
		{
			"whoever it was, this is how", routing.Strict, near, fwd, true, false,
			[]string{"Forwarded: for=unknown;proto=https"},
			map[string]string{real: "192.0.2.7", xfp: "https", xff: "unknown, 192.0.2.7"},
		},
		{
			"what is malformed makes a stranger of the peer", routing.Strict, near, fwd, true, false,
			[]string{"Forwarded: for=1.2.3.4;proto=https", "Forwarded: for=10.0.0.1; proto=http", "X-Forwarded-Client-Cert: x"},
			map[string]string{fwd: own, real: "192.0.2.7", xfp: "http", xff: "192.0.2.7", "X-Forwarded-Client-Cert": ""},
		},
		{
			"an unfinished string swallows no hop", routing.Strict, near, fwd, true, false,
			[]string{`Forwarded: for="1.2.3.4`, `Forwarded: for=9.9.9.9;x="`},
			map[string]string{fwd: own, real: "192.0.2.7"},
		},
		{
			"off, it is read and not written", routing.Strict, near, fwd, false, true,
			[]string{"Forwarded: for=1.2.3.4;proto=https"},
			map[string]string{fwd: "", real: "1.2.3.4", xfp: "https"},
		},
		{
			"X-Forwarded-For that is believed", routing.Strict, near, "", false, false,
			[]string{xff + ": 1.2.3.4, 2001:db8::1", xff + ": huh, 10.0.0.1:80,", xfp + ": https", xfh + ": fh.test"},
			map[string]string{fwd: `for=1.2.3.4;proto=https;host=fh.test, for="[2001:db8::1]", for=unknown, for=10.0.0.1, ` + own},
		},
		{
			"a real client that is believed", routing.Strict, near, "", false, false,
			[]string{"X-Real-IP: 1.2.3.4", xfp + ": https"},
			map[string]string{fwd: "for=1.2.3.4;proto=https, " + own},
		},
		{
			"a scheme that is believed of somebody", routing.Strict, near, "", false, false,
			[]string{xfp + ": https"},
			map[string]string{fwd: "for=unknown;proto=https, " + own},
		},
		{
			"what is no scheme and no host is left out", routing.Strict, near, "", false, false,
			[]string{xff + ": 1.2.3.4", xfp + `: https";for=9.9.9.9`, xfh + `: a"b, c`},
			map[string]string{fwd: "for=1.2.3.4, " + own},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, &Config{Policy: c.policy, TrustedIPs: c.trusted, RealIPHeader: c.header, RealIPRecursive: c.recursive, Forwarded: !c.off}, site(o, "{name: r, paths: [/]}"))
			x := ask(t, "GET", "h.test", "/", c.lines...)
			if r.do(x); x.Response.Status != 200 {
				t.Fatalf("answered %d", x.Response.Status)
			}
			got := o.got().Header
			for name, want := range c.want {
				v := strings.Join(got[name], "|")
				if _, there := got[name]; v != want || there != (want != "") {
					t.Errorf("%s is %q, want %q", name, v, want)
				}
			}
			if _, ok := parseForwarded(got.Get(fwd)); !ok {
				t.Errorf("what is sent is malformed: %q", got.Get(fwd))
			}
		})
	}
}

// TestForwardedOfMany has no client make this node send more than it was sent.
func TestForwardedOfMany(t *testing.T) {
	o := newOrigin(t, nil)
	near := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for header, line := range map[string]string{"": "X-Forwarded-For: " + strings.Repeat("1,", 3000) + "1.2.3.4", forwardedName: "Forwarded: " + strings.Repeat("a=b,", 2000) + "for=1.2.3.4"} {
		r := newRig(t, &Config{TrustedIPs: near, RealIPHeader: header, Forwarded: true}, site(o, "{name: r, paths: [/]}"))
		r.do(ask(t, "GET", "h.test", "/", line))
		got := o.got().Header
		for _, name := range []string{"X-Forwarded-For", forwardedName} {
			if v := got.Get(name); len(v) > len(line)+64 || !strings.Contains(v, "1.2.3.4") {
				t.Errorf("%s has %d bytes of %d", name, len(v), len(line))
			}
		}
	}
}

// TestForwardedAllocates counts what the field costs: the value, and where it is not read
// or written nothing (TestRequestAllocates).
func TestForwardedAllocates(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	r := &request{x: ask(t, "GET", "h.test", "/")}
	if n := testing.AllocsPerRun(100, func() { _ = r.forwarded(false) }); n > 1 {
		t.Errorf("%v allocations, want 1", n)
	}
}

// FuzzParseForwarded holds the reader against the grammar written as an expression, and
// has what is written for upstreams be what is read.
func FuzzParseForwarded(f *testing.F) {
	for _, s := range []string{
		"", "for=192.0.2.1", `for="[2001:db8::1]:80";by=_a;proto=https;host="a.test:1", for=unknown`, `a="\"\\",,;b=c;`, `for="192.0.2.1;proto=http`, "for=1.2.3.4; proto=http",
	} {
		f.Add(s)
	}
	const pair = "([!#$%&'*+.^_`|~0-9A-Za-z-]+=([!#$%&'*+.^_`|~0-9A-Za-z-]+|\"([\t \\x21\\x23-\\x5b\\x5d-\\x7e\\x80-\\xff]|\\\\[\t \\x21-\\x7e\\x80-\\xff])*\"))?"
	const element = "[ \t]*" + pair + "(;" + pair + ")*[ \t]*"
	grammar := regexp.MustCompile("^" + element + "(," + element + ")*$")
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 4<<10 {
			return
		}
		hops, ok := parseForwarded(s)
		if !ok {
			return
		}
		latin := []rune{} // the expression sees characters, the field has bytes
		for _, b := range []byte(s) {
			latin = append(latin, rune(b))
		}
		if !grammar.MatchString(string(latin)) {
			t.Fatalf("%q is read as %v, and the grammar has no such thing", s, hops)
		}
		if len(hops) > hopsMax {
			t.Fatalf("%d hops", len(hops))
		}
		r := &request{x: ask(t, "GET", "h.test", "/"), origin: origin{chain: &forwardedChain{text: s, hops: hops}}}
		again, ok := parseForwarded(r.forwarded(true))
		if !ok || len(again) != min(len(hops)+1, hopsMax) || again[len(again)-1].String() != "192.0.2.7|http|h.test" {
			t.Fatalf("%q goes on as %q: %v", s, r.forwarded(true), again)
		}
		for i, h := range hops {
			text := string(appendHop(nil, &h))
			if got, ok := parseForwarded(text); !ok || len(got) != 1 || got[0] != h {
				t.Fatalf("hop %d of %q, %v, is written as %q and read as %v", i, s, h, text, got)
			}
		}
		// What X-Forwarded-* say may be anything that a field may have.
		c := &request{x: ask(t, "GET", "h.test", "/"), origin: origin{trusted: true}}
		c.x.Request.Fields.Add("X-Forwarded-For", s)
		c.x.Request.Fields.Add("X-Forwarded-Proto", s)
		c.x.Request.Fields.Add("X-Forwarded-Host", s)
		if v := c.forwarded(true); v != "" {
			if _, ok := parseForwarded(v); !ok {
				t.Fatalf("X-Forwarded-* of %q become %q", s, v)
			}
		}
	})
}
