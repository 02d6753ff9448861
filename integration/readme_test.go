package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// step is one command of the README with the output that it shows.
type step struct {
	command string
	want    []string
}

// blocks reads the fenced blocks of a page: files are YAML blocks whose first line
// names them, steps come from console blocks.
func blocks(t *testing.T, text string) (files map[string]string, steps []step) {
	t.Helper()
	files = map[string]string{}
	for _, m := range regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		switch m[1] {
		case "yaml":
			name, ok := strings.CutPrefix(strings.SplitN(m[2], "\n", 2)[0], "# ")
			if !ok {
				t.Fatalf("a yaml block does not begin with the name of its file: %.60q", m[2])
			}
			files[name] = m[2]
		case "console":
			for line := range strings.Lines(m[2]) {
				line = strings.TrimSuffix(line, "\n")
				if c, ok := strings.CutPrefix(line, "$ "); ok {
					steps = append(steps, step{command: c})
					continue
				}
				if len(steps) == 0 {
					t.Fatalf("a console block begins with output: %q", line)
				}
				steps[len(steps)-1].want = append(steps[len(steps)-1].want, line)
			}
		default:
			t.Fatalf("a block of kind %s would not be executed", m[1])
		}
	}
	return files, steps
}

// sameOutput compares lines; "..." stands for anything in its line, alone for any lines.
func sameOutput(want, is []string) bool {
	if len(want) == 0 {
		return len(is) == 0
	}
	if strings.TrimSpace(want[0]) == "..." {
		for i := range len(is) + 1 {
			if sameOutput(want[1:], is[i:]) {
				return true
			}
		}
		return false
	}
	if len(is) == 0 {
		return false
	}
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	pattern := strings.ReplaceAll(regexp.QuoteMeta(squeeze(want[0])), regexp.QuoteMeta("..."), ".*")
	return regexp.MustCompile("^"+pattern+"$").MatchString(squeeze(is[0])) && sameOutput(want[1:], is[1:])
}

// TestREADME runs the tour as a reader would: its files are written, its commands
// run in order in one shell beside a node that was started as `make run` does it.
// Only ports and the folder in /tmp are other ones.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	g := start(t, options{dir: filepath.Join(t.TempDir(), ".keyway"), tls: freePort(t)})
	work := filepath.Dir(g.dir)
	if err := os.Mkdir(filepath.Join(work, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(binary(t), filepath.Join(work, "bin", "keyway")); err != nil {
		t.Fatal(err)
	}
	ports := strings.NewReplacer(
		"localhost:8443", "localhost:"+strings.TrimPrefix(g.tls, "127.0.0.1:"), "127.0.0.1:9443", fmt.Sprintf("127.0.0.1:%d", freePort(t)),
		"127.0.0.1:9100", fmt.Sprintf("127.0.0.1:%d", freePort(t)), "/tmp/keyway-tour", filepath.Join(work, "tour"),
	)
	files, steps := blocks(t, string(text))
	for name, body := range files {
		file(t, work, name, ports.Replace(body))
	}
	if len(steps) < 15 {
		t.Fatalf("the README has %d commands only: this test reads it wrongly", len(steps))
	}
	script := "set -m\n"
	for i, s := range steps {
		script += fmt.Sprintf("printf '\\n<<%d>>\\n'\n%s\n", i, ports.Replace(s.command))
	}
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = work
	out, err := cmd.Output()
	if err != nil {
		t.Logf("the shell ended with %v", err)
	}
	parts := regexp.MustCompile(`(?m)^<<\d+>>\n`).Split(string(out), -1)
	if len(parts) != len(steps)+1 {
		t.Fatalf("%d of %d commands ran:\n%s", len(parts)-1, len(steps), out)
	}
	for i, s := range steps {
		var is []string
		for line := range strings.Lines(parts[i+1]) {
			is = append(is, strings.TrimRight(line, "\r\n"))
		}
		for len(is) > 0 && is[len(is)-1] == "" { // of the mark before the next command
			is = is[:len(is)-1]
		}
		if !sameOutput(s.want, is) {
			t.Errorf("$ %s\nprints\n%s\nthe README shows\n%s", s.command, strings.Join(is, "\n"), strings.Join(s.want, "\n"))
		}
	}
	t.Logf("%d commands ran", len(steps))
}

// TestMakeRun runs `make run` and then each curl line that it prints.
func TestMakeRun(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	said := &lockedBuffer{}
	cmd := exec.Command("make", "-C", "..", "run", "DATA="+data)
	cmd.Env = append(os.Environ(),
		fmt.Sprintf("KEYWAY_PROXY_LISTEN=127.0.0.1:%d", freePort(t)), fmt.Sprintf("KEYWAY_PROXY_TLS_LISTEN=127.0.0.1:%d", freePort(t)),
		fmt.Sprintf("KEYWAY_STATUS_LISTEN=127.0.0.1:%d", freePort(t)), "KEYWAY_ADMIN_LISTEN=off", "KEYWAY_MANAGER_LISTEN=off",
		fmt.Sprintf("KEYWAY_ECHO_LISTEN=127.0.0.1:%d", freePort(t)))
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	lines := regexp.MustCompile(`(?m)^  (curl .*)$`)
	poll(t, "the banner is printed", 3*time.Minute, func() bool { return len(lines.FindAllString(said.String(), -1)) >= 3 })
	for _, m := range lines.FindAllStringSubmatch(said.String(), -1) {
		out, err := exec.Command("bash", "-c", m[1]+" -sS -o /dev/null -w '%{http_code} %{ssl_verify_result}'").CombinedOutput()
		if err != nil || string(out) != "200 0" {
			t.Errorf("%s answers %s (%v)", m[1], out, err)
		}
	}
}
