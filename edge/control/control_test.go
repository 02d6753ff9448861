package control

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyway-edge/keyway/edge/handover"
)

// fake is a node that answers what a test sets.
type fake struct {
	facts    Facts
	asked    []Question
	answer   any
	err      error
	problems []string
	acted    []Action
}

func (f *fake) Act(_ context.Context, a Action) (any, error) {
	f.acted = append(f.acted, a)
	return f.answer, f.err
}

func (f *fake) Facts() Facts { return f.facts }
func (f *fake) Explain(q Question) (any, error) {
	f.asked = append(f.asked, q)
	return f.answer, f.err
}
func (f *fake) Reload(context.Context) ([]string, bool) { return f.problems, len(f.problems) == 0 }

// folder is a short one: the path of a socket has at most some hundred bytes.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// run serves a node until the test ends, or end is called.
func run(t *testing.T, dir string, node Node) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := New(dir, node)
	if err := s.Listen(ctx, &handover.Sockets{}); err != nil {
		t.Fatal(err)
	}
	go func() { done <- s.Run(ctx) }()
	for stop := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if c, err := net.Dial("unix", filepath.Join(dir, SocketName)); err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(stop) {
			t.Fatal("the socket does not come up")
		}
	}
	var ended bool
	end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(end)
	return end
}

func TestSocketIsItsOwnersAlone(t *testing.T) {
	dir := folder(t)
	end := run(t, dir, &fake{})
	path := filepath.Join(dir, SocketName)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for stop := time.Now().Add(5 * time.Second); info.Mode().Perm() != 0o600; time.Sleep(time.Millisecond) {
		if time.Now().After(stop) {
			t.Fatalf("mode %v, want 0600", info.Mode())
		}
		if info, err = os.Stat(path); err != nil {
			t.Fatal(err)
		}
	}
	end()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket of an ended node is still there: %v", err)
	}
}

func TestSecondNodeIsRefused(t *testing.T) {
	dir := folder(t)
	run(t, dir, &fake{facts: Facts{Status: "first"}})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err := New(dir, &fake{facts: Facts{Status: "second"}}).Listen(ctx, &handover.Sockets{})
	if err == nil || !strings.Contains(err.Error(), "another node answers") || !strings.Contains(err.Error(), "data_dir") {
		t.Errorf("a second node must be told so and what to set: %v", err)
	}
	var status string
	if err := Dial(dir).Get(t.Context(), "status", &status); err != nil || status != "first" {
		t.Errorf("the first node must go on answering: %q, %v", status, err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	dir := folder(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, SocketName)})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as a node that was killed leaves it
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	run(t, dir, &fake{facts: Facts{Status: "alive"}})
	var status string
	if err := Dial(dir).Get(t.Context(), "status", &status); err != nil || status != "alive" {
		t.Errorf("%q, %v", status, err)
	}
}

func TestLongFolderIsExplained(t *testing.T) {
	dir := filepath.Join(folder(t), strings.Repeat("x", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := New(dir, &fake{}).Listen(t.Context(), &handover.Sockets{})
	if err == nil || !strings.Contains(err.Error(), "shorter data_dir") {
		t.Errorf("got %v", err)
	}
}

func TestFactsAndQuestions(t *testing.T) {
	dir := folder(t)
	node := &fake{facts: Facts{Status: map[string]int{"a": 1}, Certificates: []string{"c"}, Secrets: []string{"s"}}, answer: map[string]string{"route": "r"}, problems: []string{"one", "two"}}
	run(t, dir, node)
	c := Dial(dir)
	var list []string
	if err := c.Get(t.Context(), "certificates", &list); err != nil || len(list) != 1 || list[0] != "c" {
		t.Errorf("certificates: %v, %v", list, err)
	}
	if err := c.Get(t.Context(), "secrets", &list); err != nil || list[0] != "s" {
		t.Errorf("secrets: %v, %v", list, err)
	}
	var said map[string]string
	q := Question{Method: "POST", URL: "https://a.test/b", SNI: "c.test", Headers: []string{"X: 1"}}
	if err := c.Post(t.Context(), "explain", q, &said); err != nil || said["route"] != "r" {
		t.Errorf("explain: %v, %v", said, err)
	}
	if len(node.asked) != 1 || node.asked[0].URL != q.URL || node.asked[0].SNI != q.SNI || node.asked[0].Headers[0] != "X: 1" || node.asked[0].Method != "POST" {
		t.Errorf("the node was asked %+v", node.asked)
	}
	var reloaded struct {
		Problems []string
		Serves   bool
	}
	if err := c.Post(t.Context(), "reload", nil, &reloaded); err != nil || len(reloaded.Problems) != 2 || reloaded.Serves {
		t.Errorf("reload: %v, %v", reloaded, err)
	}
	node.problems = nil
	if err := c.Post(t.Context(), "reload", nil, &reloaded); err != nil || len(reloaded.Problems) > 0 || !reloaded.Serves {
		t.Errorf("reload of what is good: %v, %v", reloaded, err)
	}
}

func TestErrorsAreToldInWords(t *testing.T) {
	dir := folder(t)
	c := Dial(dir)
	if err := c.Get(t.Context(), "status", new(any)); err == nil || !strings.Contains(err.Error(), "is it running") || !strings.Contains(err.Error(), dir) {
		t.Errorf("without a node: %v", err)
	}
	run(t, dir, &fake{err: errors.New(`"x" is not an absolute http or https URL`)})
	if err := c.Post(t.Context(), "explain", Question{URL: "x"}, new(any)); err == nil || err.Error() != `"x" is not an absolute http or https URL` {
		t.Errorf("the node's own words must come through: %v", err)
	}
	if err := c.Post(t.Context(), "explain", "no question", new(any)); err == nil || !strings.Contains(err.Error(), "the question is not JSON") {
		t.Errorf("a question that is none: %v", err)
	}
	if err := c.Get(t.Context(), "nonsense", new(any)); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an unknown fact: %v", err)
	}
	if err := c.Post(t.Context(), "status", nil, new(any)); err == nil || !strings.Contains(err.Error(), "405") {
		t.Errorf("a fact cannot be posted to: %v", err)
	}
	var wrong []string
	if err := c.Post(t.Context(), "reload", nil, &wrong); err == nil || !strings.Contains(err.Error(), "reading the node's answer") {
		t.Errorf("an answer of another shape: %v", err)
	}
}

// An action is done under the name of who asks; its error is the node's own.
func TestAct(t *testing.T) {
	f := &fake{answer: map[string]int{"version": 3}}
	dir := folder(t)
	run(t, dir, f)
	c := Dial(dir)
	var got map[string]int
	if err := c.Act(t.Context(), Action{Do: "secrets.pin", Name: "x", Version: 3}, &got); err != nil || got["version"] != 3 {
		t.Fatalf("%v, %v", got, err)
	}
	if a := f.acted[0]; a.Do != "secrets.pin" || a.Version != 3 || !strings.Contains(a.Actor, "uid ") {
		t.Errorf("the node was asked for %+v", a)
	}
	f.err = errors.New("version 3 is not held any more")
	if err := c.Act(t.Context(), Action{Do: "secrets.pin", Name: "x"}, &got); err == nil || !strings.HasSuffix(err.Error(), "version 3 is not held any more") {
		t.Errorf("%v", err)
	}
}

// duplicate is a socket as another process has it. That of File would make the original's
// system calls wait.
func duplicate(t *testing.T, l *net.UnixListener) *os.File {
	t.Helper()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := -1
	if err := errors.Join(raw.Control(func(fd uintptr) { n, err = unix.Dup(int(fd)) }), err); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(n), "duplicate")
}

// TestASocketThatWasGivenKeepsItsName ends a node whose socket another process has, and one
// whose socket nobody has. Whoever comes once the first has left is not its business.
func TestASocketThatWasGivenKeepsItsName(t *testing.T) {
	for _, given := range []bool{true, false} {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := New(folder(t), &fake{facts: Facts{Status: "old"}})
		if err := s.Listen(ctx, &handover.Sockets{}); err != nil {
			t.Fatal(err)
		}
		f := duplicate(t, s.l)
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		if !given {
			_ = f.Close()
			cancel(nil)
		} else {
			other, err := net.FileListener(f)
			_ = f.Close()
			if err != nil {
				t.Fatal(err)
			}
			cancel(&handover.Given{Taken: map[handover.Socket]bool{s.Socket(): true}})
			s.Leave()
			c, err := net.Dial("unix", s.path)
			if err != nil {
				t.Fatal(err)
			}
			if taken, err := other.Accept(); err != nil {
				t.Error(err)
			} else {
				_ = taken.Close()
			}
			_ = c.Close()
			_ = other.Close()
		}
		if err := <-done; err != nil {
			t.Errorf("given %v: %v", given, err)
		}
		if _, err := os.Lstat(s.path); (err == nil) != given {
			t.Errorf("given %v: its name: %v", given, err)
		}
	}
}
