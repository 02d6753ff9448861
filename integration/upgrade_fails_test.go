package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/handover"
)

// fakeVariable makes this test program act as a new process that goes wrong at a point.
const fakeVariable = "FAKE_SUCCESSOR"

// TestFakeSuccessor is no test: it is what upgrades start that have to fail.
func TestFakeSuccessor(t *testing.T) {
	how := os.Getenv(fakeVariable)
	if how == "" {
		return
	}
	link, err := handover.Inherited()
	if err != nil || link == nil {
		os.Exit(3)
	}
	m, err := link.Receive(t.Context())
	if err != nil || m.Kind != "begin" {
		os.Exit(4)
	}
	sockets, err := handover.ReceiveSockets(t.Context(), link)
	if err != nil {
		os.Exit(5)
	}
	if how == "silent" {
		select {}
	}
	if how == "babble" {
		_ = link.Send("hello", nil, nil)
		select {}
	}
	// What it takes, it does not read: nobody may have noticed afterwards.
	var taken []handover.Socket
	for name := range sockets.Given() {
		taken = append(taken, name)
	}
	_ = link.Send("taken", taken, nil)
	_ = link.Send("prepared", map[string]any{"pid": os.Getpid(), "version": "0.0.0-fake"}, nil)
	for m, err := link.Receive(t.Context()); err == nil; m, err = link.Receive(t.Context()) {
		if m.Kind == "go" {
			break
		}
	}
	if how == "dies" {
		os.Exit(9)
	}
	select {} // "hangs": it has the files, and never says that it serves
}

// fake is a program that is this test program in that part.
func fake(t testing.TB, how string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return script(t, fmt.Sprintf("%s=%s exec %q -test.run '^TestFakeSuccessor$' > /dev/null 2>&1", fakeVariable, how, self))
}

func script(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestUpgradeFails asks for upgrades that cannot be: programs that are none, that end, never
// become ready, say what nobody understands, die or hang with the node's files in their
// hands. The process that runs serves on, over each protocol, and says why; the ledger
// goes on; a good upgrade follows.
func TestUpgradeFails(t *testing.T) {
	o, _ := upgradeOrigin(t)
	echo, _ := udpEcho(t)
	tcp := tcpEcho(t, "")
	cert, key := pair(t, "edge.test", "edge.test")
	stream, datagrams := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	document := upgradeDocument(cert, key, o, tcp.Addr().String(), echo, portOf(stream), portOf(datagrams), 0)
	g := upgradable(t, options{document: document, env: map[string]string{
		"KEYWAY_HTTP3": "all", "KEYWAY_STREAM_LISTEN": stream + ", " + datagrams + " udp", "KEYWAY_UPGRADE_TIMEOUT": "3s", "KEYWAY_LAST_KNOWN_GOOD": "off",
	}})
	pid, _ := g.serves()
	c3, kept := speaker3(t, "edge.test"), speaker(t, true)
	session := dialUDP(t, datagrams)
	well := func(t *testing.T) {
		t.Helper()
		if now, _ := g.serves(); now != pid {
			t.Fatalf("process %d is the node, want %d", now, pid)
		}
		for _, c := range []*http.Client{c3, kept, speaker3(t, "edge.test"), speaker(t, false)} {
			if resp, text := call(t, c, http.MethodPost, "https://"+g.tls+"/", strings.NewReader("ping")); resp.StatusCode != 200 || text != "pingdone" {
				t.Errorf("%s %q", resp.Status, text)
			}
		}
		if got, err := asksUDP(session, []byte("there?")); err != nil || string(got) != "there?" {
			t.Errorf("%q, %v", got, err)
		}
		if out, err := g.run("audit", "verify"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	well(t)
	failures := 0.0
	for _, c := range []struct {
		name, program, say string
	}{
		{"no program", file(t, t.TempDir(), "text", "this is no program\n"), "starting the new process"},
		{"it ends", script(t, "exit 7"), "ended with status 7"},
		{"it is silent", fake(t, "silent"), "was not prepared within 3s (setting upgrade_timeout)"},
		{"it babbles", fake(t, "babble"), `the new process says "hello"; expected "prepared"`},
		{"it dies with the files", fake(t, "dies"), "ended with status 9"},
		{"it hangs with the files", fake(t, "hangs"), "did not take the node's files within"},
		{"its documents are bad", binary(t), "the documents cannot be served"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.install(t, c.program)
			if c.name == "its documents are bad" {
				g.write("_format_version: \"3.0\"\nservices: [{name: x, hots: y}]\n")
				defer g.write(document)
			}
			out, err := g.run("upgrade")
			if err == nil || !strings.Contains(out, c.say) {
				t.Errorf("%v: %q; want a failure that says %q", err, out, c.say)
			}
			failures++
			well(t)
			if n := g.counter(t, `keyway_upgrades_total{result="failed"}`); n != failures {
				t.Errorf("%v failures are counted, want %v", n, failures)
			}
			if left := g.processes(); len(left) != 1 {
				t.Errorf("processes %v are left", left)
			}
			events, err := g.run("audit", "query", "--kind", "upgrade", "--event", "failed", "--json")
			if err != nil || strings.Count(events, `"failed"`) != int(failures) || !jsonHas(events, c.say) {
				t.Errorf("the ledger does not say %q: %v\n%s", c.say, err, events)
			}
		})
	}

	// One at a time.
	g.install(t, fake(t, "silent"))
	first := g.command("upgrade")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	poll(t, "an upgrade is under way", 10*time.Second, func() bool { return g.counter(t, "keyway_upgrade_running") == 1 })
	if out, err := g.run("upgrade"); err == nil || !strings.Contains(out, "an upgrade is under way for") {
		t.Errorf("a second one at a time: %v: %s", err, out)
	}
	if first.Wait() == nil {
		t.Error("the first one succeeded")
	}
	g.install(t, binary(t))
	if u := g.upgrade(t); u.OldPid != pid {
		t.Errorf("%+v", u)
	} else {
		pid = u.Pid
	}
	well(t)
	if n := g.counter(t, `keyway_upgrades_total{result="refused"}`); n != 1 {
		t.Errorf("%v refusals are counted after the upgrade, want 1", n)
	}
}

// jsonHas says whether some text has what, as JSON writes it.
func jsonHas(text, what string) bool {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(what)
	return strings.Contains(text, strings.Trim(b.String(), "\"\n"))
}

// TestUpgradeVariable sets by hand what only a node that hands over sets.
func TestUpgradeVariable(t *testing.T) {
	for _, v := range []string{"7", "1", "x"} {
		out, code := failing(t, map[string]string{handover.Variable: v})
		if code != 1 || !strings.Contains(out, handover.Variable) || !strings.Contains(out, "never by hand") {
			t.Errorf("%s=%s: status %d: %s", handover.Variable, v, code, out)
		}
	}
}

// TestUpgradeChangesListeners has the new process listen elsewhere: what is listened on no
// more is closed when the old one has finished, and what is new is opened.
func TestUpgradeChangesListeners(t *testing.T) {
	o, _ := upgradeOrigin(t)
	old, fresh := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	settings := file(t, t.TempDir(), "keyway.yaml", "proxy_listen: "+old+"\n")
	cert, key := pair(t, "edge.test", "edge.test")
	g := upgradable(t, options{settings: settings, document: upgradeDocument(cert, key, o, "127.0.0.1:9", "127.0.0.1:9", "9", "9", 0), env: map[string]string{"KEYWAY_HTTP3": ""}})
	ask := func(address string) error {
		resp, err := (&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + address + "/")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	if err := ask(old); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(settings, []byte("proxy_listen: "+fresh+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u := g.upgrade(t)
	if err := ask(fresh); err != nil {
		t.Errorf("the new listener: %v", err)
	}
	poll(t, "nobody listens where nobody should", 5*time.Second, func() bool { return refusesConnections(old) })
	poll(t, "the old process has ended", 10*time.Second, func() bool {
		select {
		case <-g.done:
			return true
		default:
			return false
		}
	})
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the old process ended with status %d", code)
	}
	if err := syscall.Kill(u.Pid, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	poll(t, "the node ends", 10*time.Second, func() bool { return len(g.processes()) == 0 })
}

// TestUpgradeAsInit runs a node as the first process of a namespace, as in a container: it
// stays as the parent of those that follow, passes signals on, reaps, and ends as the node.
func TestUpgradeAsInit(t *testing.T) {
	if out, err := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		skip(t, fmt.Sprintf("no namespace can be made: %v: %s", err, out))
	}
	for _, c := range []struct {
		name string
		sig  syscall.Signal
		code int
	}{
		{"stopped", syscall.SIGTERM, 0},
		{"killed", syscall.SIGKILL, 128 + 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, _ := upgradeOrigin(t)
			cert, key := pair(t, "edge.test", "edge.test")
			g := upgradable(t, options{
				prefix:   []string{"unshare", "--pid", "--fork", "--kill-child", "--mount-proc"},
				document: upgradeDocument(cert, key, o, "127.0.0.1:9", "127.0.0.1:9", "9", "9", 0),
			})
			if pid, _ := g.serves(); pid != 1 {
				t.Fatalf("the node is process %d, want 1", pid)
			}
			outer := g.processes()[0]
			for i := range 3 {
				was, _ := g.serves()
				if i == 2 { // asked of the first process, which passes it on
					if err := syscall.Kill(outer, syscall.SIGUSR2); err != nil {
						t.Fatal(err)
					}
					poll(t, "another process is the node", 20*time.Second, func() bool { pid, _ := g.serves(); return pid != was && pid > 1 })
				} else if u := g.upgrade(t); u.OldPid != was || u.Pid <= was {
					t.Fatalf("%+v after %d", u, was)
				}
				if resp, text := call(t, speaker(t, false), http.MethodPost, "https://"+g.tls+"/", strings.NewReader("ping")); text != "pingdone" {
					t.Errorf("%s %q", resp.Status, text)
				}
				poll(t, "the first process and the node are left", 20*time.Second, func() bool { return len(g.processes()) == 2 })
			}
			before := strings.Count(g.log.String(), `"reloading"`)
			if err := syscall.Kill(outer, syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			poll(t, "SIGHUP reaches the node", 5*time.Second, func() bool { return strings.Count(g.log.String(), `"reloading"`) == before+1 })
			// An orphan of somebody else comes to the first process, ends, and is no zombie.
			inside := exec.Command("nsenter", "-t", fmt.Sprint(outer), "-p", "-m", "sh", "-c", "sleep 0.7 > /dev/null 2>&1 & exit 0")
			if out, err := inside.CombinedOutput(); err != nil {
				t.Errorf("no orphan was made: %v: %s", err, out)
			}
			poll(t, "the orphan has a parent", 5*time.Second, func() bool { return slices.Contains(children(outer), "sleep") })
			poll(t, "the orphan is gone", 10*time.Second, func() bool { return !slices.Contains(children(outer), "sleep") })
			pid, _ := g.serves()
			target := outer
			if c.sig == syscall.SIGKILL {
				for _, p := range g.processes() {
					if p != outer {
						target = p
					}
				}
			}
			if err := syscall.Kill(target, c.sig); err != nil {
				t.Fatal(err)
			}
			select {
			case <-g.done:
			case <-time.After(20 * time.Second):
				t.Fatalf("the first process stays after process %d", pid)
			}
			if code := g.cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("it ended with status %d, want %d: %v", code, c.code, g.err)
			}
			if left := g.processes(); len(left) > 0 {
				t.Errorf("processes %v are left", left)
			}
		})
	}
}

// children are the names of a process's children, zombies among them.
func children(of int) []string {
	var list []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		text, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(text), "(")
		name, rest, _ := strings.Cut(rest, ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == fmt.Sprint(of) {
			list = append(list, name)
		}
	}
	return list
}

// TestUpgradeNotify tells a service manager, at a socket without a file and at one with.
func TestUpgradeNotify(t *testing.T) {
	for _, address := range []string{"@keyway-test-" + filepath.Base(t.TempDir()) + fmt.Sprint(os.Getpid()), filepath.Join(shortDir(t), "notify")} {
		heard := notified(t, address)
		g := upgradable(t, options{env: map[string]string{"NOTIFY_SOCKET": address}})
		ready := func(pid int) string { return fmt.Sprintf("READY=1\nMAINPID=%d\nSTATUS=serving\n", pid) }
		heard(ready(g.cmd.Process.Pid))
		if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		heard("RELOADING=1\nMONOTONIC_USEC=*\nSTATUS=reloading\n")
		heard("READY=1\nSTATUS=serving\n")
		g.install(t, script(t, "exit 7"))
		if out, err := g.run("upgrade"); err == nil {
			t.Errorf("it was upgraded: %s", out)
		}
		heard("RELOADING=1\nMONOTONIC_USEC=*\nSTATUS=upgrading\n")
		heard("READY=1\nSTATUS=serving\n")
		g.install(t, binary(t))
		u := g.upgrade(t)
		heard("RELOADING=1\nMONOTONIC_USEC=*\nSTATUS=upgrading\n")
		heard(ready(u.Pid))
		poll(t, "the old process has ended", 10*time.Second, func() bool { return len(g.processes()) == 1 })
		if err := syscall.Kill(u.Pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		heard("STOPPING=1\nSTATUS=finishing what is under way\n")
		poll(t, "the node ends", 10*time.Second, func() bool { return len(g.processes()) == 0 })
	}
}

// TestUpgradeLacks refuses a process that has not got what the one that runs has.
func TestUpgradeLacks(t *testing.T) {
	dir := t.TempDir()
	cert, key := pair(t, "edge.test", "edge.test")
	put := func() {
		file(t, dir, "tls.crt", cert)
		file(t, dir, "tls.key", key)
	}
	put()
	g := upgradable(t, options{env: map[string]string{"KEYWAY_LAST_KNOWN_GOOD": "off"}, document: fmt.Sprintf(`{_format_version: "3.0",
	vaults: [{name: file, prefix: pair, config: {root: %q}}],
	certificates: [{cert: "{vault://pair/tls.crt/}", key: "{vault://pair/tls.key/}", snis: [edge.test]}],
	services: [{name: a, url: "http://127.0.0.1:9", routes: [{name: a, paths: [/]}]}]}`, dir)})
	if err := os.Remove(filepath.Join(dir, "tls.key")); err != nil {
		t.Fatal(err)
	}
	out, err := g.run("upgrade")
	if err == nil || !strings.Contains(out, "has not got") || !strings.Contains(out, "{vault://pair/tls.key/}") {
		t.Errorf("%v: %s", err, out)
	}
	if pid, _ := g.serves(); pid != g.cmd.Process.Pid {
		t.Errorf("process %d is the node, want %d", pid, g.cmd.Process.Pid)
	}
	put()
	if u := g.upgrade(t); u.OldPid != g.cmd.Process.Pid {
		t.Errorf("%+v", u)
	}
}
