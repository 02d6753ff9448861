package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// traces is a kind whose instances write "<phase> <config.as>" into an
// X-Trace line, and which counts how often it was compiled.
func traces(name string, compiled *int) Kind {
	return Kind{
		Schema:        spec.PluginSchema{Name: name},
		Authenticates: name == "key-auth",
		Compile: func(env *Env, p *spec.Plugin) (Instance, error) {
			*compiled++
			if env.Directory != nil {
				return Instance{}, errors.New("an instance could hold on to the directory")
			}
			as := fmt.Sprint(p.Config["as"])
			if text, ok := p.Config["secret"].(string); ok {
				v, err := env.Secret(text)
				if err != nil {
					return Instance{}, err
				}
				as += fmt.Sprintf("(%d)", len(v.Reveal()))
			}
			switch as {
			case "broken":
				return Instance{}, errors.New("config.as: expected anything but broken")
			case "panics":
				panic("no")
			}
			note := func(phase string) func(*Context) {
				return func(c *Context) { c.ResponseFields.Add("X-Trace", phase+" "+as) }
			}
			return Instance{
				Rewrite: note("rewrite"), Header: note("header"), Log: note("log"),
				Access: func(c *Context) *Reply {
					note("access")(c)
					if who, ok := p.Config["login"].(string); ok {
						Authenticate(c, c.Directory.Consumer(who), &Identity{Plugin: name, ID: "cred"}, false)
					}
					if p.Config["exit"] == true {
						return ErrorReply(418, "")
					}
					return nil
				},
			}, nil
		},
	}
}

type world struct {
	kinds    []Kind
	env      *Env
	compiled int
	doc      *spec.Document
}

func newWorld(plugins ...*spec.Plugin) *world {
	w := &world{doc: &spec.Document{Plugins: plugins, Consumers: []*spec.Consumer{
		{Meta: spec.Meta{ID: "ann"}, Username: "ann", Groups: []string{"g2", "g1"}}, {Meta: spec.Meta{ID: "bea"}, Username: "bea", Groups: []string{"g3"}},
	}, ConsumerGroups: []*spec.ConsumerGroup{{Meta: spec.Meta{ID: "g2"}, Name: "beta"}, {Meta: spec.Meta{ID: "g1"}, Name: "gamma"}, {Meta: spec.Meta{ID: "g3"}, Name: "alpha"}}}}
	for _, name := range []string{"cors", "key-auth", "acl", "rate-limiting", "prometheus"} {
		w.kinds = append(w.kinds, traces(name, &w.compiled))
	}
	w.env = &Env{Directory: NewDirectory(w.doc, nil), Secret: func(text string) (secrets.Value, error) {
		return secrets.NewValue([]byte(text)), nil
	}}
	return w
}

func (w *world) compile(prev *Compiler) *Compiler {
	return NewCompiler(prev, w.kinds, w.env, w.doc)
}

// plugin makes a plugin entity from its scope, such as "route=r consumer=ann".
func plugin(name, as, scope string) *spec.Plugin {
	p := &spec.Plugin{Name: name, Enabled: true, Config: map[string]any{"as": as}}
	p.ID = name + " " + scope
	for part := range strings.FieldsSeq(scope) {
		k, v, _ := strings.Cut(part, "=")
		switch k {
		case "route":
			p.Route = v
		case "service":
			p.Service = v
		case "consumer":
			p.Consumer = v
		case "group":
			p.ConsumerGroup = v
		case "before":
			ordering(p).Before = strings.Split(v, ",")
		case "after":
			ordering(p).After = strings.Split(v, ",")
		case "protocols":
			p.Protocols = strings.Split(v, ",")
		case "login":
			p.Config["login"] = v
		case "exit":
			p.Config["exit"] = true
		}
	}
	return p
}

func ordering(p *spec.Plugin) *spec.Ordering {
	if p.Ordering == nil {
		p.Ordering = &spec.Ordering{}
	}
	return p.Ordering
}

func request(scheme string) *Context {
	return &Context{X: &exchange.Exchange{Request: exchange.Request{Scheme: scheme, Path: "/"}}}
}

// run sends a request through all phases and answers what ran.
func run(ch *Chain, c *Context) string {
	ch.Rewrite(c)
	ch.Access(c)
	ch.Header(c)
	ch.Log(c)
	var out []string
	for v := range c.ResponseFields.Values("X-Trace") {
		out = append(out, v)
	}
	return strings.Join(out, ", ")
}

var (
	routeR   = &spec.Route{Meta: spec.Meta{ID: "r"}, Protocols: []string{"http", "https"}}
	serviceS = &spec.Service{Meta: spec.Meta{ID: "s"}}
)

func TestChainPrecedence(t *testing.T) {
	levels := []string{
		"", "service=s", "route=r", "group=g1", "group=g2", "consumer=ann", "route=r service=s", "service=s group=g1", "service=s group=g2",
		"route=r group=g1", "route=r group=g2", "service=s consumer=ann", "route=r consumer=ann", "route=r service=s group=g1",
		"route=r service=s group=g2", "route=r service=s consumer=ann",
	}
	for n := range levels {
		plugins := []*spec.Plugin{plugin("key-auth", "login", "login=ann")}
		for _, scope := range levels[:n+1] {
			plugins = append(plugins, plugin("acl", "<"+scope+">", scope))
		}
		// Distractors: as specific as can be, and about somebody else.
		plugins = append(plugins, plugin("acl", "wrong", "route=x service=s consumer=ann"), plugin("acl", "wrong", "route=r consumer=bea"),
			plugin("acl", "wrong", "service=x"), plugin("acl", "wrong", "route=r service=s group=g3"))
		c := request("http")
		newWorld(plugins...).compile(nil).Chain(routeR, serviceS).Access(c)
		got, want := c.ResponseFields.At(1).Value, "access <"+levels[n]+">"
		if got != want {
			t.Errorf("with the levels up to %q: got %q, want %q", levels[n], got, want)
		}
	}
}

func TestChainOrderAndPhases(t *testing.T) {
	w := newWorld(plugin("prometheus", "p", ""), plugin("rate-limiting", "l", "route=r"), plugin("cors", "c", "service=s"))
	w.doc.Plugins = append(w.doc.Plugins, plugin("acl", "off", ""))
	w.doc.Plugins[3].Enabled = false
	c := w.compile(nil)
	f := func(ch *Chain, want string) {
		t.Helper()
		if got := run(ch, request("http")); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	f(c.Chain(routeR, serviceS), "rewrite p, access c, access l, access p, header c, header l, header p, log c, log l, log p")
	f(c.Chain(routeR, nil), "rewrite p, access l, access p, header l, header p, log l, log p")
	f(c.Chain(nil, nil), "rewrite p, access p, header p, log p")
	want := []Step{{"cors", "cors service=s", "service"}, {"rate-limiting", "rate-limiting route=r", "route"}, {"prometheus", "prometheus ", "global"}}
	if got := c.Chain(routeR, serviceS).Names(false); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Names: got %v, want %v", got, want)
	}
}

func TestChainWithoutAccessRunsGlobalsOnly(t *testing.T) {
	ch := newWorld(plugin("prometheus", "p", ""), plugin("acl", "a", "route=r"), plugin("cors", "c", "consumer=ann")).compile(nil).Chain(routeR, nil)
	c := request("http")
	ch.Header(c)
	ch.Log(c)
	if c.ResponseFields.Len() != 2 || c.ResponseFields.At(0).Value != "header p" || c.ResponseFields.At(1).Value != "log p" {
		t.Errorf("got %v", c.ResponseFields)
	}
}

func TestChainConsumerVariants(t *testing.T) {
	w := newWorld(
		plugin("cors", "all", ""), plugin("cors", "ann", "consumer=ann"),
		plugin("key-auth", "login", "login=ann"),
		plugin("acl", "bea", "consumer=bea"),
		plugin("rate-limiting", "all", ""), plugin("rate-limiting", "ann", "consumer=ann"),
	)
	ch := w.compile(nil).Chain(routeR, serviceS)
	// cors runs before the consumer is known, and goes on as what it began as; acl has
	// nothing to say to ann.
	want := "rewrite all, rewrite login, rewrite all, access all, access login, access ann, header all, header login, header ann, log all, log login, log ann"
	if got := run(ch, request("http")); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := len(ch.NamesFor(w.env.Directory.Consumer("bea"), false)); got != 4 {
		t.Errorf("NamesFor(bea) has %d steps, want 4", got)
	}
}

func TestChainExit(t *testing.T) {
	const want = "rewrite p, rewrite x, access a, access p, header a, header p, header x, log a, log p, log x"
	f := func(extra ...*spec.Plugin) {
		t.Helper()
		p := append([]*spec.Plugin{plugin("acl", "a", "route=r"), plugin("rate-limiting", "p", "exit"), plugin("prometheus", "x", "")}, extra...)
		if got := run(newWorld(p...).compile(nil).Chain(routeR, nil), request("http")); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	f()
	f(plugin("prometheus", "never", "consumer=ann"))
}

func TestChainProtocols(t *testing.T) {
	w := newWorld(plugin("acl", "tls", "route=r protocols=https,grpcs"), plugin("acl", "any", ""), plugin("cors", "rpc", "protocols=grpc"))
	c := w.compile(nil)
	f := func(ch *Chain, scheme, want string) {
		t.Helper()
		x := request(scheme)
		ch.Access(x)
		got := ""
		for v := range x.ResponseFields.Values("X-Trace") {
			got += v + ";"
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", scheme, got, want)
		}
	}
	grpc := &spec.Route{Meta: spec.Meta{ID: "g"}, Protocols: []string{"grpc", "grpcs"}}
	f(c.Chain(routeR, nil), "http", "access any;")
	f(c.Chain(routeR, nil), "https", "access tls;")
	f(c.Chain(grpc, nil), "http", "access rpc;access any;")
	f(c.Chain(grpc, nil), "https", "access any;")
}

func TestChainQuarantine(t *testing.T) {
	other := &spec.Route{Meta: spec.Meta{ID: "other"}}
	for _, bad := range []*spec.Plugin{plugin("acl", "broken", "route=r"), plugin("acl", "panics", "route=r"), plugin("nosuch", "x", "route=r")} {
		c := newWorld(bad, plugin("cors", "c", "")).compile(nil)
		ch := c.Chain(routeR, nil)
		if p := ch.Closed(); p == nil || p.ID != bad.ID || len(c.Problems()) != 1 || c.Problems()[0] != p {
			t.Errorf("%v: Closed() = %v, Problems() = %v", bad.Config, ch.Closed(), c.Problems())
		}
		if reply := ch.Access(request("http")); reply == nil || reply.Status != 503 {
			t.Errorf("%v: Access answered %v, want 503", bad.Config, reply)
		}
		if ch := c.Chain(other, nil); ch.Closed() != nil || ch.Access(request("http")) != nil {
			t.Errorf("%v: a route that it does not serve is closed", bad.Config)
		}
	}
	// A plugin for one consumer closes the routes to that consumer alone.
	w := newWorld(plugin("key-auth", "login", "login=ann"), plugin("acl", "broken", "consumer=ann"))
	ch := w.compile(nil).Chain(routeR, nil)
	if reply := ch.Access(request("http")); ch.Closed() != nil || reply == nil || reply.Status != 503 {
		t.Errorf("for ann: closed %v, answered %v", ch.Closed(), reply)
	}
	w.doc.Plugins[0].Config["login"] = "bea"
	if reply := w.compile(nil).Chain(routeR, nil).Access(request("http")); reply != nil {
		t.Errorf("for bea: answered %v", reply)
	}
}

func TestCompilerSecretMissing(t *testing.T) {
	w := newWorld(plugin("acl", "a", ""))
	w.doc.Plugins[0].Config["secret"] = "{vault://env/x}"
	w.env.Secret = func(string) (secrets.Value, error) { return secrets.Value{}, errors.New("it was never fetched") }
	c := w.compile(nil)
	if p := c.Chain(routeR, nil).Closed(); p == nil || p.Reason != spec.ReasonCredential || !strings.Contains(p.Message, "never fetched") {
		t.Fatalf("Closed() = %v", p)
	}
	w.env.Secret = func(string) (secrets.Value, error) { return secrets.NewValue([]byte("v")), nil }
	if p := w.compile(c).Chain(routeR, nil).Closed(); p != nil {
		t.Fatalf("still closed when the value is there: %v", p)
	}
}

func TestCompilerKeepsWhatDidNotChange(t *testing.T) {
	w := newWorld(plugin("acl", "a", ""), plugin("cors", "c", ""), plugin("rate-limiting", "l", "route=r"))
	w.doc.Plugins[1].Config["secret"] = "{vault://env/x}"
	first := w.compile(nil)
	step := func(what string, want int) {
		t.Helper()
		before := w.compiled
		first = w.compile(first)
		if got := w.compiled - before; got != want {
			t.Errorf("%s: compiled %d plugins, want %d", what, got, want)
		}
	}
	step("nothing changed", 0)
	again := *w.doc.Plugins[0]
	again.Config, again.UpdatedAt = map[string]any{"as": "a"}, 7
	w.doc.Plugins[0] = &again
	step("an equal entity", 0)
	other := again
	other.Config = map[string]any{"as": "b"}
	w.doc.Plugins[0] = &other
	step("another config", 1)
	w.env.Secret = func(string) (secrets.Value, error) { return secrets.NewValue([]byte("new")), nil }
	step("another secret", 1)
	w.env.Directory = NewDirectory(w.doc, nil)
	step("another directory", 0)
	c := request("http")
	if first.Chain(routeR, nil).Access(c); c.Directory != w.env.Directory {
		t.Error("a kept instance sees the consumers of an old snapshot")
	}
}

func TestChainsAreShared(t *testing.T) {
	w := newWorld(plugin("acl", "a", ""), plugin("cors", "c", "service=s"), plugin("rate-limiting", "l", "route=r"))
	c := w.compile(nil)
	plain1, plain2 := &spec.Route{Meta: spec.Meta{ID: "1"}}, &spec.Route{Meta: spec.Meta{ID: "2"}}
	if c.Chain(plain1, nil) != c.Chain(plain2, &spec.Service{}) || c.Chain(plain1, serviceS) != c.Chain(plain2, serviceS) {
		t.Error("routes without plugins of their own do not share their chain")
	}
	if c.Chain(plain1, nil) == c.Chain(plain1, serviceS) || c.Chain(plain1, nil) == c.Chain(routeR, nil) {
		t.Error("different chains are shared")
	}
}

func BenchmarkCompile10kRoutes(b *testing.B) {
	w := newWorld(plugin("acl", "a", ""), plugin("cors", "c", "service=s"))
	routes := make([]*spec.Route, 10_000)
	for i := range routes {
		routes[i] = &spec.Route{Meta: spec.Meta{ID: fmt.Sprint("route", i)}}
		if i%2 == 0 {
			w.doc.Plugins = append(w.doc.Plugins, plugin("rate-limiting", "l", "route="+routes[i].ID))
		}
	}
	prev := w.compile(nil)
	for b.Loop() {
		c := w.compile(prev)
		for _, r := range routes {
			c.Chain(r, serviceS)
		}
		prev = c
	}
}
