package vectortest

import (
	"testing"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/acl"
	"github.com/keyway-edge/keyway/policy/cors"
	"github.com/keyway-edge/keyway/policy/iprestriction"
	"github.com/keyway-edge/keyway/policy/keyauth"
	"github.com/keyway-edge/keyway/policy/ratelimiting"
)

// TestKongVectorsChains replays recordings of plugins that work together.
func TestKongVectorsChains(t *testing.T) {
	kinds := []policy.Kind{keyauth.Kind(), acl.Kind(), ratelimiting.Kind(), cors.Kind(), iprestriction.Kind()}
	for _, name := range []string{"key-auth", "acl", "rate-limiting", "cors", "ip-restriction"} {
		t.Run(name, func(t *testing.T) { Replay(t, OpenChains(t, name, kinds...)) })
	}
}
