package vectortest

import (
	"testing"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/keyauth"
	"github.com/keyway-edge/keyway/policy/ratelimiting"
)

const guarded = `
_format_version: "3.0"
services: [{name: s, url: "http://a.test", routes: [{name: r, paths: [/]}]}]
plugins:
- {name: key-auth}
- {name: rate-limiting, config: {minute: 1000000000}}
consumers: [{username: ann, custom_id: "7", keyauth_credentials: [{key: key-of-ann}]}]
`

// guardedRequest answers a function that sends one request through key-auth and
// rate-limiting, as the edge does: with one Context, used again and again.
func guardedRequest(tb testing.TB) func() {
	chain := ChainOf(tb, guarded, keyauth.Kind(), ratelimiting.Kind())
	first := NewContext("GET", "/x", "a.test")
	c := new(policy.Context)
	return func() {
		x := first.X
		x.Request.Fields.Reset()
		x.Request.Fields.Add("apikey", "key-of-ann")
		c.Reset()
		c.X, c.Now, c.ClientIP = x, first.Now, first.ClientIP
		chain.Rewrite(c)
		if reply := chain.Access(c); reply != nil || c.Consumer == nil {
			tb.Fatalf("answered %v, consumer %v", reply, c.Consumer)
		}
		chain.Header(c)
		chain.Log(c)
	}
}

// TestAccessAllocations holds what the usual pair of plugins may cost: the text of
// the counts, which are different in each response.
func TestAccessAllocations(t *testing.T) {
	request := guardedRequest(t)
	request() // makes the counter, and room in the Context
	if got := testing.AllocsPerRun(1000, request); got > 2 {
		t.Errorf("key-auth and rate-limiting allocate %v times for a request, want at most 2", got)
	}
}

func BenchmarkGuardedRequest(b *testing.B) {
	request := guardedRequest(b)
	b.ReportAllocs()
	for b.Loop() {
		request()
	}
}
