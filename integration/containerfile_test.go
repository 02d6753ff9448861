package integration

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestContainerfile builds what deploy/Containerfile builds, of what it copies and nothing
// else; the image itself needs a registry.
func TestContainerfile(t *testing.T) {
	text, err := os.ReadFile("../deploy/Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	build, last, stages := "", "", 0
	var env []string // of the stage that builds
	src := t.TempDir()
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "FROM":
			last, stages = words[1], stages+1
		case "ENV":
			if stages == 1 {
				env = append(env, words[1:]...)
			}
		case "COPY":
			if strings.HasPrefix(words[1], "--from") {
				continue
			}
			for _, name := range words[1 : len(words)-1] {
				copyTo(t, filepath.Join("..", name), filepath.Join(src, name))
			}
		case "RUN":
			if words[1] == "go" && words[2] == "build" {
				build = strings.TrimSpace(strings.TrimPrefix(line, "RUN"))
			}
		case "USER":
			if words[1] != "65532:65532" {
				t.Errorf("it runs as %s; expected a number that is nobody's", words[1])
			}
		}
	}
	if last != "scratch" || stages != 2 || build == "" {
		t.Fatalf("the last of %d stages is %s, and %q builds; expected scratch and a build before", stages, last, build)
	}
	program := filepath.Join(src, "keyway")
	cmd := exec.Command("sh", "-c", strings.Replace(build, "-o /keyway", "-o "+program, 1))
	cmd.Dir, cmd.Env = src, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 60<<20 {
		t.Errorf("the binary has %d bytes", info.Size())
	}
	version, err := os.ReadFile("../VERSION")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program, "version").Output(); err != nil || !strings.Contains(string(out), strings.TrimSpace(string(version))) {
		t.Errorf("it says %q, %v; expected version %s", out, err, version)
	}
	if runtime.GOOS != "linux" {
		return
	}
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Errorf("it is linked with %v, %v", libraries, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("it needs a loader: %s", p.Type)
		}
	}
}

// copyTo copies a file or a folder.
func copyTo(t *testing.T, from, to string) {
	t.Helper()
	info, err := os.Stat(from)
	if err != nil {
		t.Fatalf("what is copied has to be there: %v", err)
	}
	if info.IsDir() {
		err = os.CopyFS(to, os.DirFS(from))
	} else {
		var data []byte
		if data, err = os.ReadFile(from); err == nil {
			err = os.WriteFile(to, data, 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}
