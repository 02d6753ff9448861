package ratelimiting

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
	"github.com/keyway-edge/keyway/routing/spec"
)

func instance(t *testing.T, config string) policy.Instance {
	t.Helper()
	i, problems := vectortest.Compile(t, Kind(), vectortest.Env(&spec.Document{}), config)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return i
}

// send sends a request at the present time and answers the status, 0 for one that
// passes, and the fields for the client.
func send(access func(*policy.Context) *policy.Reply, change func(c *policy.Context)) (int, string) {
	c := vectortest.NewContext("GET", "/x?q", "")
	c.Now = time.Now()
	if change != nil {
		change(c)
	}
	status := 0
	if reply := access(c); reply != nil {
		status = reply.Status
	}
	var fields []string
	for f := range c.ResponseFields.All() {
		fields = append(fields, strings.NewReplacer("X-RateLimit-", "X-", "RateLimit-", "").Replace(f.Name)+"="+f.Value)
	}
	return status, strings.Join(fields, " ")
}

func TestKongDefaults(t *testing.T) { vectortest.Defaults(t, Kind()) }

func TestExample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock begins at midnight
		doc := vectortest.Example(t, Kind())
		ch := vectortest.FirstChain(t, doc, vectortest.Env(doc), Kind())
		time.Sleep(20 * time.Second)
		for i, want := range []string{
			"0 X-Limit-Minute=2 X-Remaining-Minute=1 X-Limit-Hour=100 X-Remaining-Hour=99 Limit=2 Remaining=1 Reset=40",
			"0 X-Limit-Minute=2 X-Remaining-Minute=0 X-Limit-Hour=100 X-Remaining-Hour=98 Limit=2 Remaining=0 Reset=40",
			"429 X-Limit-Minute=2 X-Remaining-Minute=0 X-Limit-Hour=100 X-Remaining-Hour=98 Limit=2 Remaining=0 Reset=40 Retry-After=40",
		} {
			status, fields := send(ch.Access, nil)
			if got := fmt.Sprint(status, " ", fields); got != want {
				t.Errorf("request %d:\n got %s\nwant %s", i+1, got, want)
			}
		}
		time.Sleep(40 * time.Second)
		if status, fields := send(ch.Access, nil); status != 0 || !strings.HasPrefix(fields, "X-Limit-Minute=2 X-Remaining-Minute=1 X-Limit-Hour=100 X-Remaining-Hour=97 ") {
			t.Errorf("in the next minute: %d %s", status, fields)
		}
	})
}

func TestMessageAndHiding(t *testing.T) {
	i := instance(t, `{"hour":1,"error_code":418,"error_message":"slow","hide_client_headers":true}`)
	if status, fields := send(i.Access, nil); status != 0 || fields != "" {
		t.Errorf("first: %d %s", status, fields)
	}
	c := vectortest.NewContext("GET", "/", "")
	c.Now = time.Now()
	if reply := i.Access(c); reply == nil || reply.Status != 418 || reply.Message != "slow" || c.ResponseFields.Len() != 0 {
		t.Errorf("second: %+v %v", reply, c.ResponseFields)
	}
}

func TestLimitBy(t *testing.T) {
	none := func(*policy.Context) {}
	consumer := func(id, credential string) func(*policy.Context) {
		return func(c *policy.Context) {
			policy.Authenticate(c, &spec.Consumer{Meta: spec.Meta{ID: id}}, &policy.Identity{ID: credential}, false)
		}
	}
	service := func(id string) func(*policy.Context) {
		return func(c *policy.Context) { c.Service = &spec.Service{Meta: spec.Meta{ID: id}} }
	}
	header := func(v string) func(*policy.Context) {
		return func(c *policy.Context) { c.X.Request.Fields.Add("x-id", v) }
	}
	ip := func(a string) func(*policy.Context) {
		return func(c *policy.Context) { c.ClientIP = netip.MustParseAddr(a) }
	}
	path := func(p string) func(*policy.Context) { return func(c *policy.Context) { c.X.Request.Path = p } }
	// Each config lets one request of each client through: of the requests in a row,
	// the last is the first one's client again, the others are all different.
	for config, requests := range map[string][]func(*policy.Context){
		`{"day":1}`:                                          {consumer("1", "a"), consumer("2", "a"), none, ip("::1"), consumer("1", "b")},
		`{"day":1,"limit_by":"credential"}`:                  {consumer("1", "a"), consumer("1", "b"), none, ip("::1"), consumer("2", "a")},
		`{"day":1,"limit_by":"ip"}`:                          {none, ip("1.2.3.4"), ip("1.2.3.5"), ip("2001:db8::1"), consumer("1", "a")},
		`{"day":1,"limit_by":"service"}`:                     {service("s"), service("t"), none, ip("::1"), service("s")},
		`{"day":1,"limit_by":"path","path":"/p"}`:            {path("/p"), none, ip("::1"), path("/p")},
		`{"day":1,"limit_by":"header","header_name":"X-Id"}`: {header("a"), header("b"), header(""), none, ip("::1"), header("a")},
	} {
		i := instance(t, config)
		for n, r := range requests {
			want := 0
			if n == len(requests)-1 {
				want = 429
			}
			if status, _ := send(i.Access, r); status != want {
				t.Errorf("%s, request %d: status %d, want %d", config, n+1, status, want)
			}
		}
	}
}

// TestExact: of many requests at once, exactly the limit pass.
func TestExact(t *testing.T) {
	const clients, each, limit = 8, 5000, 30_000
	i := instance(t, fmt.Sprintf(`{"month":%d,"year":%d}`, limit, 3*limit))
	now := time.Now()
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				c := vectortest.NewContext("GET", "/", "")
				c.Now = now
				if i.Access(c) == nil {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got := passed.Load(); got != limit {
		t.Errorf("%d requests passed, the limit is %d", got, limit)
	}
}

// TestReload: counters outlive the snapshot, under other limits too.
func TestReload(t *testing.T) {
	env := vectortest.Env(&spec.Document{})
	compile := func(config string) policy.Instance {
		i, problems := vectortest.Compile(t, Kind(), env, config)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return i
	}
	i := compile(`{"month":5,"year":10}`)
	for range 3 {
		send(i.Access, nil)
	}
	_, fields := send(compile(`{"day":4,"month":6}`).Access, nil)
	if want := "X-Limit-Day=4 X-Remaining-Day=3 X-Limit-Month=6 X-Remaining-Month=2 Limit=6 Remaining=2 "; !strings.HasPrefix(fields, want) {
		t.Errorf("got %s, want %s", fields, want)
	}
}

func TestConfigErrors(t *testing.T) {
	f := func(config, want string) {
		t.Helper()
		if _, problems := vectortest.Compile(t, Kind(), vectortest.Env(&spec.Document{}), config); !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
	f(`{}`, "at least one of these fields must be non-empty: 'config.second', 'config.minute'")
	f(`{"minute":0}`, "config.minute: value must be greater than 0")
	f(`{"minute":5,"hour":2}`, "config: The limit for hour(2.0) cannot be lower than the limit for minute(5.0)")
	f(`{"minute":5,"policy":"cluster"}`, "config.policy: expected 'local', which counts on each node by itself")
	f(`{"minute":5,"policy":"redis"}`, "config.redis.host: required field missing")
	f(`{"minute":5,"policy":"redis","redis":{"host":"r"}}`, "config.policy: expected 'local'")
	f(`{"minute":5,"limit_by":"header"}`, "config.header_name: required field missing")
	f(`{"minute":5,"limit_by":"path"}`, "config.path: required field missing")
	f(`{"minute":5,"path":"x"}`, "config.path: should start with: /")
	f(`{"minute":5,"limit_by":"x"}`, "config.limit_by: expected one of: consumer, credential, ip, service, header, path")
	f(`{"minute":5,"error_code":600}`, "config.error_code: expected the status of a response")
	// A document that got past the loader is closed all the same.
	env := vectortest.Env(&spec.Document{})
	if _, err := Kind().Compile(env, &spec.Plugin{Config: map[string]any{"minute": 1.0, "policy": "redis"}}); err == nil {
		t.Error("policy redis compiles")
	}
}
