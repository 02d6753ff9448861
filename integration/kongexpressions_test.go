package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// refusals are the expressions that the recorded gateway did not take.
type refusals struct {
	Rejected []struct {
		Expression string `json:"expression"`
		Errors     []struct {
			Message string `json:"message"`
		} `json:"errors"`
	} `json:"rejected"`
}

// place is where a recorded message says that an expression is wrong.
var place = regexp.MustCompile(`--> 1:(\d+)\n`)

// TestKongVectorsExpressions: routes that are expressions find the same requests, and
// what is no expression is refused, at the same character.
func TestKongVectorsExpressions(t *testing.T) {
	r := newRig(t, map[string]any{"router_flavor": "expressions"})
	s := score{group: "router/expr"}
	s.documents(t, r, "router/expr-*.json")
	s.close(t)
	refused := 0
	for _, name := range files(t, "router/expr-*.json") {
		data, err := os.ReadFile(filepath.Join(vectorDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		var rec refusals
		if err := json.Unmarshal(data, &rec); err != nil {
			t.Fatal(err)
		}
		for _, x := range rec.Rejected {
			doc, _ := json.Marshal(map[string]any{"_format_version": "3.0", "routes": []any{map[string]any{"name": "r", "expression": x.Expression}}})
			out, err := r.g.run("validate", file(t, t.TempDir(), "doc.json", string(doc)))
			at := place.FindStringSubmatch(x.Errors[0].Message)
			switch {
			case err == nil:
				t.Errorf("%q was taken", x.Expression)
			case !strings.Contains(out, "expression"):
				t.Errorf("%q: the answer does not name the field: %s", x.Expression, out)
			case at != nil && !strings.Contains(out, "at character "+at[1]+":"):
				t.Errorf("%q: %s; want it at character %s", x.Expression, out, at[1])
			default:
				refused++
			}
		}
	}
	t.Logf("%d expressions refused", refused)
	if refused < 40 {
		t.Errorf("only %d refusals were found", refused)
	}
}
