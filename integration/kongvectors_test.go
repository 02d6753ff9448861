package integration

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The recordings say what one other gateway did, byte for byte. Each group runs
// through a whole node: documents are reloaded, requests go over real sockets.

// vectorDir is where the recordings are.
func vectorDir() string {
	if d := os.Getenv("KEYWAY_VECTORS"); d != "" {
		return d
	}
	return "vectors/kong"
}

// recording is one file.
type recording struct {
	Kong      map[string]any  `json:"kong"`
	Config    json.RawMessage `json:"config"`
	ConfigRef string          `json:"config_ref"`
	Cases     []vector        `json:"cases"`
}

// vector is one case: a single request, or steps in order, or a choice between two routes.
type vector struct {
	Request sent            `json:"request"`
	Expect  expectation     `json:"expect"`
	Steps   []vector        `json:"steps"`
	Sleep   float64         `json:"sleep_before"`
	Name    string          `json:"case"`
	Config  json.RawMessage `json:"config"`
	Winner  string          `json:"winner"`
	Reply   *canned         `json:"backend_response"`
}

type expectation struct {
	Route    *string         `json:"route"`
	Service  *string         `json:"service"`
	Response *got            `json:"response"`
	Upstream json.RawMessage `json:"upstream"`
}

func load(t *testing.T, name string) *recording {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(vectorDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	var r recording
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if r.ConfigRef != "" {
		ref := load(t, filepath.Join(filepath.Dir(name), filepath.Base(r.ConfigRef)))
		r.Config = ref.Config
	}
	return &r
}

// files lists the recordings that match patterns, sorted; none is a failure.
func files(t *testing.T, patterns ...string) []string {
	t.Helper()
	var all []string
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(vectorDir(), p))
		if err != nil || len(found) == 0 {
			t.Fatalf("no recordings %s in %s", p, vectorDir())
		}
		for _, f := range found {
			rel, _ := filepath.Rel(vectorDir(), f)
			all = append(all, rel)
		}
	}
	slices.Sort(all)
	return all
}

// rig is a node with the recording origins behind it.
type rig struct {
	t       *testing.T
	g       *gateway
	origins *origins
	brief   bool // the recording keeps some header fields only
}

// trim takes out the fields that a brief recording did not keep: of proxied
// responses all, of upstream requests all but four.
func trim(v *vector, resp *got, upstream []seen) {
	if v.Expect.Response != nil {
		if len(v.Expect.Response.Headers) == 0 {
			resp.Headers = slices.DeleteFunc(resp.Headers, func(h [2]string) bool { return !strings.HasPrefix(h[0], "Kong-") })
		} else {
			resp.Headers = slices.DeleteFunc(resp.Headers, func(h [2]string) bool {
				_, kept := header(v.Expect.Response.Headers, h[0])
				return !kept && !strings.HasPrefix(h[0], "Kong-")
			})
		}
	}
	for i := range upstream {
		upstream[i].Headers = slices.DeleteFunc(upstream[i].Headers, func(h [2]string) bool {
			return !slices.Contains([]string{"Host", "X-Forwarded-Host", "X-Forwarded-Path", "X-Forwarded-Prefix"}, h[0])
		})
	}
}

// newRig starts a node with the settings of a recording. The ports are those of
// the recordings, which show in forwarded fields.
func newRig(t *testing.T, kong map[string]any) *rig {
	t.Helper()
	cert, key := pair(t, "default", "default")
	dir := t.TempDir()
	env := map[string]string{
		"KEYWAY_REQUEST_POLICY": "compatible", "KEYWAY_ALLOW_DEBUG_HEADER": "on", "KEYWAY_DEVELOPMENT": "off",
		"KEYWAY_TLS_CERT": file(t, dir, "default.crt", cert), "KEYWAY_TLS_KEY": file(t, dir, "default.key", key),
	}
	for theirs, ours := range map[string]string{
		"trusted_ips": "KEYWAY_TRUSTED_IPS", "real_ip_header": "KEYWAY_REAL_IP_HEADER", "real_ip_recursive": "KEYWAY_REAL_IP_RECURSIVE",
		"headers": "KEYWAY_HEADERS", "headers_upstream": "KEYWAY_HEADERS_UPSTREAM", "admin": "KEYWAY_ADMIN_LISTEN", "router_flavor": "KEYWAY_ROUTER_FLAVOR",
	} {
		if v, ok := kong[theirs]; ok {
			env[ours] = fmt.Sprint(v)
		}
	}
	r := &rig{t: t, origins: listenOrigins(t, 60)}
	r.g = start(t, options{document: `_format_version: "3.0"`, env: env, proxy: 18000, tls: 18443})
	return r
}

// use loads a configuration and waits until it serves.
func (r *rig) use(config json.RawMessage) error {
	config, err := known(config)
	if err != nil {
		return err
	}
	r.g.write(string(config))
	if out, err := r.g.run("reload"); err != nil {
		return fmt.Errorf("the document was refused: %s", out)
	}
	ready := sent{Method: "GET", Target: "/__ready__", Headers: [][2]string{{"Host", "ready.marker"}}}
	deadline := time.Now().Add(10 * time.Second)
	for {
		resp, err := do(r.g.proxy, r.g.tls, ready)
		if err == nil && resp.Status == 299 && strings.Contains(resp.Body, marker(config)) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the document did not serve: %v %v", resp, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// known takes out of a recorded configuration the credentials of plugins that this
// product does not have yet: documents with entities it does not know are refused.
func known(config json.RawMessage) (json.RawMessage, error) {
	foreign := []string{"basicauth_credentials", "hmacauth_credentials", "jwt_secrets", "oauth2_credentials"}
	if !slices.ContainsFunc(foreign, func(f string) bool { return bytes.Contains(config, []byte(f)) }) {
		return config, nil
	}
	var doc map[string]any
	if err := json.Unmarshal(config, &doc); err != nil {
		return nil, err
	}
	consumers, _ := doc["consumers"].([]any)
	for _, f := range foreign {
		delete(doc, f)
		for _, c := range consumers {
			if m, ok := c.(map[string]any); ok {
				delete(m, f)
			}
		}
	}
	return json.Marshal(doc)
}

// marker is the message of the __ready route's termination.
func marker(config json.RawMessage) string {
	var doc struct {
		Plugins []struct {
			Route  any `json:"route"`
			Config struct {
				Message string `json:"message"`
				Status  int    `json:"status_code"`
			} `json:"config"`
		} `json:"plugins"`
	}
	if json.Unmarshal(config, &doc) != nil {
		return ""
	}
	for _, p := range doc.Plugins {
		if p.Config.Status == 299 {
			return p.Config.Message
		}
	}
	return ""
}

// replay sends one request and compares everything.
func (r *rig) replay(v *vector) error {
	reply := v.Reply
	if reply == nil {
		reply = v.Request.Reply
	}
	r.origins.take(reply)
	resp, err := do(r.g.proxy, r.g.tls, v.Request, [2]string{"Kong-Debug", "1"})
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	upstream := r.origins.take(nil)
	if r.brief {
		trim(v, resp, upstream)
	}
	return errors.Join(compareDebug(v, resp), compareResponse(v.Expect.Response, resp), compareUpstream(v.Expect.Upstream, upstream))
}

func header(h [][2]string, name string) (string, bool) {
	for _, x := range h {
		if strings.EqualFold(x[0], name) {
			return x[1], true
		}
	}
	return "", false
}

// compareDebug compares the names of route and service.
func compareDebug(v *vector, resp *got) error {
	for name, want := range map[string]*string{"Kong-Route-Name": v.Expect.Route, "Kong-Service-Name": v.Expect.Service} {
		is, ok := header(resp.Headers, name)
		switch {
		case want == nil && ok && v.Expect.Response != nil && v.Expect.Response.Status == 404:
			return fmt.Errorf("%s is %q, want none", name, is)
		case want != nil && is != *want:
			return fmt.Errorf("%s is %q, want %q", name, is, *want)
		}
	}
	return nil
}

// correlation matches the ids that the correlation-id plugin makes: a UUID, one
// with a counter, or the parts of a tracker.
var correlation = regexp.MustCompile(`^([0-9a-f]{8}-[0-9a-f-]{27}(#\d+)?|[0-9.]+-\d+-\d+-\d+-\d+-[0-9.]+)$`)

// shape replaces every digit run by one sign: two ids of one generator have one shape.
func shape(id string) string {
	if i := strings.IndexByte(id, '#'); i >= 0 {
		return "uuid#n"
	}
	if len(id) == 36 && strings.Count(id, "-") == 4 {
		return "uuid"
	}
	return regexp.MustCompile(`[0-9.]+`).ReplaceAllString(id, "n")
}

// requestIDs are ids of requests in bodies.
var requestIDs = regexp.MustCompile(`[0-9a-f]{32}|<id>`)

var masks = regexp.MustCompile(`<(id|n|date|ts|rand|offset|uuid:\d+)>`)

// maskedEqual compares a recorded text, in which what varies is masked, with a real one.
func maskedEqual(want, is string) bool {
	want = strings.ReplaceAll(want, "kong/3.9.3", "keyway/"+productVersion)
	if want == is || correlation.MatchString(want) && correlation.MatchString(is) && shape(want) == shape(is) {
		return true
	}
	if !masks.MatchString(want) {
		return false
	}
	var b strings.Builder
	b.WriteString(`(?s)^`)
	last := 0
	for _, at := range masks.FindAllStringIndex(want, -1) {
		b.WriteString(regexp.QuoteMeta(want[last:at[0]]))
		switch want[at[0]+1 : at[0]+2] {
		case "n":
			b.WriteString(`-?[0-9.]+`)
		case "i":
			if want == "<id>" { // a whole value is masked whoever made it, the client perhaps
				b.WriteString(`\S+`)
				break
			}
			b.WriteString(`[0-9a-f]{32}`)
		case "u":
			b.WriteString(`[0-9a-f-]{36}`)
		default:
			b.WriteString(`.+?`)
		}
		last = at[1]
	}
	b.WriteString(regexp.QuoteMeta(want[last:]) + `$`)
	return regexp.MustCompile(b.String()).MatchString(is)
}

const productVersion = "0.1.0"

// compareFields compares header fields: as many of each name, in the same order
// within a name. Names whose values are judged elsewhere are passed over.
func compareFields(what string, want, is [][2]string, skip func(name, value string) bool) error {
	group := func(list [][2]string) map[string][]string {
		m := map[string][]string{}
		for _, h := range list {
			if n := strings.ToLower(h[0]); !skip(n, h[1]) {
				m[n] = append(m[n], h[1])
			}
		}
		return m
	}
	w, i := group(want), group(is)
	slices.Sort(w["connection"]) // a list of tokens, in whatever order
	slices.Sort(i["connection"])
	var errs []error
	for name, values := range w {
		if len(values) != len(i[name]) {
			errs = append(errs, fmt.Errorf("%s %s: %q, want %q", what, name, i[name], values))
			continue
		}
		for k := range values {
			if !maskedEqual(values[k], i[name][k]) {
				errs = append(errs, fmt.Errorf("%s %s: %q, want %q", what, name, i[name][k], values[k]))
			}
		}
	}
	for name, values := range i {
		if len(w[name]) == 0 && len(values) > 0 {
			errs = append(errs, fmt.Errorf("%s %s: %q, want none", what, name, values))
		}
	}
	return errors.Join(errs...)
}

func compareResponse(want, is *got) error {
	if want == nil {
		return nil
	}
	var errs []error
	if want.Status != is.Status {
		errs = append(errs, fmt.Errorf("status %d, want %d (body %.80q)", is.Status, want.Status, is.Body))
	}
	echo := want.Body == "<echo>"
	same := echo || maskedEqual(want.Body, is.Body)
	rewritten := !same && sameContent(want.Body, is.Body)
	errs = append(errs, compareFields("response", want.Headers, is.Headers, func(name, _ string) bool {
		return strings.HasPrefix(name, "kong-route-") || strings.HasPrefix(name, "kong-service-") || name == "content-length" && (echo || rewritten)
	}))
	if !same && !rewritten {
		errs = append(errs, fmt.Errorf("body %.200q, want %.200q", is.Body, want.Body))
	}
	return errors.Join(errs...)
}

// volatile are members of JSON bodies that tell of the recorded node and its database.
var volatile = []string{"created_at", "updated_at", "ws_id", "node_id", "worker_pid", "hostname"}

// sameContent compares bodies whose order of members or arguments has no meaning
// and was not kept by the recorded gateway: JSON objects and forms.
func sameContent(want, is string) bool {
	var w, i any
	if json.Unmarshal([]byte(want), &w) == nil && json.Unmarshal([]byte(is), &i) == nil {
		return reflect.DeepEqual(strip(w), strip(i))
	}
	a, b := strings.Split(want, "&"), strings.Split(is, "&")
	slices.Sort(a)
	slices.Sort(b)
	return len(a) > 1 && slices.Equal(a, b)
}

func strip(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range volatile {
			delete(v, k)
		}
		for k := range v {
			v[k] = strip(v[k])
		}
	case []any:
		for k := range v {
			v[k] = strip(v[k])
		}
	}
	return v
}

func compareUpstream(raw json.RawMessage, is []seen) error {
	if len(raw) == 0 {
		return nil // not recorded
	}
	var want []seen
	switch raw[0] {
	case 'n':
	case '[':
		if err := json.Unmarshal(raw, &want); err != nil {
			return err
		}
	default:
		want = make([]seen, 1)
		if err := json.Unmarshal(raw, &want[0]); err != nil {
			return err
		}
	}
	if len(want) != len(is) {
		return fmt.Errorf("the upstream got %d requests, want %d", len(is), len(want))
	}
	var errs []error
	for i := range want {
		w, x := &want[i], &is[i]
		if w.Port != x.Port || w.Method != x.Method || w.Target != x.Target || w.Version != x.Version {
			errs = append(errs, fmt.Errorf("upstream %d %s %s %s, want %d %s %s %s", x.Port, x.Method, x.Target, x.Version, w.Port, w.Method, w.Target, w.Version))
		}
		rewritten := w.Body != nil && (maskedEqual(*w.Body, *x.Body) || sameContent(*w.Body, *x.Body))
		if w.BodySHA256 != "" && (w.BodyLen != x.BodyLen || w.BodySHA256 != x.BodySHA256) && !rewritten {
			errs = append(errs, fmt.Errorf("upstream body %d bytes %.100q, want %d", x.BodyLen, *x.Body, w.BodyLen))
		}
		errs = append(errs, compareFields("upstream", w.Headers, x.Headers, func(name, _ string) bool {
			return name == "kong-debug" || name == "content-length" && rewritten
		}))
	}
	return errors.Join(errs...)
}

// differences are cases that are different on purpose: file, case and why. They
// are listed in docs/differences.md under the same ids.
var differences = map[string]string{
	"router/trad-030#4":              "a head with an unknown transfer coding is refused before its path is looked at",
	"paths/paths-05#60":              "X-Forwarded-Prefix with a control character is sent percent-encoded: no field value may have one",
	"paths/paths-10#339":             "an absolute-form target without a path has the path /, not its query",
	"paths/paths-10#341":             "an absolute-form target without a path has the path /, not its query",
	"plugins/request-termination#35": "the length that HEAD announces is that of an echo with the recorded node's ids",
	"forwarding/sni-exact.test.":     "a server name with a trailing dot is no server name (RFC 6066, section 3): clients leave it out, handshakes with it end",
}

// score counts the cases of a group.
type score struct {
	group       string
	ran, passed int
	differ      int
	part        bool // of a group: the bound on differences is the group's
}

func (s *score) close(t *testing.T) {
	t.Helper()
	t.Logf("%s: %d of %d cases passed, %d listed as differences", s.group, s.passed, s.ran, s.differ)
	if s.ran == 0 {
		t.Errorf("%s: no case ran", s.group)
	}
	if !s.part && s.differ*100 > s.ran {
		t.Errorf("%s: %d differences of %d cases, at most 1 %% may be listed", s.group, s.differ, s.ran)
	}
}

// documents replays the recordings of files that each have a document of their own.
func (s *score) documents(t *testing.T, r *rig, pattern string) {
	t.Helper()
	for _, name := range files(t, pattern) {
		rec := load(t, name)
		if err := r.use(rec.Config); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s.cases(t, r, name, rec.Cases)
	}
}

// cases replays those of one file.
func (s *score) cases(t *testing.T, r *rig, name string, list []vector) {
	t.Helper()
	for i := range list {
		s.run(t, r, fmt.Sprintf("%s#%d", strings.TrimSuffix(name, ".json"), i), &list[i])
	}
}

// run replays one case of steps and counts it.
func (s *score) run(t *testing.T, r *rig, id string, v *vector) {
	t.Helper()
	s.ran++
	steps := v.Steps
	if steps == nil {
		steps = []vector{*v}
	}
	for i := range steps {
		if d := steps[i].Sleep; d > 0 {
			time.Sleep(time.Duration(d * float64(time.Second))) // part of the recording
		}
		if err := r.replay(&steps[i]); err != nil {
			if _, known := differences[id]; known {
				s.differ++
				return
			}
			t.Errorf("%s step %d: %s %s %v: %v", id, i, steps[i].Request.Method, steps[i].Request.Target, steps[i].Request.Headers, err)
			return
		}
	}
	if _, known := differences[id]; known {
		t.Errorf("%s is listed as a difference and passes: take it off the list", id)
	}
	s.passed++
}

func TestKongVectorsRouter(t *testing.T) {
	r := newRig(t, nil)
	s := score{group: "router/trad"}
	s.documents(t, r, "router/trad-*.json")
	s.close(t)
	p := score{group: "router/pairs"}
	rec := load(t, "router/pairs.json")
	for i := range rec.Cases {
		c := &rec.Cases[i]
		p.ran++
		if err := r.use(c.Config); err != nil {
			t.Errorf("pairs#%d: %v", i, err)
			continue
		}
		resp, err := do(r.g.proxy, r.g.tls, c.Request, [2]string{"Kong-Debug", "1"})
		if err != nil {
			t.Errorf("pairs#%d: %v", i, err)
			continue
		}
		if is, _ := header(resp.Headers, "Kong-Route-Name"); is != c.Winner {
			t.Errorf("pairs#%d %s: %q wins, want %q", i, c.Name, is, c.Winner)
			continue
		}
		p.passed++
	}
	p.close(t)
}

func TestKongVectorsPaths(t *testing.T) {
	r := newRig(t, nil)
	r.brief = true
	s := score{group: "paths"}
	for _, name := range files(t, "paths/paths-*.json") {
		rec := load(t, name)
		if s.ran == 0 {
			if rec.Config == nil {
				rec.Config = load(t, "paths/config.json").Config
			}
			if err := r.use(rec.Config); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		s.cases(t, r, name, rec.Cases)
	}
	s.close(t)
}

func TestKongVectorsForwarding(t *testing.T) {
	s := score{group: "forwarding"}
	for _, name := range files(t, "forwarding/*.json") {
		if strings.Contains(name, "tls-sni") {
			continue // TestKongVectorsSNI
		}
		t.Run(strings.TrimSuffix(filepath.Base(name), ".json"), func(t *testing.T) {
			rec := load(t, name)
			r := newRig(t, rec.Kong)
			if err := r.use(rec.Config); err != nil {
				t.Fatal(err)
			}
			s.cases(t, r, name, rec.Cases)
		})
	}
	s.close(t)
}

// ourPlugins are the plugins of this product whose recordings are replayed.
var ourPlugins = []string{"acl", "correlation-id", "cors", "ip-restriction", "key-auth", "rate-limiting", "request-size-limiting", "request-termination", "request-transformer", "response-transformer"}

func TestKongVectorsPlugins(t *testing.T) {
	r := newRig(t, nil)
	// Windows of an hour must not end between two steps of a recording.
	if now := time.Now(); now.Truncate(time.Hour).Add(time.Hour).Sub(now) < 20*time.Second {
		time.Sleep(21 * time.Second)
	}
	all := score{group: "plugins"}
	for _, name := range ourPlugins {
		t.Run(name, func(t *testing.T) {
			s := score{group: "plugins/" + name, part: true}
			rec := load(t, "plugins/"+name+".json")
			if err := r.use(rec.Config); err != nil {
				t.Fatal(err)
			}
			for i := range rec.Cases {
				s.run(t, r, fmt.Sprintf("plugins/%s#%d", name, i), &rec.Cases[i])
			}
			s.close(t)
			all.ran, all.passed, all.differ = all.ran+s.ran, all.passed+s.passed, all.differ+s.differ
		})
	}
	all.close(t)
}

// TestKongVectorsSNI asks for the certificate of each recorded server name.
func TestKongVectorsSNI(t *testing.T) {
	var rec struct {
		Config json.RawMessage `json:"config"`
		Cases  []struct {
			SNI         string `json:"sni"`
			Certificate string `json:"certificate"`
		} `json:"cases"`
	}
	data, err := os.ReadFile(filepath.Join(vectorDir(), "forwarding/tls-sni-certificate.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &rec); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, nil)
	r.g.write(string(rec.Config))
	if out, err := r.g.run("reload"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := score{group: "forwarding/tls-sni", part: true}
	for _, c := range rec.Cases {
		id := "forwarding/sni-" + c.SNI
		s.ran++
		var is string
		show := func() bool {
			conn, err := tls.Dial("tcp", r.g.tls, &tls.Config{ServerName: c.SNI, InsecureSkipVerify: true})
			if err != nil {
				is = err.Error()
				return false
			}
			defer func() { _ = conn.Close() }()
			is = conn.ConnectionState().PeerCertificates[0].Subject.CommonName
			return is == c.Certificate
		}
		deadline := time.Now().Add(3 * time.Second) // the reload may still be on its way for the first one
		ok := show()
		for !ok && s.ran == 1 && time.Now().Before(deadline) {
			ok = show()
		}
		switch _, known := differences[id]; {
		case ok:
			s.passed++
		case known:
			s.differ++
		default:
			t.Errorf("%s: %q is shown, want %q", id, is, c.Certificate)
		}
	}
	s.close(t)
}

// TestKongVectorsPrometheus compares the families and label sets that the plugin
// fills, for the families that this product has (docs/differences.md lists the rest).
func TestKongVectorsPrometheus(t *testing.T) {
	var rec struct {
		Configs map[string]struct {
			Plugin json.RawMessage   `json:"plugin_config"`
			Types  map[string]string `json:"types"`
			Series []string          `json:"series"`
		} `json:"configs"`
	}
	data, err := os.ReadFile(filepath.Join(vectorDir(), "plugins/prometheus.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &rec); err != nil {
		t.Fatal(err)
	}
	for name, c := range rec.Configs {
		t.Run(name, func(t *testing.T) { comparePrometheus(t, c.Plugin, c.Types, c.Series) })
	}
	if len(rec.Configs) == 0 {
		t.Error("no recorded configuration")
	}
}

// TestDifferencesPage holds the list of differences against its page.
func TestDifferencesPage(t *testing.T) {
	text, err := os.ReadFile("../docs/differences.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.*) \\|$").FindAllStringSubmatch(string(text), -1) {
		listed[m[1]] = m[2]
	}
	if !reflect.DeepEqual(listed, differences) {
		t.Errorf("the page lists\n%v\nthe tests know\n%v", listed, differences)
	}
}
