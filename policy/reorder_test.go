package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// accessed is what Access runs for a request, in order.
func accessed(ch *Chain, scheme string) string {
	c := request(scheme)
	ch.Access(c)
	var out []string
	for v := range c.ResponseFields.Values("X-Trace") {
		out = append(out, strings.TrimPrefix(v, "access "))
	}
	return strings.Join(out, " ")
}

func TestOrderings(t *testing.T) {
	all := func(of ...*spec.Plugin) []*spec.Plugin {
		for _, name := range []string{"cors", "key-auth", "acl", "rate-limiting", "prometheus"} {
			has := false
			for _, p := range of {
				has = has || p.Name == name
			}
			if !has {
				of = append(of, plugin(name, name, ""))
			}
		}
		return of
	}
	f := func(want string, of ...*spec.Plugin) {
		t.Helper()
		c := newWorld(of...).compile(nil)
		if got := accessed(c.Chain(routeR, serviceS), "http"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if p := c.Problems(); len(p) > 0 {
			t.Errorf("%s: problems: %v", want, p)
		}
	}
	f("cors key-auth acl rate-limiting prometheus", all()...)
	f("cors l key-auth acl prometheus", all(plugin("rate-limiting", "l", "before=key-auth"))...)
	f("cors rate-limiting k acl prometheus", all(plugin("key-auth", "k", "after=rate-limiting"))...)
	f("rate-limiting c key-auth acl prometheus", all(plugin("cors", "c", "after=rate-limiting"))...)
	// What has to be before goes on bringing what has to be before itself.
	f("cors p l key-auth acl", all(plugin("rate-limiting", "l", "before=key-auth"), plugin("prometheus", "p", "before=rate-limiting"))...)
	f("cors acl p l key-auth", all(plugin("rate-limiting", "l", "before=key-auth after=acl,prometheus"), plugin("prometheus", "p", ""))...)
	f("p cors l key-auth acl", all(plugin("rate-limiting", "l", "before=key-auth"), plugin("prometheus", "p", "before=cors,key-auth"))...)
	// An ordering that says what is so anyway, and ones about plugins that are not here.
	f("cors k acl rate-limiting prometheus", all(plugin("key-auth", "k", "before=acl after=cors"))...)
	f("k l", plugin("key-auth", "k", ""), plugin("rate-limiting", "l", "before=acl,cors after=prometheus"))
}

// TestOrderingsAreOfTheChain has orderings of plugins that do not run for a route, or not for
// one of its protocols, say nothing there.
func TestOrderingsAreOfTheChain(t *testing.T) {
	c := newWorld(plugin("key-auth", "k", ""), plugin("rate-limiting", "all", ""), plugin("rate-limiting", "own", "route=r before=key-auth"),
		plugin("acl", "a", "before=key-auth protocols=https")).compile(nil)
	f := func(ch *Chain, scheme, want string) {
		t.Helper()
		if got := accessed(ch, scheme); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	other := &spec.Route{Meta: spec.Meta{ID: "other"}, Protocols: []string{"http", "https"}}
	f(c.Chain(routeR, nil), "http", "own k")
	f(c.Chain(routeR, nil), "https", "a own k")
	f(c.Chain(other, nil), "http", "k all")
	f(c.Chain(other, nil), "https", "a k all")
	if p := c.Problems(); len(p) > 0 {
		t.Error(p)
	}
}

// TestOrderingsAreOfAccessAlone holds the other phases to the fixed order, also where the
// plugins are picked for each request.
func TestOrderingsAreOfAccessAlone(t *testing.T) {
	const rest = ", header k, header a, header l, log k, log a, log l"
	w := newWorld(plugin("key-auth", "k", "login=ann"), plugin("acl", "a", ""), plugin("rate-limiting", "l", "before=key-auth"))
	if got, want := run(w.compile(nil).Chain(routeR, nil), request("http")), "rewrite k, rewrite a, rewrite l, access l, access k, access a"+rest; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	w = newWorld(plugin("key-auth", "k", "login=ann"), plugin("acl", "all", ""), plugin("acl", "a", "consumer=ann"), plugin("cors", "bea", "consumer=bea"),
		plugin("rate-limiting", "l", "before=key-auth"))
	c := w.compile(nil)
	x := request("http")
	for range 2 { // a Context is used again
		if got, want := run(c.Chain(routeR, nil), x), "rewrite k, rewrite all, rewrite l, access l, access k, access a"+rest; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		again := request("http").X
		x.Reset()
		x.X = again
	}
	if p := c.Problems(); len(p) > 0 {
		t.Error(p)
	}
	want := []Step{{"rate-limiting", "rate-limiting before=key-auth", "global"}, {"key-auth", "key-auth login=ann", "global"}, {"acl", "acl ", "global"}}
	if got := c.Chain(routeR, nil).Names(false); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Names: got %v, want %v", got, want)
	}
}

func TestOrderingsThatContradict(t *testing.T) {
	other := &spec.Route{Meta: spec.Meta{ID: "other"}, Protocols: []string{"http", "https"}}
	// No plugin of the circle authenticates: all run in their fixed order.
	c := newWorld(plugin("cors", "c", "after=rate-limiting"), plugin("key-auth", "k", ""), plugin("acl", "a", "after=cors"),
		plugin("rate-limiting", "l", "after=acl"), plugin("prometheus", "p", "before=key-auth")).compile(nil)
	for _, ch := range []*Chain{c.Chain(routeR, nil), c.Chain(other, serviceS)} {
		if got := accessed(ch, "http"); got != "c k a l p" || ch.Closed() != nil {
			t.Errorf("got %s, closed %v", got, ch.Closed())
		}
	}
	p := c.Problems()
	if len(p) != 1 || p[0].ID != "cors after=rate-limiting" || p[0].Field != "ordering" ||
		!strings.Contains(p[0].Message, "they say cors after rate-limiting after acl after cors; all plugins run in their fixed order there") {
		t.Errorf("Problems() = %v", p)
	}
	// One does: nothing is served, where the circle is.
	c = newWorld(plugin("key-auth", "k", "before=acl"), plugin("acl", "a", "route=r before=rate-limiting"), plugin("rate-limiting", "l", "before=key-auth")).compile(nil)
	ch := c.Chain(routeR, nil)
	if p := c.Problems(); len(p) != 1 || ch.Closed() == nil || ch.Closed().Field != "ordering" ||
		!strings.Contains(p[0].Message, "they say key-auth after rate-limiting after acl after key-auth; what they serve answers 503") {
		t.Errorf("Closed() = %v, Problems() = %v", ch.Closed(), p)
	}
	ch = c.Chain(other, nil)
	if got := accessed(ch, "http"); got != "l k" || ch.Closed() != nil || len(c.Problems()) != 1 {
		t.Errorf("beside it: got %s, closed %v, problems %v", got, ch.Closed(), c.Problems())
	}
}

// TestOrderingsKeepConsumers has no ordering put a plugin for one consumer or group before
// what finds the consumer, where it would run for nobody.
func TestOrderingsKeepConsumers(t *testing.T) {
	f := func(want string, problems int, of ...*spec.Plugin) {
		t.Helper()
		of = append(of, plugin("rate-limiting", "l", "before=key-auth"))
		c := newWorld(of...).compile(nil)
		ch := c.Chain(routeR, nil)
		if got := accessed(ch, "http"); got != want || ch.Closed() != nil {
			t.Errorf("got %s, closed %v; want %s", got, ch.Closed(), want)
		}
		p := c.Problems()
		if len(p) != problems || problems > 0 && (p[0].ID != "rate-limiting before=key-auth" || !strings.Contains(p[0].Message, " is a rate-limiting for one consumer or group")) {
			t.Errorf("Problems() = %v", p)
		}
	}
	login := plugin("key-auth", "k", "login=ann")
	f("k ann", 1, login, plugin("rate-limiting", "ann", "consumer=ann"))
	f("k ann", 1, login, plugin("rate-limiting", "ann", "route=r group=g1"))
	f("l k", 0, login, plugin("rate-limiting", "ann", "route=elsewhere consumer=ann"))
	f("l k ann", 0, login, plugin("acl", "ann", "consumer=ann"))
	// cors runs before key-auth as it is: no ordering takes anything from it.
	f("l k", 0, login, plugin("cors", "ann", "consumer=ann"))
}

// TestOrderingsAreCompiledAgain has a change of an ordering alone be one.
func TestOrderingsAreCompiledAgain(t *testing.T) {
	w := newWorld(plugin("key-auth", "k", ""), plugin("rate-limiting", "l", ""))
	first := w.compile(nil)
	changed := *w.doc.Plugins[1]
	changed.Ordering = &spec.Ordering{Before: []string{"key-auth"}}
	w.doc.Plugins[1] = &changed
	second := w.compile(first)
	if got := accessed(second.Chain(routeR, nil), "http"); got != "l k" {
		t.Errorf("after the change: %s", got)
	}
	if got := accessed(w.compile(second).Chain(routeR, nil), "http"); got != "l k" || w.compiled != 3 {
		t.Errorf("after no change: %s, compiled %d times", got, w.compiled)
	}
}

func TestOrderingsCostNothing(t *testing.T) {
	w := newWorld(plugin("key-auth", "k", ""), plugin("acl", "a", ""), plugin("rate-limiting", "l", "before=key-auth"))
	plain := w.compile(nil).Chain(routeR, nil)
	w.doc.Plugins[2].Ordering = nil
	if moved, fixed := plain.walks[0], w.compile(nil).Chain(routeR, nil).walks[0]; moved.scoped || len(moved.access) != len(fixed.access) {
		t.Errorf("an ordered chain has %d functions and is picked for each request: %v", len(moved.access), moved.scoped)
	}
}
