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
