package routing

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

var update = flag.Bool("update", false, "write the table in docs/paths.md anew")

// spellings is what the policies make of each class of spelling: the form that
// is matched and the one that is sent, "400" for refused, "" in compatible for
// the same as in strict.
var spellings = []struct {
	class, path    string
	matched, sent  string
	looseM, looseS string
}{
	{"plain", "/abc/def-1", "/abc/def-1", "/abc/def-1", "", ""},
	{"escape of an unreserved character", "/%61bc/%7Eme", "/abc/~me", "/abc/~me", "", ""},
	{"escape of a reserved character", "/a%40b%3fc", "/a%40b%3Fc", "/a%40b%3fc", "", "/a%40b%3Fc"},
	{"escaped slash", "/a%2fb", "/a%2Fb", "/a%2fb", "", "/a%2Fb"},
	{"escaped backslash", "/a%5cb", `/a\b`, "/a%5cb", "", "/a%5Cb"},
	{"escape of another character", "/a%20%c3%a9", "/a é", "/a%20%c3%a9", "", "/a%20%C3%A9"},
	{"raw character outside of ASCII", "/aé", "/aé", "/a%C3%A9", "", ""},
	{"escape of a control character", "/a%0d%0ab", "/a%0D%0Ab", "/a%0d%0ab", "", "/a%0D%0Ab"},
	{"escaped percent sign", "/a%252e", "/a%252e", "/a%252e", "", ""},
	{"empty segments", "//a///b", "/a/b", "/a/b", "", ""},
	{"dot segments", "/a/./b/../c", "/a/c", "/a/c", "", ""},
	{"dot segment at the end", "/a/b/..", "/a/", "/a/", "", ""},
	{"escaped dot segment", "/a/%2e%2E/b", "/b", "/b", "", ""},
	{"names that begin with a dot", "/.well-known/..x/...", "/.well-known/..x/...", "/.well-known/..x/...", "", ""},
	{"parameters", "/a;x=1/b", "/a;x=1/b", "/a;x=1/b", "", ""},
	{"dot segment with parameters", "/a/..;/b", "400", "400", "/a/..;/b", "/a/..;/b"},
	{"single dot with parameters", "/a/.;x/b", "400", "400", "/a/.;x/b", "/a/.;x/b"},
	{"dot segment with an escaped semicolon", "/a/..%3b/b", "400", "400", "/a/..%3B/b", "/a/..%3B/b"},
	{"escaped slash next to a dot segment", "/a%2f..%2Fb", "400", "400", "/a%2F..%2Fb", "/a%2F..%2Fb"},
	{"escaped slash before an escaped dot segment", "/a/b%2f%2e%2e", "400", "400", "/a/b%2F..", "/a/b%2F.."},
	{"escaped backslash next to a dot segment", `/a/..%5cb`, "400", "400", `/a/..\b`, "/a/..%5Cb"},
	{"backslash", `/a\b`, "400", "400", `/a\b`, "/a%5Cb"},
	{"number sign", "/a#b", "400", "400", "/a#b", "/a#b"},
	{"escaped NUL", "/a%00", "400", "400", "400", "400"},
	{"broken escape", "/a%g1", "400", "400", "400", "400"},
	{"escape cut short", "/a%2", "400", "400", "400", "400"},
	{"raw control character", "/a\tb", "400", "400", "400", "400"},
	{"above the root", "/a/../../b", "400", "400", "400", "400"},
	{"above the root through an escaped slash", "/a/..%2f../b", "400", "400", "400", "400"},
	{"no leading slash", "a/b", "400", "400", "400", "400"},
	{"empty", "", "/", "/", "", ""},
}

// outcome is what a policy makes of a path.
func outcome(p Policy, path string) (matched, sent string) {
	norm, err := Normalize(p, path)
	if err != nil {
		return "400", "400"
	}
	m := Match{Route: &Route{Spec: &spec.Route{}}, path: norm}
	return norm, m.UpstreamPath("", p, path)
}

func TestSpellings(t *testing.T) {
	for _, s := range spellings {
		if m, u := outcome(Strict, s.path); m != s.matched || u != s.sent {
			t.Errorf("strict %s %q: matched %q, sent %q", s.class, s.path, m, u)
		}
		wantM, wantS := s.looseM, s.looseS
		if wantM == "" {
			wantM = s.matched
		}
		if wantS == "" {
			wantS = s.sent
		}
		if m, u := outcome(Compatible, s.path); m != wantM || u != wantS {
			t.Errorf("compatible %s %q: matched %q, sent %q", s.class, s.path, m, u)
		}
		m, u := outcome("", s.path)
		if sm, su := outcome(Strict, s.path); m != sm || u != su {
			t.Errorf("no policy is not strict: %q", s.path)
		}
	}
}

func TestPathsDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString("| spelling | request | strict matches | strict sends | compatible matches | compatible sends |\n|---|---|---|---|---|---|\n")
	cell := func(s string) string {
		switch s {
		case "400":
			return "400"
		case "":
			return "(empty)"
		}
		return "`" + strings.ReplaceAll(strings.Trim(fmt.Sprintf("%q", s), `"`), `\\`, `\`) + "`"
	}
	for _, s := range spellings {
		sm, ss := outcome(Strict, s.path)
		cm, cs := outcome(Compatible, s.path)
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", s.class, cell(s.path), cell(sm), cell(ss), cell(cm), cell(cs))
	}
	name := filepath.Join("..", "docs", "paths.md")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- table: begin -->\n", "<!-- table: end -->"
	head, rest, ok := strings.Cut(string(text), begin)
	table, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s: the marks of the table are missing", name)
	}
	if *update {
		if err := os.WriteFile(name, []byte(head+begin+b.String()+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if table != b.String() {
		t.Errorf("%s: the table is not what the code does; go test ./routing -run PathsDocument -update", name)
	}
}

func TestPathErrorSaysWhereAndNotWhat(t *testing.T) {
	_, err := Normalize(Strict, "/secret/%00")
	if err == nil || err.At != 8 || strings.Contains(err.Error(), "secret") || err.Policy != Strict {
		t.Errorf("got %v", err)
	}
}

func TestNormalPathsAreFree(t *testing.T) {
	for _, p := range []Policy{Strict, Compatible} {
		n := testing.AllocsPerRun(100, func() {
			for _, path := range []string{"/", "/abc/def-1", "/a.b/c;d=1/@x:y", "/.x"} {
				if got, err := Normalize(p, path); err != nil || got != path {
					t.Fatal(got, err)
				}
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", p, n)
		}
	}
}

func TestUpstreamPath(t *testing.T) {
	for _, c := range []struct {
		service, matched, path string
		strip                  bool
		want                   string
	}{
		{"/s", "/fv0", "/fv0req", true, "/s/req"},
		{"/s", "/fv0", "/fv0", true, "/s"},
		{"/s", "/fv0", "/fv0/", true, "/s/"},
		{"/s", "/fv0", "/fv0req", false, "/s/fv0req"},
		{"/s/", "/fv0", "/fv0/req", true, "/s/req"},
		{"/s/", "/fv0", "/fv0", true, "/s"},
		{"", "/fv0", "/fv0", true, "/"},
		{"/s", "/", "/", true, "/s"},
		{"/s/", "/", "/", true, "/s/"},
		{"/s", "", "/a", true, "/s/a"},
		{"/s", "/a", "/a../b", true, "/s/b"},
		{"/s", "/a", "/a..", true, "/s"},
		{"/s", "/a", "/a./b", true, "/s/b"},
		{"/s p", "/a b", "/a%20b/%2fc%41", true, "/s%20p/%2fcA"},
		{"/s", "/a%2Fb", "/x/../a%2fb//c%2fd", true, "/s/c%2fd"},
		{"/s", "/é", "/%c3%a9/%c3%a9", true, "/s/%c3%a9"},
	} {
		norm, err := Normalize(Strict, c.path)
		if err != nil {
			t.Fatal(err)
		}
		m := Match{Route: &Route{Spec: &spec.Route{StripPath: c.strip}}, MatchedPath: c.matched, path: norm}
		if got := m.UpstreamPath(c.service, Strict, c.path); got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

// FuzzNormalize holds both policies to what the rest of the edge relies on: what
// is sent is read as what was matched, and normalising twice changes nothing.
func FuzzNormalize(f *testing.F) {
	for _, s := range spellings {
		f.Add(s.path)
	}
	f.Add("/a%5c%2e/%7f")
	f.Fuzz(func(t *testing.T, path string) {
		for _, p := range []Policy{Strict, Compatible} {
			norm, err := Normalize(p, path)
			if err != nil || norm == "" || norm[0] == '?' {
				continue
			}
			if again, err := Normalize(p, norm); err == nil && again != norm {
				t.Fatalf("%s %q: %q, then %q", p, path, norm, again)
			}
			m := Match{Route: &Route{Spec: &spec.Route{}}, path: norm}
			sent := m.UpstreamPath("", p, path)
			if strings.ContainsAny(sent, " \r\n\t\\\x00") || strings.Contains(sent, "//") {
				t.Fatalf("%s %q: sends %q", p, path, sent)
			}
			if read, err := Normalize(p, sent); err != nil || read != norm {
				t.Fatalf("%s %q: matched %q, but what is sent, %q, is read as %q (%v)", p, path, norm, sent, read, err)
			}
			if cut := spelledLength(sent, len(norm)); p == Strict && cut != len(sent) {
				t.Fatalf("%q: %q is %d of %q", path, norm, cut, sent)
			}
			if strict, err := Normalize(Strict, path); err == nil && strict != norm {
				t.Fatalf("%q: the policies match different paths: %q, %q", path, strict, norm)
			}
		}
	})
}

// A gRPC service is asked for the whole path, in the form in which others are.
func TestWholePath(t *testing.T) {
	m := Match{path: "/pkg.Service/Call", MatchedPath: "/pkg.Service", Route: &Route{Spec: &spec.Route{StripPath: true}}}
	for raw, want := range map[string]string{"/pkg.Service/Call": "/pkg.Service/Call", "/x/../pkg.Service//Call": "/pkg.Service/Call", "/pkg.Service/%43all": "/pkg.Service/Call"} {
		if got := m.WholePath(Strict, raw); got != want {
			t.Errorf("%s is sent as %s, want %s", raw, got, want)
		}
		if got := m.WholePath(Compatible, raw); got != m.path {
			t.Errorf("compatible: %s is sent as %s", raw, got)
		}
	}
}
