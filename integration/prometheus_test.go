package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// absent are the recorded families that this product does not have: they tell of
// a Lua machine and of another server's timers (docs/differences.md).
func absent(series string) bool {
	return strings.HasPrefix(series, "kong_memory_") || strings.HasPrefix(series, "kong_nginx_")
}

// bare is a series without the parts that vary: buckets are left out, ids masked.
func bare(line string) string {
	name := line
	if i := strings.LastIndexByte(line, ' '); i > 0 && !strings.HasSuffix(line, "}") {
		name = line[:i]
	}
	head, labels, ok := strings.Cut(strings.TrimSuffix(name, "}"), "{")
	if !ok {
		return head
	}
	var kept []string
	for l := range strings.SplitSeq(labels, ",") {
		if strings.HasPrefix(l, "node_id=") || strings.HasPrefix(l, "version=") {
			l, _, _ = strings.Cut(l, "=")
		}
		kept = append(kept, l)
	}
	slices.Sort(kept)
	return head + "{" + strings.Join(kept, ",") + "}"
}

// comparePrometheus makes the traffic that the recording was made of and compares
// types and series of the kong_ families.
func comparePrometheus(t *testing.T, config json.RawMessage, types map[string]string, series []string) {
	t.Helper()
	listenOrigins(t, 2)
	document := fmt.Sprintf(`{"_format_version":"3.0",
	"services":[{"name":"s","host":"127.0.0.1","port":19900}],
	"routes":[{"name":"pa","service":"s","hosts":["pa.test"]},{"name":"pb","service":"s","hosts":["pb.test"]},{"name":"__ready","hosts":["ready.marker"]}],
	"upstreams":[{"name":"u1","targets":[{"target":"127.0.0.1:19901"}]}],
	"consumers":[{"username":"alice","keyauth_credentials":[{"key":"ka"}]}],
	"plugins":[{"name":"prometheus","config":%s},{"name":"key-auth","route":"pa"},{"name":"request-termination","route":"__ready","config":{"status_code":299,"message":"m"}}]}`, config)
	g := start(t, options{document: document, env: map[string]string{"KEYWAY_REQUEST_POLICY": "compatible"}})
	for _, q := range []sent{
		{Method: "GET", Target: "/", Headers: [][2]string{{"Host", "pa.test"}, {"apikey", "ka"}}},
		{Method: "GET", Target: "/", Headers: [][2]string{{"Host", "pa.test"}}},
		{Method: "GET", Target: "/", Headers: [][2]string{{"Host", "pb.test"}}},
		{Method: "GET", Target: "/", Headers: [][2]string{{"Host", "ready.marker"}}},
		{Method: "GET", Target: "/", Headers: [][2]string{{"Host", "nothing.test"}}},
	} {
		if _, err := do(g.proxy, g.tls, q); err != nil {
			t.Fatal(err)
		}
	}
	status, text := g.read("/metrics")
	if status != 200 {
		t.Fatalf("/metrics answers %d", status)
	}
	var want, is []string
	for _, s := range series {
		if !absent(s) && !strings.Contains(s, "_bucket{") {
			want = append(want, bare(s))
		}
	}
	isTypes := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if f := strings.Fields(line); len(f) == 4 && f[1] == "TYPE" && strings.HasPrefix(f[2], "kong_") {
			isTypes[f[2]] = f[3]
		}
		if strings.HasPrefix(line, "kong_") && !strings.Contains(line, "_bucket{") {
			is = append(is, bare(line))
		}
	}
	slices.Sort(want)
	slices.Sort(is)
	for _, s := range want {
		if !slices.Contains(is, s) {
			t.Errorf("series missing: %s", s)
		}
	}
	for _, s := range is {
		if !slices.Contains(want, s) {
			t.Errorf("series too many: %s", s)
		}
	}
	for family, kind := range types {
		if !absent(family) && isTypes[family] != kind {
			t.Errorf("family %s is a %q, want %q", family, isTypes[family], kind)
		}
	}
	if len(want) == 0 {
		t.Error("nothing was compared")
	}
}
