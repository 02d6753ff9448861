package edge

import (
	"strings"
	"testing"
)

// TestRequestIDs: 32 lower-case hex digits, never the same twice.
func TestRequestIDs(t *testing.T) {
	var ids requestIDs
	seen := map[string]bool{}
	for i := range 1000 {
		id := ids.next(1 + i%fewIDs)
		if len(id) != 32 || strings.Trim(id, hexDigits) != "" || seen[id] {
			t.Fatalf("%q is not a new id", id)
		}
		seen[id] = true
	}
}
