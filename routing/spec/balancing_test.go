package spec

import (
	"strings"
	"testing"
)

// every field of x_keyway_balancing is read, written and read again.
func TestBalancingRoundTrip(t *testing.T) {
	const text = `_format_version: "3.0"
services:
- {name: s, host: u, x_keyway_retry: {on_statuses: [502, 503], try_timeout: 250, hedge_after: 50}}
upstreams:
- name: u
  x_keyway_balancing: {slow_start: 1.5, zone_preference: true, subset: 3, panic_threshold: 40, recover_after: 5, max_connections: 6, max_pending: 7, pending_timeout: 2.5, retry_budget: 8}
  targets:
  - {target: "127.0.0.1:1", x_keyway_zone: eu-1a}
- name: v
`
	doc, problems := Load([]Source{{Name: "a.yaml", Data: []byte(text)}}, Schemas{})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := Balancing{SlowStart: 1.5, ZonePreference: true, Subset: 3, PanicThreshold: 40, RecoverAfter: 5, MaxConnections: 6, MaxPending: 7, PendingTimeout: 2.5, RetryBudget: 8}
	if got := doc.Upstreams[0].Balancing; got == nil || *got != want || doc.Targets[0].Zone != "eu-1a" {
		t.Fatalf("read %+v, %q", got, doc.Targets[0].Zone)
	}
	if r := doc.Services[0].Retry; r == nil || len(r.OnStatuses) != 2 || r.TryTimeout != 250 || r.HedgeAfter != 50 {
		t.Errorf("read %+v", r)
	}
	if doc.Upstreams[1].Balancing != nil {
		t.Error("a record that was not written is there")
	}
	out, err := doc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, problems := Load([]Source{{Name: "b.yaml", Data: out}}, Schemas{})
	if len(problems) > 0 || *again.Upstreams[0].Balancing != want || again.Targets[0].Zone != "eu-1a" {
		t.Errorf("written and read again: %v\n%s", problems, out)
	}
	_, problems = Load([]Source{{Name: "c.yaml", Data: []byte(strings.ReplaceAll(text, "40", "140"))}}, Schemas{})
	if len(problems) != 1 || problems[0].Field != "x_keyway_balancing.panic_threshold" {
		t.Errorf("problems %v", problems)
	}
}
