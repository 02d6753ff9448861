package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a file system of some mebibytes, which root may; it answers its folder.
func smallDisk(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=200,mode=0700", "tmpfs", dir).CombinedOutput(); err != nil {
		skip(t, fmt.Sprintf("no file system can be mounted (%v: %s); run as root", err, out))
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	return dir
}

// fill takes all room of a folder's disk, or all of its files, and answers how to give it back.
func fill(t testing.TB, dir string, files bool) (free func()) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	if err := os.Mkdir(ballast, 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		text := []byte{}
		if !files {
			text = make([]byte, 64<<10)
		}
		err = os.WriteFile(filepath.Join(ballast, fmt.Sprint(i)), text, 0o600)
	}
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("the disk is not full: %v", err)
	}
	for !files { // the last pages too
		f, err := os.OpenFile(filepath.Join(ballast, "0"), os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Write(make([]byte, 4096))
		_ = f.Close()
		if err != nil {
			break
		}
	}
	return func() {
		if err := os.RemoveAll(ballast); err != nil {
			t.Fatal(err)
		}
	}
}

// readOnly makes a folder read-only for whoever opens it from now on.
func readOnly(t testing.TB, dir string) (free func()) {
	t.Helper()
	for _, args := range [][]string{{"--bind", dir, dir}, {"-o", "remount,bind,ro", dir}} {
		if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
			t.Fatalf("mount %v: %v: %s", args, err, out)
		}
	}
	return func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Fatalf("umount: %v: %s", err, out)
		}
	}
}

// TestADiskThatTakesNothing is fault F-18 in a short form: a data folder whose disk is
// full, has no file left, or is read-only. Certificates rotate on without a loss, what
// cannot be kept is told within ten seconds and once, writers of secrets are refused with
// the old value in use, and all that happened is in the ledger when there is room again.
func TestADiskThatTakesNothing(t *testing.T) {
	disk := smallDisk(t)
	pairs, dir := filepath.Join(t.TempDir(), "pair"), filepath.Join(disk, "data")
	s := &shop{pairDir: pairs}
	rotate := func() string {
		t.Helper()
		cert, key := pair(t, "shop.test", "shop.test")
		s.replace(t, cert, key)
		return serialOf(t, cert)
	}
	first := rotate()
	keep(t, dir, "shop-key", "first-key")
	up := freePort(t)
	s.a = originAt(t, up)
	document := fmt.Sprintf(`
_format_version: "3.0"
vaults: [{name: file, prefix: pair, config: {root: %s}}]
certificates: [{cert: "{vault://pair/tls.crt/}", key: "{vault://pair/tls.key/}", snis: [{name: shop.test}]}]
services: [{name: shop, url: "http://127.0.0.1:%d", routes: [{name: open, hosts: [shop.test], paths: [/open]}, {name: keyed, hosts: [shop.test], paths: [/keyed], plugins: [{name: key-auth}]}]}]
consumers: [{username: c, keyauth_credentials: [{key: "{vault://sealed/shop-key}"}, {key: steady}]}]
`, pairs, up)
	s.gateway = start(t, options{dir: dir, document: document})
	served := []string{first}
	is := func(key string) int {
		code, err := s.ask(s.client(false), "/keyed", key)
		if err != nil {
			t.Error(err)
		}
		return code
	}
	stale := func(want float64) func() bool {
		return func() bool { v, ok := sample(s.gateway, "keyway_last_good_stale"); return ok && v == want }
	}
	poll(t, "the state is kept", 20*time.Second, func() bool {
		_, err := os.Stat(filepath.Join(dir, "last-good", "last-good.sealed"))
		return err == nil
	})
	load := s.crowd(4)
	for _, trouble := range []struct {
		what   string
		begin  func() func()
		ledger bool // it fails too
		says   string
	}{
		{"full", func() func() { return fill(t, disk, false) }, true, "no space left"},
		{"no file left", func() func() { return fill(t, disk, true) }, false, "no space left"},
		{"read-only", func() func() { return readOnly(t, dir) }, false, "read-only file system"},
	} {
		lines, failed := strings.Count(s.log.String(), `"level":"ERROR"`), s.counter(t, "keyway_ledger_failures_total")
		free := trouble.begin()
		for range 6 {
			want := rotate()
			poll(t, trouble.what+": the new certificate is served", 20*time.Second, func() bool { return s.serial(t) == want })
			served = append(served, want)
		}
		poll(t, trouble.what+": the metric tells it", 30*time.Second, stale(1))
		if now := s.counter(t, "keyway_ledger_failures_total"); (now > failed) != trouble.ledger {
			t.Errorf("%s: the ledger failed %v times", trouble.what, now-failed)
		}
		put := s.command("secrets", "put", "shop-key")
		put.Stdin = strings.NewReader("lost-key")
		if out, err := put.CombinedOutput(); err == nil || !strings.Contains(string(out), trouble.says) || strings.Contains(string(out), "lost-key") {
			t.Errorf("%s: secrets put says %s, %v", trouble.what, out, err)
		}
		if is("first-key") != 200 || is("steady") != 200 || is("lost-key") != 401 {
			t.Errorf("%s: keys are others than before", trouble.what)
		}
		if ready := s.get("/status/ready"); ready != 200 {
			t.Errorf("%s: ready answers %d", trouble.what, ready)
		}
		text := s.log.String()
		if n := strings.Count(text, `"level":"ERROR"`) - lines; n < 1 || n > 60 {
			t.Errorf("%s: %d errors in the log for 6 rotations", trouble.what, n)
		}
		if !strings.Contains(text, trouble.says) || !strings.Contains(text, "writing the last known good state failed") {
			t.Errorf("%s: the log does not say what is wrong", trouble.what)
		}
		free()
		poll(t, trouble.what+": it recovers", 20*time.Second, stale(0))
	}
	load.end()
	if load.lost.Load() > 0 {
		t.Errorf("%d of %d requests lost, the first: %v", load.lost.Load(), load.sent.Load(), load.first.Load())
	}
	keep(t, dir, "shop-key", "second-key")
	poll(t, "a key that is put then opens", 20*time.Second, func() bool { return is("second-key") == 200 })
	if out, err := s.run("audit", "verify"); err != nil {
		t.Errorf("the ledger does not verify: %v\n%s", err, out)
	}
	if n := strings.Count(s.said("audit", "query", "--kind", "certificate", "--event", "activated", "--json"), `"new_version"`); n != len(served) {
		t.Errorf("%d activations in the ledger, %d there were", n, len(served))
	}
	// Killed while the disk is full, it starts with what it has, and with what it kept.
	time.Sleep(4 * time.Second) // the last change is written
	free := fill(t, disk, false)
	defer free()
	s.stop(syscall.SIGKILL)
	s.write("spoilt")
	again := &shop{gateway: start(t, options{dir: dir, env: map[string]string{"KEYWAY_DOCUMENTS": s.doc}})}
	if now := again.serial(t); now != served[len(served)-1] {
		t.Errorf("after a kill it serves %s, want the last one", now)
	}
}
