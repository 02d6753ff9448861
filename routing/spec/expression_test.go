package spec

import (
	"strings"
	"testing"
)

// TestExpressions: expressions are judged when they are read, and where the router's
// flavor is known, whether they may be there at all.
func TestExpressions(t *testing.T) {
	for _, c := range []struct{ route, compatible, expressions string }{
		{`{expression: http.path == "/x", priority: 5}`, "unknown field", ""},
		{`{paths: [/x], priority: 5}`, "unknown field", ""},
		{`{paths: [/x]}`, "", ""},
		{`{expression: http.path == "/x", paths: [/x], hosts: [a]}`, "unknown field", "cannot set 'hosts' together with 'expression'"},
		{`{expression: net.src.port == 5, protocols: [tcp]}`, "unknown field", "expressions are for routes"},
		{`{expression: http.path ==}`, "at character 13: expected rhs", "at character 13: expected rhs"},
		{`{expression: ""}`, "length must be at least 1", "length must be at least 1"},
		{`{expression: http.path == "/x", priority: 70368744177664}`, "between 0 and 70368744177663", "between 0 and 70368744177663"},
	} {
		for flavor, want := range map[string]string{FlavorCompatible: c.compatible, FlavorTraditional: c.compatible, FlavorExpressions: c.expressions} {
			doc, problems := Load([]Source{{Name: "t.yaml", Data: []byte("_format_version: \"3.0\"\nroutes:\n- " + c.route + "\n")}}, nil)
			if len(problems) == 0 {
				problems = doc.CheckFlavor(flavor)
			}
			if len(problems) == 0 && want == "" {
				continue
			}
			if want == "" || !strings.Contains(problems.Error(), want) {
				t.Errorf("%s of %s: %v, want %q", c.route, flavor, problems, want)
			}
		}
	}
}
