package vectortest

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// ChainCase is one recorded request to be sent through the chain of its route.
type ChainCase struct {
	*Case
	Chain *policy.Chain

	credentials map[string]string // by what they are called here: recorded ids are random
}

// Env is what plugins of a test may use: no reference has a value, and what is
// shared is shared within this Env.
func Env(doc *spec.Document) *policy.Env {
	var shared sync.Map
	return &policy.Env{
		Directory: policy.NewDirectory(doc, nil),
		Secret:    func(text string) (secrets.Value, error) { return secrets.NewValue([]byte(text)), nil },
		Shared: func(key string, make func() any) any {
			v, _ := shared.LoadOrStore(key, make())
			return v
		},
		Log: slog.New(slog.DiscardHandler),
	}
}

// LoadAll decodes a document that uses several plugins and fails the test on any problem.
func LoadAll(t testing.TB, kinds []policy.Kind, text string) *spec.Document {
	t.Helper()
	schemas := spec.Schemas{}
	for _, k := range kinds {
		schemas[k.Schema.Name] = k.Schema
	}
	doc, problems := spec.Load([]spec.Source{{Name: "test.yaml", Data: []byte(text)}}, schemas)
	if len(problems) > 0 {
		t.Fatalf("loading the document: %v", problems)
	}
	return doc
}

// ChainOf is the chain of the first route in a document.
func ChainOf(t testing.TB, text string, kinds ...policy.Kind) *policy.Chain {
	t.Helper()
	doc := LoadAll(t, kinds, text)
	return FirstChain(t, doc, Env(doc), kinds...)
}

// FirstChain is the chain of the first route of doc, in an Env of the caller's.
func FirstChain(t testing.TB, doc *spec.Document, env *policy.Env, kinds ...policy.Kind) *policy.Chain {
	t.Helper()
	compiler := policy.NewCompiler(nil, kinds, env, doc)
	if p := compiler.Problems(); len(p) > 0 {
		t.Fatal(p)
	}
	route := doc.Routes[0]
	for _, s := range doc.Services {
		if s.ID == route.Service {
			return compiler.Chain(route, s)
		}
	}
	return compiler.Chain(route, nil)
}

// OpenChains reads the recordings called name and compiles the chains that they
// were made with, of the plugins kinds. Folder and skipping are those of Open.
func OpenChains(t *testing.T, name string, kinds ...policy.Kind) []*ChainCase {
	t.Helper()
	f := readFile(t, name)
	drop := func(list, field string) {
		items, _ := f.Config[list].([]any)
		f.Config[list] = slices.DeleteFunc(items, func(x any) bool { return x.(map[string]any)[field] == "__ready" })
	}
	drop("routes", "name")
	drop("plugins", "route")
	consumers, _ := f.Config["consumers"].([]any)
	for _, c := range consumers { // credentials of kinds that are not there yet
		maps.DeleteFunc(c.(map[string]any), func(k string, _ any) bool { return k == "basicauth_credentials" || k == "hmacauth_credentials" })
	}
	data, err := json.Marshal(f.Config)
	if err != nil {
		t.Fatal(err)
	}
	doc := LoadAll(t, kinds, string(data))
	compiler := policy.NewCompiler(nil, kinds, Env(doc), doc)
	if p := compiler.Problems(); len(p) > 0 {
		t.Fatal(p)
	}
	routes, services := map[string]*spec.Route{}, map[string]*spec.Service{}
	for _, r := range doc.Routes {
		routes[r.Hosts[0]] = r
	}
	for _, s := range doc.Services {
		services[s.ID] = s
	}
	var cases []*ChainCase
	credentials := map[string]string{}
	for _, group := range f.Cases {
		for _, step := range group.Steps {
			host := header(step.Request, "Host")
			route := routes[host]
			if route == nil {
				t.Fatalf("group %d: no route for host %q", group.Group, host)
			}
			for i, h := range step.Request.Headers { // the engines take white space off
				step.Request.Headers[i][1] = strings.Trim(h[1], " \t")
			}
			c := &Case{
				Group: group.Group, Host: host, C: contextOf(step.Request, route, services[route.Service]),
				request: step.Request, response: step.Expect.Response, upstream: step.Expect.Upstream,
			}
			cases = append(cases, &ChainCase{Case: c, Chain: compiler.Chain(route, c.C.Service), credentials: credentials})
		}
	}
	return cases
}

func readFile(t *testing.T, name string) *file {
	t.Helper()
	f := new(file)
	if err := json.Unmarshal(read(t, filepath.Join("plugins", name+".json")), f); err != nil {
		t.Fatal(err)
	}
	return f
}

// Replay runs every case in order and reports each that differs from its recording.
func Replay(t *testing.T, cases []*ChainCase) {
	t.Helper()
	passed := 0
	for _, c := range cases {
		if err := c.run(t); err != nil {
			t.Errorf("group %d, %s %s to %s: %v", c.Group, c.request.Method, c.request.Target, c.Host, err)
			continue
		}
		passed++
	}
	t.Logf("%d of %d recorded cases pass", passed, len(cases))
}

func (c *ChainCase) run(t *testing.T) error {
	t.Helper()
	x := c.C
	c.Chain.Rewrite(x)
	reply := c.Chain.Access(x)
	switch {
	case reply != nil && c.Contacted():
		return fmt.Errorf("answered %d %q, want it passed on", reply.Status, reply.Message)
	case reply != nil:
		x.LocalReply = reply
		c.Reply(reply)
	case !c.Contacted():
		return fmt.Errorf("passed on, want status %d", c.response.Status)
	default:
		if err := c.credential(); err != nil {
			return err
		}
		if err := c.CompareUpstream(t); err != nil {
			return fmt.Errorf("upstream: %w", err)
		}
		c.Respond()
	}
	for f := range x.ResponseFields.All() {
		x.X.Response.Fields.Set(f.Name, f.Value)
	}
	c.Chain.Header(x)
	if err := c.unmask(); err != nil {
		return err
	}
	return c.CompareResponse(t)
}

// credential checks that a recorded credential is always the same one here, and
// gives it its recorded id.
func (c *ChainCase) credential() error {
	const name = "X-Credential-Identifier"
	f := &c.C.X.Request.Fields
	got, want := f.Get(name), header(*c.upstream, name)
	if got == "" || want == "" {
		return nil // CompareUpstream tells
	}
	if before, known := c.credentials[got]; known && before != want {
		return fmt.Errorf("credential %s was %s before and is %s now", got, before, want)
	}
	c.credentials[got] = want
	f.Set(name, want)
	return nil
}

// unmask checks that what is recorded as <n> is a number.
func (c *ChainCase) unmask() error {
	f := &c.C.X.Response.Fields
	for _, h := range c.response.Headers {
		if got, ok := f.Lookup(h[0]); ok && h[1] == "<n>" {
			if n, err := strconv.Atoi(got); err != nil || n < 0 {
				return fmt.Errorf("%s is %q, want a number", h[0], got)
			}
			f.Set(h[0], "<n>")
		}
	}
	return nil
}
