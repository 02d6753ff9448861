package compression

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
	"github.com/keyway-edge/keyway/routing/spec"
)

// plugin compiles a config, with what stands for the node's memory.
func plugin(t testing.TB, config map[string]any) func(*policy.Context) {
	t.Helper()
	full := map[string]any{"codings": []any{"zstd", "br", "gzip"}, "types": []any{"text/*", "application/json", "application/*+json"}, "min_length": float64(10), "level": "fast"}
	for k, v := range config {
		full[k] = v
	}
	var mu sync.Mutex
	kept := map[string]any{}
	env := &policy.Env{Shared: func(key string, make func() any) any {
		mu.Lock()
		defer mu.Unlock()
		if kept[key] == nil {
			kept[key] = make()
		}
		return kept[key]
	}}
	instance, err := Kind().Compile(env, &spec.Plugin{Config: full})
	if err != nil {
		t.Fatal(err)
	}
	return instance.Header
}

// answered is a response in hand for a client that accepts codings.
func answered(accepts, contentType, text string) *policy.Context {
	c := vectortest.NewContext("GET", "/", "h")
	if accepts != "" {
		c.X.Request.Fields.Add("Accept-Encoding", accepts)
	}
	c.X.Response = exchange.Response{Status: 200, Length: int64(len(text)), Body: strings.NewReader(text)}
	c.X.Response.Fields.Add("Content-Type", contentType)
	return c
}

// decoded reads a body by its coding.
func decoded(t testing.TB, coding string, r io.Reader) string {
	t.Helper()
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		var d *zstd.Decoder
		d, err = zstd.NewReader(r, zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderConcurrency(1))
		r = d
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", coding, err)
	}
	return string(text)
}

func TestReadmeExample(t *testing.T) {
	doc := vectortest.Example(t, Kind())
	header := plugin(t, doc.Plugins[0].Config)
	c := answered("gzip", "text/html; charset=utf-8", strings.Repeat("ab", 1000))
	header(c)
	if c.X.Response.Fields.Get("Content-Encoding") != "gzip" {
		t.Errorf("%+v", c.X.Response.Fields)
	}
}

func TestNegotiation(t *testing.T) {
	header := plugin(t, nil)
	for accepts, want := range map[string]string{
		"": "", "identity": "", "deflate": "", "gzip": "gzip", "GZIP": "gzip", "x-gzip": "gzip", "br": "br", "gzip, br": "br", "gzip, deflate, br, zstd": "zstd", "*": "zstd",
		"gzip;q=1, br;q=0.5, zstd;q=0.1": "gzip", "zstd;q=0, *": "br", "*;q=0": "", "gzip;q=0": "", "gzip; q=0.5, identity": "", "identity;q=0.2, gzip;q=0.5": "gzip",
		"gzip;q=2": "", "gzip;q=x": "", "gzip;q=NaN": "", "gzip;level=3": "gzip", "br;q=0.000": "", ", ,gzip": "gzip", "notgzip, gzipped": "",
	} {
		c := answered(accepts, "text/plain", strings.Repeat("text ", 100))
		header(c)
		r := &c.X.Response
		if got := r.Fields.Get("Content-Encoding"); got != want {
			t.Errorf("Accept-Encoding %q: %q, want %q", accepts, got, want)
			continue
		}
		if r.Fields.Get("Vary") != "Accept-Encoding" {
			t.Errorf("Accept-Encoding %q: Vary %q", accepts, r.Fields.Get("Vary"))
		}
		if text := decoded(t, want, r.Body); text != strings.Repeat("text ", 100) {
			t.Errorf("Accept-Encoding %q: %d bytes came out", accepts, len(text))
		}
	}
}

func TestWhatPassesAsItIs(t *testing.T) {
	header := plugin(t, nil)
	for name, change := range map[string]func(c *policy.Context){
		"encoded":            func(c *policy.Context) { c.X.Response.Fields.Add("Content-Encoding", "br") },
		"encoded in unknown": func(c *policy.Context) { c.X.Response.Fields.Add("Content-Encoding", "aes128gcm") },
		"no-transform":       func(c *policy.Context) { c.X.Response.Fields.Add("Cache-Control", "public, No-Transform") },
		"a part":             func(c *policy.Context) { c.X.Response.Status = 206 },
		"a range":            func(c *policy.Context) { c.X.Response.Fields.Add("Content-Range", "bytes 0-9/20") },
		"nothing":            func(c *policy.Context) { c.X.Response.Status, c.X.Response.Length, c.X.Response.Body = 204, 0, nil },
		"not modified":       func(c *policy.Context) { c.X.Response.Status = 304 },
		"short":              func(c *policy.Context) { c.X.Response.Length = 9 },
		"empty":              func(c *policy.Context) { c.X.Response.Length = 0 },
		"a picture":          func(c *policy.Context) { c.X.Response.Fields.Set("Content-Type", "image/png") },
		"of no type":         func(c *policy.Context) { c.X.Response.Fields.Del("Content-Type") },
		"another tree":       func(c *policy.Context) { c.X.Response.Fields.Set("Content-Type", "application/jsonx") },
		"upgraded": func(c *policy.Context) {
			c.X.Response.Status, c.X.Response.Switch = 101, struct{ io.ReadWriteCloser }{}
		},
	} {
		c := answered("gzip, br, zstd", "text/plain", strings.Repeat("text ", 100))
		c.X.Response.Fields.Add("ETag", `"1"`)
		change(c)
		before, length, body := c.X.Response.Fields.Get("Content-Encoding"), c.X.Response.Length, c.X.Response.Body
		header(c)
		r := &c.X.Response
		if r.Fields.Get("Content-Encoding") != before || r.Length != length || r.Body != body || r.Fields.Get("ETag") != `"1"` || r.Fields.Has("Vary") {
			t.Errorf("%s: changed to %+v", name, r)
		}
	}
}

func TestFieldsThatSpeakOfTheBytes(t *testing.T) {
	header := plugin(t, nil)
	c := answered("gzip", "application/problem+json", strings.Repeat("text ", 100))
	f := &c.X.Response.Fields
	for name, v := range map[string]string{"ETag": `"1"`, "Accept-Ranges": "bytes", "Content-MD5": "x", "Content-Digest": "x", "Vary": "Origin", "Content-Encoding": "identity"} {
		f.Add(name, v)
	}
	header(c)
	if f.Get("ETag") != `W/"1"` || f.Has("Accept-Ranges") || f.Has("Content-MD5") || f.Has("Content-Digest") || f.Count("Content-Encoding") != 1 || f.Count("Vary") != 2 || c.X.Response.Length != -1 {
		t.Errorf("fields %+v, length %d", f, c.X.Response.Length)
	}
	head := answered("gzip", "text/plain", strings.Repeat("text ", 100))
	head.X.Request.Method = "HEAD"
	head.X.Response.Body = nil
	header(head)
	if head.X.Response.Fields.Get("Content-Encoding") != "gzip" || head.X.Response.Body != nil || head.X.Response.Length != -1 {
		t.Errorf("HEAD must be told what GET would be: %+v", head.X.Response)
	}
}

func TestBodiesComeOutAsTheyWentIn(t *testing.T) {
	noise := make([]byte, 300<<10)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, coding := range []string{"gzip", "br", "zstd"} {
		for _, level := range []string{"fast", "better"} {
			header := plugin(t, map[string]any{"codings": []any{coding}, "level": level})
			for range 3 { // encoders are used again
				for name, text := range map[string]string{"text": strings.Repeat("a line of text\n", 40000), "noise": string(noise), "short": "0123456789", "one byte reads": strings.Repeat("x", 3000)} {
					c := answered(coding, "text/plain", text)
					if name == "one byte reads" {
						c.X.Response.Body = iotest.OneByteReader(c.X.Response.Body)
					}
					header(c)
					raw, err := io.ReadAll(iotest.HalfReader(c.X.Response.Body))
					if err != nil {
						t.Fatal(err)
					}
					if got := decoded(t, coding, bytes.NewReader(raw)); got != text {
						t.Errorf("%s, %s, %s: %d bytes came out of %d", coding, level, name, len(got), len(text))
					}
					if name == "text" && len(raw) > len(text)/20 {
						t.Errorf("%s, %s: %d bytes became %d", coding, level, len(text), len(raw))
					}
				}
			}
		}
	}
}

// TestStreamsAreNotHeldBack reads each event of a stream as soon as it was sent.
func TestStreamsAreNotHeldBack(t *testing.T) {
	for _, coding := range []string{"gzip", "br", "zstd"} {
		header := plugin(t, map[string]any{"codings": []any{coding}})
		events, upstream := io.Pipe()
		c := answered(coding, "text/event-stream", "")
		c.X.Response.Length, c.X.Response.Body = -1, events
		header(c)
		out, in := io.Pipe()
		go func() { _, err := io.Copy(in, c.X.Response.Body); _ = in.CloseWithError(err) }()
		text := make(chan string)
		go func() {
			var r io.Reader
			switch coding {
			case "gzip":
				r, _ = gzip.NewReader(out)
			case "br":
				r = brotli.NewReader(out)
			case "zstd":
				d, _ := zstd.NewReader(out, zstd.WithDecoderConcurrency(1))
				r = d
			}
			p := make([]byte, 100)
			for {
				n, err := r.Read(p)
				if n > 0 {
					text <- string(p[:n])
				}
				if err != nil {
					close(text)
					return
				}
			}
		}()
		for _, event := range []string{"data: one\n\n", "data: two\n\n"} {
			if _, err := io.WriteString(upstream, event); err != nil {
				t.Fatal(err)
			}
			if got := <-text; got != event { // hangs where the stream is held back
				t.Errorf("%s: %q", coding, got)
			}
		}
		_ = upstream.Close()
		if _, more := <-text; more {
			t.Errorf("%s: more after the end", coding)
		}
	}
}

func TestABodyThatBreaksOffIsNoCompleteOne(t *testing.T) {
	broken := errors.New("broken")
	for _, coding := range []string{"gzip", "br", "zstd"} {
		header := plugin(t, map[string]any{"codings": []any{coding}})
		c := answered(coding, "text/plain", "")
		c.X.Response.Length, c.X.Response.Body = -1, io.MultiReader(strings.NewReader(strings.Repeat("text ", 100)), iotest.ErrReader(broken))
		header(c)
		raw, err := io.ReadAll(c.X.Response.Body)
		if !errors.Is(err, broken) {
			t.Errorf("%s: %v", coding, err)
		}
		r := bytes.NewReader(raw)
		var d io.Reader = brotli.NewReader(r)
		switch coding {
		case "gzip":
			d, _ = gzip.NewReader(r)
		case "zstd":
			d, _ = zstd.NewReader(r)
		}
		if text, err := io.ReadAll(d); err == nil || len(text) != 500 {
			t.Errorf("%s: %d bytes and %v; what came before is there, and no end", coding, len(text), err)
		}
	}
}

type closer struct {
	io.Reader
	closed int
}

func (c *closer) Close() error { c.closed++; return nil }

func TestCloseGivesTheEncoderBackAndClosesTheSource(t *testing.T) {
	header := plugin(t, nil)
	for _, read := range []bool{true, false} {
		source := &closer{Reader: strings.NewReader(strings.Repeat("text ", 10000))}
		c := answered("zstd", "text/plain", "")
		c.X.Response.Length, c.X.Response.Body = -1, source
		header(c)
		b := c.X.Response.Body.(*body)
		if read {
			if _, err := b.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Close(); err != nil || source.closed != 1 || b.work != nil {
			t.Errorf("closed %d times, %v", source.closed, err)
		}
		if _, err := b.Read(make([]byte, 1)); err == nil {
			t.Error("a closed body can be read")
		}
	}
}

func TestConfig(t *testing.T) {
	for config, field := range map[string]string{
		"{codings: [deflate]}": "codings", "{types: [text]}": "types", "{types: ['*/*']}": "types", "{types: ['text/html; charset=utf-8']}": "types", "{types: [text/h*l]}": "types",
		"{min_length: -1}": "min_length", "{level: best}": "level", "{levels: fast}": "levels",
	} {
		_, problems := spec.Load([]spec.Source{{Name: "x", Data: []byte("_format_version: \"3.0\"\nplugins: [{name: compression, config: " + config + "}]\n")}}, spec.Schemas{Name: Kind().Schema})
		if len(problems) != 1 || !strings.Contains(problems.Error(), field) {
			t.Errorf("%s: %v", config, problems)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	text := strings.Repeat(`{"id": 17, "name": "a line of text", "tags": ["one", "two"]},`, 200)
	for _, coding := range []string{"gzip", "br", "zstd"} {
		b.Run(coding, func(b *testing.B) {
			header := plugin(b, map[string]any{"codings": []any{coding}})
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				c := answered(coding, "application/json", text)
				header(c)
				if _, err := io.Copy(io.Discard, c.X.Response.Body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
