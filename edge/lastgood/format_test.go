package lastgood

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/secrets"
)

// constant is a key for fuzzing.
type constant []byte

func (k constant) New(context.Context) (key, wrapped []byte, err error) { return k, nil, nil }
func (k constant) Open(context.Context, []byte) ([]byte, error)         { return k, nil }

// packed is a file of node-a and its state.
func packed(t testing.TB, key []byte, now Serving) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := pack(&b, key, head{Node: node, Sequence: 1}, now, func() {}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// versionOne is a place with a state of canary and alice in it that a program wrote
// which knew format 1 alone.
func versionOne(t testing.TB) Config {
	t.Helper()
	cfg := place(t)
	if err := os.Mkdir(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"version1.sealed": New(cfg).path(), "version1.mark": cfg.Mark, "version1.key": cfg.Keys.(FileKey).Path} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cfg
}

// TestAnUpgradedNodeHasItsState reads what the program of before wrote, and writes it anew.
func TestAnUpgradedNodeHasItsState(t *testing.T) {
	cfg := versionOne(t)
	sameState(t, cfg, 1)
	cfg.Serving = (&served{doc: document(t, "alice"), kept: one(canary, 7)}).serving
	s := New(cfg)
	if _, err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(cfg.Mark)
	if err != nil {
		t.Fatal(err)
	}
	if !s.save(t.Context()) {
		t.Fatal(s.Facts().Failed)
	}
	for path, want := range map[string]string{s.path(): format, cfg.Mark: formatOne} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(data), want+" ") {
			t.Errorf("%s begins with %.20q; expected %s", path, data, want)
		}
	}
	sameState(t, cfg, 2)
	// The old file and the old mark are older than what was written.
	data, err := os.ReadFile("testdata/version1.sealed")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg).Load(t.Context()); !errors.Is(err, ErrOlder) {
		t.Errorf("the file of before in place of the new: %v", err)
	}
	if err := os.WriteFile(cfg.Mark, old, 0o600); err != nil {
		t.Fatal(err)
	}
	sameState(t, cfg, 1)
}

// TestNothingStandsForAnother changes the format that a file says it has.
func TestNothingStandsForAnother(t *testing.T) {
	f := func(cfg Config, from, to string) {
		t.Helper()
		path := New(cfg).path()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{1, -1} {
			if err := os.WriteFile(path, bytes.Replace(data, []byte(from), []byte(to), n), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := New(cfg).Load(t.Context()); !errors.Is(err, ErrForm) {
				t.Errorf("%s as %s: %v", from, to, err)
			}
		}
	}
	f(versionOne(t), formatOne, format)
	f(written(t, &served{doc: document(t, "alice")}), format, formatOne)
	f(written(t, &served{doc: document(t, "alice")}), "state", "mark")
}

// TestAFileOfManyPiecesIsWholeOrRefused cuts one at each border of its chunks, which are
// those of secrets.SealWriter, and takes each chunk out.
func TestAFileOfManyPiecesIsWholeOrRefused(t *testing.T) {
	key := constant(make([]byte, keySize))
	now := Serving{document(t, strings.Repeat("a", 300_000)), one(strings.Repeat("b", 100_000), 7)}
	good := packed(t, key, now)
	f := func(what string, data []byte) {
		t.Helper()
		if _, err := unpack(t.Context(), key, node, bytes.NewReader(data)); !errors.Is(err, ErrForm) || !errors.Is(err, secrets.ErrKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	const chunk = 64<<10 + 16
	begin := bytes.IndexByte(good, '\n') + 1 + len(kindFile) + 32
	chunks := 0
	for at := begin; at < len(good); at += chunk {
		end := min(at+chunk, len(good))
		f("cut at a border", good[:at])
		f("cut in a chunk", good[:end-1])
		f("a chunk left out", append(bytes.Clone(good[:at]), good[end:]...))
		flipped := bytes.Clone(good)
		flipped[(at+end)/2] ^= 1
		f("a bit turned", flipped)
		chunks++
	}
	if chunks < 8 {
		t.Errorf("%d chunks; expected 8 at least", chunks)
	}
	st, err := unpack(t.Context(), key, node, bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	want, err := now.Document.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(st.Document, want) || !bytes.Equal(st.Kept[0].Value.Reveal(), now.Kept[0].Value.Reveal()) {
		t.Error("it came back as another")
	}
}

// FuzzUnpack shows that no file makes the node panic, and that none is taken that
// was not sealed here.
func FuzzUnpack(f *testing.F) {
	key := constant(make([]byte, keySize))
	now := Serving{document(f, "alice"), one("v", 1)}
	text, err := now.Document.Encode()
	if err != nil {
		f.Fatal(err)
	}
	h := head{Node: node, Sequence: 1}
	line, err := h.line(formatOne)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed(f, key, now))
	f.Add([]byte(line + kindOne))
	f.Add([]byte(format + " {}\n"))
	f.Add([]byte(family + "9 {\"node\":\"node-a\"}\nx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Each run seals anew, with another salt: what is taken must hold the same.
		st, err := unpack(t.Context(), key, node, bytes.NewReader(data))
		if err == nil && (!bytes.Equal(st.Document, text) || len(st.Kept) != 2) {
			t.Errorf("%q was taken", data)
		}
	})
}

// FuzzDecode shows that no content does, of either format, even one that was sealed.
func FuzzDecode(f *testing.F) {
	key := constant(make([]byte, keySize))
	for _, name := range []string{format, formatOne} {
		file, cfg := packed(f, key, Serving{document(f, "alice"), one("v", 1)}), Config{Keys: key}
		if name == formatOne {
			cfg = versionOne(f)
			var err error
			if file, err = os.ReadFile(New(cfg).path()); err != nil {
				f.Fatal(err)
			}
		}
		opened, err := begin(f.Context(), cfg.Keys, node, bytes.NewReader(file), name)
		if err != nil {
			f.Fatal(err)
		}
		var plain []byte
		if name == formatOne {
			plain, err = opened.box(kindOne)
		} else if r, e := secrets.NewUnsealReader(opened.rest, opened.key, kindFile, opened.line); e == nil {
			plain, err = io.ReadAll(r)
		}
		if err != nil || len(plain) == 0 {
			f.Fatalf("%d bytes, %v", len(plain), err)
		}
		f.Add(plain)
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		_ = decode(bytes.NewReader(data), &State{})
		_ = decodeOne(data, &State{})
	})
}
