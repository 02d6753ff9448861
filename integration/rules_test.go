package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs/certtest"
)

const (
	rulesDir      = "deploy/prometheus"
	dashboardFile = "deploy/grafana/keyway-broker.json"
	operations    = "docs/operations.md"
)

// promtool runs promtool in the folder of the rules.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	bin, err := exec.LookPath("promtool")
	if err != nil {
		skip(t, "promtool is missing: run make setup")
	}
	cmd := exec.Command(bin, args...)
	cmd.Dir = filepath.Join(root(t), rulesDir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	t.Logf("promtool %s\n%s", strings.Join(args, " "), out)
}

// TestAlertRules checks the rules and plays the situations that they are for.
func TestAlertRules(t *testing.T) {
	promtool(t, "check", "rules", "keyway.rules.yml")
	promtool(t, "test", "rules", "keyway.rules.test.yml")
	rules := page(t, filepath.Join(rulesDir, "keyway.rules.yml"))
	tests := page(t, filepath.Join(rulesDir, "keyway.rules.test.yml"))
	text := page(t, operations)
	alerts := regexp.MustCompile(`(?m)- alert: (\w+)$`).FindAllStringSubmatch(rules, -1)
	if len(alerts) < 15 {
		t.Errorf("%d alerts only", len(alerts))
	}
	for _, a := range alerts {
		// Each is tested for being there; most also for not being there too early.
		if !regexp.MustCompile(`alertname: ` + a[1] + `\n +eval_time: \w+\n +exp_alerts:\n +- exp_labels`).MatchString(tests) {
			t.Errorf("alert %s: no test sees it fire", a[1])
		}
		if !strings.Contains(text, "`"+a[1]+"`") {
			t.Errorf("alert %s is not in %s", a[1], operations)
		}
	}
}

func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// panel is one panel of a dashboard, as far as it is looked at.
type panel struct {
	Type, Title string
	ID          int
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct{ Expr string }
}

// dashboard reads the panels and holds them to what Grafana needs.
func dashboard(t *testing.T) []panel {
	t.Helper()
	var d struct {
		Title, UID    string
		SchemaVersion int
		Panels        []panel
		Templating    struct{ List []struct{ Name, Type string } }
	}
	if err := json.Unmarshal([]byte(page(t, dashboardFile)), &d); err != nil {
		t.Fatalf("%s: %v", dashboardFile, err)
	}
	if d.Title == "" || d.UID == "" || d.SchemaVersion < 36 || len(d.Templating.List) != 2 {
		t.Errorf("%s: title %q, uid %q, schema %d, %d variables", dashboardFile, d.Title, d.UID, d.SchemaVersion, len(d.Templating.List))
	}
	seen := map[int]bool{}
	for i, p := range d.Panels {
		if p.Title == "" || seen[p.ID] || p.GridPos.W < 1 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d %q: no title, an id twice, or not on the grid: %+v", p.ID, p.Title, p.GridPos)
		}
		seen[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, o := range d.Panels[:i] {
			a, b := p.GridPos, o.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q lie on each other", p.Title, o.Title)
			}
		}
	}
	return d.Panels
}

// TestDashboard has promtool judge every expression of the dashboard.
func TestDashboard(t *testing.T) {
	var b strings.Builder
	b.WriteString("groups:\n- name: dashboard\n  rules:\n")
	n := 0
	for _, p := range dashboard(t) {
		for _, q := range p.Targets {
			n++
			fmt.Fprintf(&b, "  - record: panel:expr:%d\n    expr: %q\n", n, strings.ReplaceAll(q.Expr, "$instance", ".*"))
		}
	}
	if n < 25 {
		t.Errorf("%d expressions only", n)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

// documented reads the table of metrics: name to type, and the names that a node
// shows on conditions only.
func documented(t *testing.T) (types map[string]string, conditional map[string]bool) {
	t.Helper()
	types, conditional = map[string]string{}, map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(keyway_\\w+)` \\| (\\w+) \\|[^|]*\\| (.*) \\|$").FindAllStringSubmatch(page(t, operations), -1) {
		if types[m[1]] != "" {
			t.Errorf("%s is in %s twice", m[1], operations)
		}
		types[m[1]] = m[2]
		conditional[m[1]] = strings.HasPrefix(m[3], "Only ")
	}
	return types, conditional
}

// exposed reads the types of what a node shows.
func exposed(text string) map[string]string {
	types := map[string]string{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 4 && f[1] == "TYPE" && strings.HasPrefix(f[2], "keyway_") {
			types[f[2]] = f[3]
		}
	}
	return types
}

// busyNode is a node with a certificate by reference, a secret, a refused version
// and some traffic.
func busyNode(t *testing.T) *gateway {
	t.Helper()
	dir := t.TempDir()
	ca := certtest.NewCA(t, "rules")
	put := func(names ...string) {
		p := ca.Issue(certtest.Leaf{Names: names})
		for name, text := range map[string][]byte{"tls.crt": p.Cert.Reveal(), "tls.key": p.Key.Reveal()} {
			tmp := filepath.Join(dir, "."+name)
			if err := os.WriteFile(tmp, text, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("shop.test")
	g := start(t, options{
		env: map[string]string{"RULES_KEY": "canary-rules-key"},
		document: fmt.Sprintf(`{"_format_version":"3.0",
		"vaults":[{"name":"file","prefix":"pair","config":{"root":%q}},{"name":"env","prefix":"vars","config":{"prefix":"RULES_"}}],
		"certificates":[{"cert":"{vault://pair/tls.crt/}","key":"{vault://pair/tls.key/}","snis":[{"name":"shop.test"}]}],
		"upstreams":[{"name":"up","targets":[{"target":"127.0.0.1:9"}]}],
		"services":[{"name":"s","host":"up","routes":[{"name":"r","hosts":["shop.test"]}]}],
		"consumers":[{"username":"c","keyauth_credentials":[{"key":"{vault://vars/key}"}]}],
		"plugins":[{"name":"request-termination","config":{"status_code":200}}]}`, dir),
	})
	if _, err := do(g.proxy, g.tls, sent{Method: "GET", Target: "/", TLS: true, SNI: "shop.test", Headers: [][2]string{{"Host", "shop.test"}}}); err != nil {
		t.Fatal(err)
	}
	put("other.test") // does not cover the name: refused
	poll(t, "a version is refused", 20*time.Second, func() bool {
		_, text := g.read("/metrics")
		return strings.Contains(text, `keyway_credential_rejected_total{check="names"} 1`)
	})
	return g
}

// TestMetricsAreDocumentedAndUsed holds three texts to what a node shows: the table
// of metrics, the alert rules, the dashboard.
func TestMetricsAreDocumentedAndUsed(t *testing.T) {
	_, text := busyNode(t).read("/metrics")
	is := exposed(text)
	types, conditional := documented(t)
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if types[name] != is[name] {
			t.Errorf("%s is a %s; %s says %q", name, is[name], operations, types[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(types)) {
		if is[name] == "" && !conditional[name] {
			t.Errorf("%s is in %s, and not in /metrics", name, operations)
		}
	}
	used := page(t, filepath.Join(rulesDir, "keyway.rules.yml"))
	for _, p := range dashboard(t) {
		for _, q := range p.Targets {
			used += "\n" + q.Expr
		}
	}
	n := 0
	for _, name := range regexp.MustCompile(`\bkeyway_[a-z0-9_]+`).FindAllString(used, -1) {
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, part); ok && (types[base] == "histogram" || types[base] == "summary") {
				name = base
			}
		}
		n++
		if is[name] == "" && !conditional[name] {
			t.Errorf("rules or dashboard ask for %s, which a node does not show", name)
		}
	}
	if n < 50 || len(is) < 40 {
		t.Errorf("%d uses of metrics, %d families", n, len(is))
	}
	if strings.Contains(text, "canary-rules-key") {
		t.Error("a secret is in the metrics")
	}
}

// settingsPage renders docs/settings.md from what the binary says of its settings.
func settingsPage(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(binary(t), "config", "settings", "--json")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []struct{ Key, Env, Flag, Default, Form, Meaning string }
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# Settings\n\nEach is a key of the settings file (`--settings keyway.yaml`), an environment variable and a flag of `keyway serve`; a flag wins over\n" +
		"the environment, that over the file. `keyway config settings` prints this list. `data_dir` is\n" +
		"`$XDG_DATA_HOME/keyway` where that is set, else `~/.local/share/keyway` for users other than root. This page is written by\n`WRITE_DOCS=1 go test ./integration -run TestLawSettingsPage`.\n\n" +
		"| key | environment | default | form | meaning |\n|---|---|---|---|---|\n")
	cell := func(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
	code := func(s string) string {
		if s == "" {
			return ""
		}
		return "`" + cell(s) + "`"
	}
	for _, s := range all {
		if s.Key == "data_dir" {
			s.Default = "/var/lib/keyway" // for root; the page says what it is for others
		}
		if s.Flag != "--"+strings.ReplaceAll(s.Key, "_", "-") {
			t.Errorf("flag %s of %s is not its name with hyphens", s.Flag, s.Key)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", code(s.Key), code(s.Env), code(s.Default), cell(s.Form), cell(s.Meaning))
	}
	return b.String()
}

// TestLawSettingsPage holds docs/settings.md to the settings there are.
func TestLawSettingsPage(t *testing.T) {
	const name = "docs/settings.md"
	want := settingsPage(t)
	if os.Getenv("WRITE_DOCS") == "1" {
		if err := os.WriteFile(filepath.Join(root(t), name), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	is := strings.Split(page(t, name), "\n")
	for i, line := range strings.Split(want, "\n") {
		if i >= len(is) || is[i] != line {
			t.Fatalf("%s, line %d is not what the binary says; expected\n%s\nrun WRITE_DOCS=1 go test ./integration -run TestLawSettingsPage", name, i+1, line)
		}
	}
}

// commandsOf lists the usage lines of every command below the given one.
func commandsOf(t *testing.T, path ...string) []string {
	t.Helper()
	out, err := exec.Command(binary(t), append(path, "--help")...).Output()
	if err != nil {
		t.Fatal(err)
	}
	_, list, has := strings.Cut(string(out), "Available Commands:\n")
	if !has {
		return []string{strings.Join(path, " ")}
	}
	list, _, _ = strings.Cut(list, "\n\n")
	var all []string
	for line := range strings.Lines(list) {
		if name := strings.Fields(line)[0]; name != "help" && name != "completion" {
			all = append(all, commandsOf(t, append(slices.Clone(path), name)...)...)
		}
	}
	return all
}

// TestCommandsAreDocumented: every command is in the tables of the README and of
// the page on operations.
func TestCommandsAreDocumented(t *testing.T) {
	all := commandsOf(t)
	if len(all) < 20 {
		t.Errorf("only %d commands: %v", len(all), all)
	}
	readme, text := page(t, "README.md"), page(t, operations)
	for _, c := range all {
		if !regexp.MustCompile("(?m)^\\| `keyway " + c + "[ `]").MatchString(text) {
			t.Errorf("`keyway %s` is not in the table of %s", c, operations)
		}
		if !strings.Contains(readme, "`keyway "+c+"`") && !strings.Contains(readme, "`keyway "+c+" ") && !strings.Contains(readme, "`"+c+"`") && !strings.Contains(readme, "`"+c+" ") {
			t.Errorf("`keyway %s` is not in the README", c)
		}
	}
}
