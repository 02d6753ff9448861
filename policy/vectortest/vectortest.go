// Package vectortest replays recorded cases of one plugin on its compiled
// functions: it builds the Context that the recorded request would have led to
// and tells the cases apart from what only a whole gateway can show.
package vectortest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http/httputil"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing/spec"
)

// RequestID stands for the request id of every replayed request; recordings show <id>.
const RequestID = "0123456789abcdef0123456789abcdef"

// message is one recorded message.
type message struct {
	Method  string
	Target  string
	Status  int
	Headers [][2]string
	Body    *string
	Backend *message `json:"backend_response"`
}

// Case is one recorded request with what came of it.
type Case struct {
	Group    int
	Host     string
	Instance policy.Instance
	C        *policy.Context // made from the recorded request

	request, response message
	upstream          *message
	maskBody          func(string) string
}

// Recording is the recorded cases of one plugin.
type Recording struct {
	Cases []*Case
}

type file struct {
	Config map[string]any
	Cases  []struct {
		Group int
		Steps []struct {
			Request message
			Expect  struct {
				Response message
				Upstream *message
			}
		}
	}
}

// read is a file of the recordings. Their folder is that of KEYWAY_VECTORS or the
// project's copy; the test is skipped without one, unless KEYWAY_REQUIRE is "all".
func read(t *testing.T, name string) []byte {
	t.Helper()
	dir := os.Getenv("KEYWAY_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "integration", "vectors", "kong")
	}
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		if os.Getenv("KEYWAY_REQUIRE") == "all" {
			t.Fatal(err)
		}
		t.Skipf("no recordings: %v", err)
	}
	return raw
}

// Defaults checks that the plugin's schema fills a config as it was recorded, if it was.
func Defaults(t *testing.T, kind policy.Kind) {
	t.Helper()
	var f struct {
		Plugins map[string]struct {
			ConfigIn map[string]any `json:"config_in"`
			Plugin   struct {
				Config map[string]any
			}
		}
	}
	if err := json.Unmarshal(read(t, filepath.Join("defaults", "plugins.json")), &f); err != nil {
		t.Fatal(err)
	}
	want, ok := f.Plugins[kind.Schema.Name]
	if !ok {
		t.Logf("these recordings hold no defaults of %s", kind.Schema.Name) // each holds a part of the plugins
		return
	}
	config, err := json.Marshal(want.ConfigIn)
	if err != nil {
		t.Fatal(err)
	}
	doc := Load(t, kind, `{"_format_version":"3.0","plugins":[{"name":"`+kind.Schema.Name+`","config":`+string(config)+`}]}`)
	if got := doc.Plugins[0].Config; !reflect.DeepEqual(got, want.Plugin.Config) {
		t.Errorf("%s: got %v, want %v", kind.Schema.Name, got, want.Plugin.Config)
	}
}

// Open reads the recordings of kind and compiles the plugins that they were made with.
func Open(t *testing.T, kind policy.Kind, env *policy.Env) *Recording {
	t.Helper()
	raw := read(t, filepath.Join("plugins", kind.Schema.Name+".json"))
	var f file
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	doc, routes, instances := compile(t, kind, env, f.Config)
	rec := new(Recording)
	for _, group := range f.Cases {
		for _, step := range group.Steps {
			host := header(step.Request, "Host")
			route := routes[host]
			if route == nil {
				t.Fatalf("group %d: no route for host %q", group.Group, host)
			}
			rec.Cases = append(rec.Cases, &Case{
				Group: group.Group, Host: host, Instance: instances[route.ID], C: contextOf(step.Request, route, doc.Services[0]),
				request: step.Request, response: step.Expect.Response, upstream: step.Expect.Upstream,
			})
		}
	}
	return rec
}

// compile loads the recorded configuration without its readiness marker, and
// answers it, its routes by host and its plugin functions by route.
func compile(t *testing.T, kind policy.Kind, env *policy.Env, config map[string]any) (*spec.Document, map[string]*spec.Route, map[string]policy.Instance) {
	t.Helper()
	drop := func(list, field string) {
		items, _ := config[list].([]any)
		config[list] = slices.DeleteFunc(items, func(x any) bool { return x.(map[string]any)[field] == "__ready" })
	}
	drop("routes", "name")
	drop("plugins", "route")
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	doc := Load(t, kind, string(data))
	routes, instances := map[string]*spec.Route{}, map[string]policy.Instance{}
	for _, r := range doc.Routes {
		routes[r.Hosts[0]] = r
	}
	for _, p := range doc.Plugins {
		instance, err := kind.Compile(env, p)
		if err != nil {
			t.Fatalf("compiling the plugin of route %s: %v", p.Route, err)
		}
		instances[p.Route] = instance
	}
	return doc, routes, instances
}

// Load decodes a document that uses the plugin and fails the test on any problem.
func Load(t *testing.T, kind policy.Kind, text string) *spec.Document {
	t.Helper()
	doc, problems := spec.Load([]spec.Source{{Name: "test.yaml", Data: []byte(text)}}, spec.Schemas{kind.Schema.Name: kind.Schema})
	if len(problems) > 0 {
		t.Fatalf("loading the document: %v", problems)
	}
	return doc
}

// Compile is the plugin with one config, given as JSON, and the problems of it.
func Compile(t *testing.T, kind policy.Kind, env *policy.Env, config string) (policy.Instance, spec.Problems) {
	t.Helper()
	text := `{"_format_version":"3.0","plugins":[{"name":"` + kind.Schema.Name + `","config":` + config + `}]}`
	doc, problems := spec.Load([]spec.Source{{Name: "test.yaml", Data: []byte(text)}}, spec.Schemas{kind.Schema.Name: kind.Schema})
	if len(problems) > 0 {
		return policy.Instance{}, problems
	}
	instance, err := kind.Compile(env, doc.Plugins[0])
	if err != nil {
		t.Fatalf("compiling: %v", err)
	}
	return instance, nil
}

// Example is the document in the README of the plugin in the working folder.
func Example(t *testing.T, kind policy.Kind) *spec.Document {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(readme), "```yaml\n")
	text, _, closed := strings.Cut(text, "```")
	if !found || !closed {
		t.Fatal("README.md has no ```yaml block")
	}
	return Load(t, kind, text)
}

func header(m message, name string) string {
	for _, h := range m.Headers {
		if exchange.EqualFold(h[0], name) {
			return h[1]
		}
	}
	return ""
}

// NewContext is a request without a body on an open connection.
func NewContext(method, target, host string) *policy.Context {
	x := &exchange.Exchange{
		Conn: &exchange.Conn{
			ID: 7, Peer: netip.MustParseAddrPort("127.0.0.1:40000"), Local: netip.MustParseAddrPort("127.0.0.1:18000"), Protocol: "HTTP/1.1",
		},
		RequestID: RequestID, Start: time.Unix(1795395139, 275_000_000),
	}
	x.Request = exchange.Request{Method: method, Scheme: "http", Host: host, Target: target, Version: exchange.HTTP11, Body: exchange.NoBody}
	x.Request.Path, x.Request.Query, x.Request.HasQuery = strings.Cut(target, "?")
	return &policy.Context{X: x, Now: x.Start, UpstreamURI: x.Request.Path, ClientIP: x.Conn.Peer.Addr()}
}

// contextOf is the request as it was recorded, after routing.
func contextOf(m message, route *spec.Route, service *spec.Service) *policy.Context {
	c := NewContext(m.Method, m.Target, "")
	c.Route, c.Service = route, service
	req := &c.X.Request
	var body []byte
	if m.Body != nil {
		body = Latin1(*m.Body)
	}
	for _, h := range append(m.Headers, [2]string{"Kong-Debug", "1"}) {
		switch {
		case exchange.EqualFold(h[0], "Host"):
			req.Host = h[1]
		case exchange.EqualFold(h[0], "Content-Length"):
			req.Length, _ = strconv.ParseInt(h[1], 10, 64)
			req.LengthGiven = true
			req.Body = bytes.NewReader(body)
		case exchange.EqualFold(h[0], "Transfer-Encoding"):
			req.Length = -1
			req.Body = httputil.NewChunkedReader(bytes.NewReader(body))
		case exchange.EqualFold(h[0], "Expect"):
			req.Expect100 = true
			req.Fields.Add(h[0], h[1])
		default:
			req.Fields.Add(h[0], h[1])
		}
	}
	return c
}

// Latin1 is the bytes that a recorded string stands for.
func Latin1(s string) []byte {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return b
}

// ReadAll is the whole body, nil for none.
func ReadAll(t *testing.T, r io.Reader) string {
	t.Helper()
	if r == nil {
		return ""
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("reading a body: %v", err)
	}
	return string(b)
}
