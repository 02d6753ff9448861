package routing

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// A recorded case: what was sent and which route and upstream it led to.
type recordedCase struct {
	Request struct {
		Method, Target, Version string
		Headers                 [][2]string
		TLS                     bool
		SNI                     string
	}
	Expect struct {
		Route, Service *string
		Response       struct{ Status int }
		Upstream       *struct {
			Port    int
			Target  string
			Headers [][2]string
		}
	}
}

func vectorFolder(t *testing.T) string {
	t.Helper()
	folder := os.Getenv("KEYWAY_VECTORS")
	if folder == "" {
		folder = filepath.Join("..", "integration", "vectors", "kong")
	}
	if _, err := os.Stat(folder); err != nil {
		if os.Getenv("KEYWAY_REQUIRE") == "all" {
			t.Fatalf("the recordings are required: %v", err)
		}
		t.Skipf("no recordings: %v", err)
	}
	return folder
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func compileRecorded(t *testing.T, config json.RawMessage) (*Table, *spec.Document) {
	t.Helper()
	termination := spec.PluginSchema{Name: "request-termination", Fields: []spec.Schema{
		{Name: "status_code", Type: spec.Integer}, {Name: "message", Type: spec.String},
	}}
	doc, problems := spec.Load([]spec.Source{{Name: "recorded.json", Data: config}}, spec.Schemas{termination.Name: termination})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	table, problems := Compile(nil, doc)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return table, doc
}

// replay answers what Keyway makes of a recorded request: the normalised path's
// error, or the route and the match.
func replay(table *Table, c *recordedCase) (m Match, found bool, raw, query string, perr *PathError) {
	var fields exchange.Fields
	q := Query{Method: c.Request.Method, Policy: Compatible, Port: 18000, Secure: c.Request.TLS, SNI: c.Request.SNI, Fields: &fields}
	if c.Request.TLS {
		q.Port = 18443
	}
	for _, h := range c.Request.Headers {
		if strings.EqualFold(h[0], "host") {
			q.Host = h[1]
			continue
		}
		fields.Add(h[0], h[1])
	}
	target := latin1(c.Request.Target)
	if rest, ok := strings.CutPrefix(target, "http://"); ok {
		end := strings.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		// The recorded router goes by the Host field; an engine that lets the
		// target's authority win, as RFC 9112 section 3.2.2 says, differs here.
		target = rest[end:]
	}
	raw, query, has := strings.Cut(target, "?")
	if raw == "" && has {
		raw = "?" + query
	}
	if has && query != "" {
		query = "?" + query
	}
	if target == "" && c.Request.Target == "" || target != "" && target[0] != '/' && target[0] != '?' {
		return m, false, raw, query, &PathError{Reason: "not a target"}
	}
	q.Path, perr = Normalize(Compatible, raw)
	if perr != nil {
		return m, false, raw, query, perr
	}
	found = table.Match(&q, &m)
	return m, found, raw, query, nil
}

// latin1 turns the text of a recording back into the bytes that were sent.
func latin1(s string) string {
	var b []byte
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}

func header(headers [][2]string, name string) string {
	for _, h := range headers {
		if strings.EqualFold(h[0], name) {
			return h[1]
		}
	}
	return ""
}

// check compares one case; "" for equal.
func check(table *Table, doc *spec.Document, c *recordedCase) string {
	m, found, raw, query, perr := replay(table, c)
	want := "none"
	if c.Expect.Route != nil {
		want = *c.Expect.Route
	}
	got, path, port := "none", "", 0
	if found {
		got = m.Route.Spec.Name
		for _, s := range doc.Services {
			if s.ID == m.Route.Spec.Service {
				path, port = s.Path, s.Port
			}
		}
	}
	if perr != nil {
		if c.Expect.Response.Status != 400 {
			return "refused: " + perr.Error() + ", recorded route " + want
		}
		return ""
	}
	if got != want {
		return "route " + got + ", recorded " + want
	}
	up := c.Expect.Upstream
	if up == nil {
		return ""
	}
	if port != up.Port {
		return "another service than " + want + "'s was asked"
	}
	if fragment := strings.IndexByte(raw, '#'); fragment >= 0 {
		query = "" // it ended with the fragment
	}
	if got := m.UpstreamPath(path, Compatible, raw) + query; latin1(up.Target) != got && latin1(up.Target) != got+"?" {
		return "asks for " + got + ", recorded " + up.Target
	}
	prefix := ""
	if m.Route.Spec.StripPath && m.MatchedPath != "/" {
		prefix = m.MatchedPath
	}
	if header(c.Request.Headers, "X-Forwarded-Prefix") == "" && latin1(header(up.Headers, "X-Forwarded-Prefix")) != prefix {
		return "matched " + prefix + ", recorded " + header(up.Headers, "X-Forwarded-Prefix")
	}
	return ""
}

func TestKongVectorsRouter(t *testing.T) {
	folder := vectorFolder(t)
	files, _ := filepath.Glob(filepath.Join(folder, "router", "trad-*.json"))
	passed, total, left := 0, 0, 0
	for _, name := range files {
		var file struct {
			Config json.RawMessage
			Cases  []recordedCase
		}
		readJSON(t, name, &file)
		table, doc := compileRecorded(t, file.Config)
		for i := range file.Cases {
			c := &file.Cases[i]
			if status := c.Expect.Response.Status; status == 400 || status == 501 {
				left++ // refused by the protocol engine before it is routed
				continue
			}
			total++
			if why := check(table, doc, c); why != "" {
				t.Errorf("%s %d: %s %s: %s", filepath.Base(name), i, c.Request.Method, c.Request.Target, why)
				continue
			}
			passed++
		}
	}
	if total == 0 {
		t.Fatal("no recorded cases")
	}
	t.Logf("router/trad: %d of %d cases passed, %d malformed ones left to the gateway's test", passed, total, left)
}

func TestKongVectorsRouterPairs(t *testing.T) {
	folder := vectorFolder(t)
	var file struct {
		Cases []struct {
			Case   string
			Config json.RawMessage
			recordedCase
			Winner string
		}
	}
	readJSON(t, filepath.Join(folder, "router", "pairs.json"), &file)
	passed := 0
	for i := range file.Cases {
		c := &file.Cases[i]
		table, _ := compileRecorded(t, c.Config)
		m, found, _, _, _ := replay(table, &c.recordedCase)
		if !found || m.Route.Spec.Name != c.Winner {
			t.Errorf("%d: %s: winner is not %s", i, c.Case, c.Winner)
			continue
		}
		passed++
	}
	t.Logf("router/pairs: %d of %d cases passed", passed, len(file.Cases))
}

func TestKongVectorsPaths(t *testing.T) {
	folder := vectorFolder(t)
	var config struct{ Config json.RawMessage }
	readJSON(t, filepath.Join(folder, "paths", "config.json"), &config)
	table, doc := compileRecorded(t, config.Config)
	files, _ := filepath.Glob(filepath.Join(folder, "paths", "paths-*.json"))
	passed, total := 0, 0
	for _, name := range files {
		var file struct{ Cases []recordedCase }
		readJSON(t, name, &file)
		for i := range file.Cases {
			c := &file.Cases[i]
			total++
			if why := check(table, doc, c); why != "" {
				t.Errorf("%s %d: %s %s: %s", filepath.Base(name), i, header(c.Request.Headers, "Host"), c.Request.Target, why)
				continue
			}
			passed++
		}
	}
	if total == 0 {
		t.Fatal("no recorded cases")
	}
	t.Logf("paths: %d of %d cases passed", passed, total)
}
