package edge

import (
	"strings"
	"testing"
)

func TestLooseReading(t *testing.T) {
	for path, want := range map[string]string{
		"/a/b":                    "/a/b",
		"/a%2Fb":                  "/a/b",
		"/%2Fadmin/x":             "/admin/x",
		"/%252fadmin/x":           "/admin/x",
		"/%2561dmin/x":            "/admin/x",
		"/x/%252e%252e/admin":     "/admin",
		"/x/%252e%252e%252fadmin": "/admin",
		"/;/admin":                "/admin",
		"/;a/admin/":              "/admin/",
		"/x;y/..;z/admin":         "/admin",
		"/\\admin":                "/admin",
		"/%25252e":                "/%2e",
		"/%2525":                  "/%",
		"/%2":                     "/%2",
		"/%zz":                    "/%zz",
		"/..":                     "/",
		"/fetch/http%3A%2F%2Fa":   "/fetch/http:/a",
	} {
		if got := looseReading(path); got != want {
			t.Errorf("looseReading(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestHostName(t *testing.T) {
	for name, ok := range map[string]bool{
		"edge.test": true, "EDGE-1.test": true, "a_b.test": true, "xn--bcher-kva.test": true, "": true,
		"\xe4.test": false, "a b.test": false, "%61.test": false, "a.test\x00": false, "*.test": false,
		strings.Repeat("a", 63) + ".test": true, strings.Repeat("a", 64) + ".test": false, strings.Repeat("a.", 130) + "test": false,
	} {
		want := name
		if !ok {
			want = ""
		}
		if got := hostName(name); got != want {
			t.Errorf("hostName(%q) = %q, want %q", name, got, want)
		}
	}
}

// TestHandleOtherReading: a spelling is refused where it would walk around a route, and only there.
func TestHandleOtherReading(t *testing.T) {
	o := newOrigin(t, nil)
	r := newRig(t, &Config{}, site(o, `{name: open, paths: [/], strip_path: false}, {name: deny, paths: [/admin], plugins: [{name: stop, config: {say: no}}]},
  {name: projects, paths: ["~/projects/[^/]+/issues"], strip_path: false}, {name: old, paths: [/old], x_keyway_path_policy: compatible, strip_path: false}`))
	for path, want := range map[string]int{
		"/admin/x": 418, "/%61dmin/x": 418, "/%2fadmin/x": 400, "/%252fadmin/x": 400, "/%2561dmin/x": 400, "/;/admin/x": 400, "/;a/admin": 400,
		"/%5cadmin/x": 400, "/x/%252e%252e/admin": 400, "/x%2fadmin": 200, "/fetch/http%3A%2F%2Fa.test": 200, "/a;b=c/d": 200, "/a%252e": 200,
		"/projects/group%2Fname/issues": 200, "/old/%252e%252e/admin": 200,
	} {
		x := ask(t, "GET", "a.test", path)
		r.do(x)
		if x.Response.Status != want {
			t.Errorf("%s answered %d, want %d", path, x.Response.Status, want)
		}
	}
}
