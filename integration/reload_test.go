package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// fault is one problem as validate --json and /status tell it.
type fault struct {
	Where, Entity, Name, Field, Message string
}

// TestReloadTellsEverything spoils a document in five places: log, /status, reload
// and validate name each with line, entity, object and field, and nothing changes.
func TestReloadTellsEverything(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	host, port, _ := strings.Cut(o, ":")
	good := fmt.Sprintf("_format_version: \"3.0\"\nservices:\n- {name: a, host: %s, port: %s, routes: [{name: r, paths: [/a]}]}\n", host, port)
	g := start(t, options{document: good})
	generation := g.counter(t, "keyway_snapshot_generation")
	g.write(good + `
- {name: b, host: 127.0.0.1, port: 99999}
- {name: c, hots: x}
routes:
- {name: q, paths: [no-slash], service: a}
- {name: w, paths: [/w], service: nowhere}
plugins:
- {name: key-auth, config: {key_nmaes: [x]}}
`)
	want := []struct {
		line                int
		entity, name, field string
	}{
		{5, "services", "b", "port"}, {6, "services", "c", "hots"}, {8, "routes", "q", "paths"}, {9, "routes", "w", "service"}, {11, "plugins", "key-auth", "key_nmaes"},
	}
	poll(t, "the change of the file is noticed", 20*time.Second, func() bool { return g.counter(t, `keyway_snapshot_builds_total{result="failed"}`) > 0 })
	said, err := g.run("reload")
	if err == nil || !strings.Contains(said, "nothing was changed") {
		t.Errorf("reload: %v\n%s", err, said)
	}
	checked, err := g.run("validate", g.doc)
	if err == nil {
		t.Error("validate does not fail")
	}
	inJSON, err := g.run("validate", "--json", g.doc)
	if err == nil {
		t.Error("validate --json does not fail")
	}
	var list struct {
		Valid    bool    `json:"valid"`
		Problems []fault `json:"problems"`
	}
	if err := json.Unmarshal([]byte(inJSON), &list); err != nil || list.Valid {
		t.Fatalf("%v: %s", err, inJSON)
	}
	var status struct{ Problems []fault }
	_, text := g.read("/status")
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		where := fmt.Sprintf("%s:%d", g.doc, w.line)
		for place, all := range map[string]string{"reload": said, "validate": checked, "the log": strings.ReplaceAll(g.log.String(), `\"`, `"`)} {
			found := false
			for line := range strings.Lines(all) {
				found = found || strings.Contains(line, where+":") && strings.Contains(line, w.entity+` "`+w.name+`"`) && strings.Contains(line, w.field)
			}
			if !found {
				t.Errorf("%s does not name %s, %s %q, %s:\n%s", place, where, w.entity, w.name, w.field, all)
			}
		}
		for place, all := range map[string][]fault{"validate --json": list.Problems, "/status": status.Problems} {
			found := false
			for _, p := range all {
				found = found || p.Where == where && p.Entity == w.entity && p.Name == w.name && strings.Contains(p.Field, w.field) && p.Message != ""
			}
			if !found {
				t.Errorf("%s does not name %s, %s %q, %s:\n%+v", place, where, w.entity, w.name, w.field, all)
			}
		}
	}
	if resp, _ := call(t, http.DefaultClient, http.MethodGet, "http://"+g.proxy+"/a", nil); resp.StatusCode != 200 || g.counter(t, "keyway_snapshot_generation") != generation {
		t.Errorf("a bad document changed something: %s", resp.Status)
	}
	if g.get("/status/ready") != 200 {
		t.Error("a bad document makes a serving node unready")
	}
	g.write(good)
	poll(t, "the good one clears the problems", 20*time.Second, func() bool { _, text := g.read("/status"); return strings.Contains(text, `"problems": []`) })
	if out, err := g.run("validate", g.doc); err != nil || !strings.Contains(out, "valid") {
		t.Errorf("validate of a good document: %v %s", err, out)
	}
}

// TestReloadOfAFolder serves a folder: files come, change, clash and go.
func TestReloadOfAFolder(t *testing.T) {
	o := origin(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	host, port, _ := strings.Cut(o, ":")
	dir := t.TempDir()
	service := func(name string) string {
		return fmt.Sprintf("_format_version: \"3.0\"\nservices: [{name: %s, host: %s, port: %s, routes: [{name: %s, paths: [/%s]}]}]\n", name, host, port, name, name)
	}
	file(t, dir, "one.yaml", service("one"))
	file(t, dir, "two.json", fmt.Sprintf(`{"_format_version": "3.0", "routes": [{"name": "two", "paths": ["/two"], "service": {"name": "one"}}], "services": [{"name": "empty", "host": %q}]}`, host))
	g := start(t, options{env: map[string]string{"KEYWAY_DOCUMENTS": dir}})
	is := func(path string) int {
		resp, _ := call(t, http.DefaultClient, http.MethodGet, "http://"+g.proxy+path, nil)
		return resp.StatusCode
	}
	if is("/one") != 200 || is("/two") != 200 || is("/three") != 404 {
		t.Error("files of a folder are one document, and a route of one may name a service of another")
	}
	file(t, dir, "three.yaml", service("three"))
	poll(t, "a new file is served", 20*time.Second, func() bool { return is("/three") == 200 })
	file(t, dir, "clash.yaml", service("three"))
	poll(t, "a clash is an error", 20*time.Second, func() bool {
		_, text := g.read("/status")
		return strings.Contains(text, filepath.Join(dir, "three.yaml")) || strings.Contains(text, filepath.Join(dir, "clash.yaml"))
	})
	if out, err := g.run("reload"); err == nil || !strings.Contains(out, "clash.yaml") || !strings.Contains(out, "three.yaml") {
		t.Errorf("a clash must name both files: %v\n%s", err, out)
	}
	if is("/one") != 200 || is("/three") != 200 {
		t.Error("a clash changed what is served")
	}
	for _, name := range []string{"clash.yaml", "three.yaml"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	poll(t, "what is gone is served no more", 20*time.Second, func() bool { return is("/three") == 404 && is("/one") == 200 })
	file(t, dir, ".hidden.yaml.swp", "not yaml: [")
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	poll(t, "SIGHUP is heard", 20*time.Second, func() bool { return strings.Contains(g.log.String(), `"reloading"`) })
	if out, err := g.run("reload"); err != nil {
		t.Errorf("an editor's own file is no document: %v %s", err, out)
	}
}

// TestReloadUnderLoad moves a route between two services 60 times and adds and
// takes others, under HTTP/1.1 and HTTP/2: each answer is one or the other's.
func TestReloadUnderLoad(t *testing.T) {
	backend := func(name string) string {
		return origin(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
	}
	a, b := backend("a"), backend("b")
	cert, key := pair(t, "edge.test", "edge.test")
	doc := func(i int) string {
		to := []string{a, b}[i%2]
		host, port, _ := strings.Cut(to, ":")
		var more strings.Builder
		for j := range i % 7 {
			fmt.Fprintf(&more, "- {name: m%d, host: m.test, routes: [{paths: [/m%d]}], plugins: [{name: cors}]}\n", j, j)
		}
		return fmt.Sprintf("_format_version: \"3.0\"\ncertificates: [{cert: %q, key: %q, snis: [edge.test]}]\nservices:\n- {name: main, host: %s, port: %s, routes: [{name: main, paths: [/main]}]}\n%s", cert, key, host, port, more.String())
	}
	g := start(t, options{document: doc(0)})
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var sent, lost atomic.Int64
	var first atomic.Value
	for i := range 4 {
		c := speaker(t, i%2 == 0)
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				sent.Add(1)
				resp, err := c.Get("https://" + g.tls + "/main")
				text := []byte{}
				if err == nil {
					text, err = io.ReadAll(resp.Body)
					_ = resp.Body.Close()
				}
				if err != nil || resp.StatusCode != 200 || string(text) != "a" && string(text) != "b" {
					lost.Add(1)
					first.CompareAndSwap(nil, fmt.Sprintf("%v %q", err, text))
				}
			}
		})
	}
	for i := 1; i <= 60; i++ {
		g.write(doc(i))
		if out, err := g.run("reload"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		// The command ends when the document serves.
		want := []string{"a", "b"}[i%2]
		if _, text := call(t, http.DefaultClient, http.MethodGet, "http://"+g.proxy+"/main", nil); text != want {
			t.Errorf("reload %d: %q answers after the command, want %q", i, text, want)
		}
	}
	close(stop)
	clients.Wait()
	if lost.Load() > 0 {
		t.Errorf("%d of %d requests lost, the first: %v", lost.Load(), sent.Load(), first.Load())
	}
	t.Logf("60 reloads under %d requests, none lost", sent.Load())
}
