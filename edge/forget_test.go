package edge

import (
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/keyway-edge/keyway/secrets"
)

// TestBuildForgetsSnapshots swaps a secret many times: what was built before is let
// go, plugins that are taken over notwithstanding.
func TestBuildForgetsSnapshots(t *testing.T) {
	b := newBuilder(t, &Config{})
	doc := load(t, what("{vault://env/NEEDED}"))
	set := func(version int) *secrets.Set {
		return secrets.NewSet(uint64(version), credential(t, "{vault://env/NEEDED}", "right", 1), credential(t, "{vault://env/OTHER}", "other", version))
	}
	first, _ := construct(b, nil, doc, set(1))
	old := weak.Make(first)
	last := first
	first = nil
	for i := range 3 {
		last, _ = construct(b, last, doc, set(i+2))
	}
	for range 20 {
		if runtime.GC(); old.Value() == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if old.Value() != nil {
		t.Error("the first snapshot is held by the fourth")
	}
	runtime.KeepAlive(last)
}
