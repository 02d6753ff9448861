package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/keyway-edge/keyway/policy"
)

func TestAccessLogLine(t *testing.T) {
	var out bytes.Buffer
	a := NewAccessLog(&out, 1)
	s := snapshot(t)
	f := finished(s, 200)
	a.write(f)
	if out.Len() != 0 {
		t.Error("lines are buffered")
	}
	if err := a.Flush(); err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(out.Bytes(), &v); err != nil {
		t.Fatalf("%q: %v", out.String(), err)
	}
	for key, want := range map[string]any{
		"msg": "request", "request_id": "0123", "client": "192.0.2.7", "method": "GET", "host": "a.test", "path": "/p", "protocol": "HTTP/1.1", "status": 200.0,
		"made_by": "service", "bytes_in": 100.0, "bytes_out": 200.0, "total_ms": 30.0, "upstream_ms": 20.0, "route": "r", "service": "s", "consumer": "c",
		"credential": "key-auth:k1@4", "tls": "TLS 1.3", "sni": "a.test", "certificate": "a.test@3", "upstream": "127.0.0.1:9", "tries": 2.0, "generation": 1.0,
	} {
		if v[key] != want {
			t.Errorf("%s is %v, want %v", key, v[key], want)
		}
	}
	if strings.Contains(out.String(), "topsecret") || strings.Contains(out.String(), "apikey") {
		t.Errorf("keys travel in queries and fields, which must not be logged: %s", out.String())
	}
	out.Reset()
	f.Err = errors.New("client gone")
	f.Context.Route, f.Context.Service, f.Context.Consumer, f.Context.Credential, f.Snapshot, f.X.Conn.TLS, f.X.Attempts = nil, nil, nil, nil, nil, nil, nil
	a.write(f)
	if err := a.Flush(); err != nil || !strings.Contains(out.String(), `"broken_off":"client gone"`) || strings.Contains(out.String(), `"route"`) {
		t.Errorf("%s, %v", out.String(), err)
	}
}

func TestAccessLogSample(t *testing.T) {
	s := snapshot(t)
	count := func(sample float64, status int) int {
		var out bytes.Buffer
		a := NewAccessLog(&out, sample)
		for range 1000 {
			a.write(finished(s, status))
		}
		if err := a.Flush(); err != nil {
			t.Fatal(err)
		}
		return bytes.Count(out.Bytes(), []byte("\n"))
	}
	if n := count(0, 200); n != 0 {
		t.Errorf("sample 0 logged %d of 1000", n)
	}
	if n := count(0, 500); n != 1000 {
		t.Errorf("failures are always logged: %d of 1000", n)
	}
	// Nine standard deviations around the mean: fails once in 10^18 runs.
	if n := count(0.5, 200); n < 358 || n > 642 {
		t.Errorf("sample 0.5 logged %d of 1000", n)
	}
}

func TestAccessLogReopens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	a, err := OpenAccessLog(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	s := snapshot(t)
	a.write(finished(s, 200))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	a.write(finished(s, 201))
	if err := a.Reopen(); err != nil {
		t.Fatal(err)
	}
	a.write(finished(s, 202))
	if err := a.Flush(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{path + ".1": 2, path: 1} {
		data, err := os.ReadFile(name)
		if err != nil || bytes.Count(data, []byte("\n")) != want {
			t.Errorf("%s has %q, want %d lines: %v", name, data, want, err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o037 != 0 {
		t.Errorf("mode %v: others must not read it", info.Mode())
	}
	if _, err := OpenAccessLog(filepath.Join(path, "below"), 1); err == nil || !strings.Contains(err.Error(), "opening the access log") {
		t.Errorf("got %v", err)
	}
}

// disk is a writer that is full for a while.
type disk struct {
	full bool
	bytes.Buffer
}

func (d *disk) Write(p []byte) (int, error) {
	if d.full {
		return 0, errors.New("no space left on device")
	}
	return d.Buffer.Write(p)
}

func TestAccessLogOutlivesAFullDisk(t *testing.T) {
	s, d := snapshot(t), &disk{full: true}
	a := NewAccessLog(d, 1)
	a.write(finished(s, 200))
	if err := a.Flush(); err == nil {
		t.Error("a failure must be told")
	}
	d.full = false
	a.write(finished(s, 201))
	if err := a.Flush(); err != nil || !strings.Contains(d.String(), `"status":201`) {
		t.Errorf("with room again it must write again: %q, %v", d.String(), err)
	}
}

func TestAccessLogFlushesEachSecondAndAtTheEnd(t *testing.T) {
	s := snapshot(t)
	synctest.Test(t, func(t *testing.T) {
		var d disk
		a := NewAccessLog(&d, 1)
		ctx, end := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		a.write(finished(s, 200))
		time.Sleep(time.Second)
		synctest.Wait()
		if n := strings.Count(d.String(), "\n"); n != 1 {
			t.Errorf("%d lines after a second", n)
		}
		a.write(finished(s, 200))
		end()
		if err := <-done; err != nil || strings.Count(d.String(), "\n") != 2 {
			t.Errorf("%d lines at the end, %v", strings.Count(d.String(), "\n"), err)
		}
	})
}

// FuzzAccessLine holds what clients write into the log to one line of JSON that reads as it was sent.
func FuzzAccessLine(f *testing.F) {
	for _, s := range []string{"", "/plain", "a\"b\\c", "line\nbreak\r\t\x00\x1f\x7f", "h\u00e9llo \u2028\u2029 \U0001f511", "bad \xff\xc3", "\xed\xa0\x80"} {
		f.Add(s, int64(1234567))
	}
	f.Fuzz(func(t *testing.T, s string, took int64) {
		var l object
		l.text(`{"a":"`, s)
		l.millis(`,"took":`, time.Duration(took))
		l.credential(`,"id":"`, &policy.Identity{Plugin: "p", ID: s, Version: 7})
		l = append(l, '}', '\n')
		if bytes.IndexByte(l, '\n') != len(l)-1 || !utf8.Valid(l) {
			t.Fatalf("%q is not one line of UTF-8", l)
		}
		var got struct {
			A, ID string
			Took  float64
		}
		if err := json.Unmarshal(l, &got); err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		want := string([]rune(s)) // what is not UTF-8 becomes U+FFFD
		if got.A != want || got.ID != "p:"+want+"@7" {
			t.Errorf("%q reads as %q and %q", s, got.A, got.ID)
		}
		if d := time.Duration(took).Microseconds(); got.Took != float64(d)/1000 {
			t.Errorf("%d us reads as %v ms", d, got.Took)
		}
	})
}

// TestAccessLineAllocates holds a line to no garbage.
func TestAccessLineAllocates(t *testing.T) {
	f := finished(snapshot(t), 200)
	var at stamp
	line := appendExchange(nil, f, &at)
	if n := testing.AllocsPerRun(100, func() { line = appendExchange(line[:0], f, &at) }); n > 0 {
		t.Errorf("a line of the access log makes %.1f allocations", n)
	}
}

// pieces notes what is written at once.
type pieces []string

func (p *pieces) Write(b []byte) (int, error) {
	*p = append(*p, string(b))
	return len(b), nil
}

// Whatever is written at once are whole lines; while another process writes to the same
// pipe, no more than fits in.
func TestAccessLogWritesWholeLines(t *testing.T) {
	s := snapshot(t)
	for _, shared := range []bool{false, true} {
		var got pieces
		a := NewAccessLog(&got, 1)
		a.Share(shared)
		for range 1000 {
			a.write(finished(s, 200))
		}
		if err := a.Flush(); err != nil {
			t.Fatal(err)
		}
		longest, lines := 0, 0
		for _, p := range got {
			longest, lines = max(longest, len(p)), lines+strings.Count(p, "\n")
			if !strings.HasSuffix(p, "}\n") || !strings.HasPrefix(p, "{") {
				t.Fatalf("a piece begins or ends inside a line: %.60q ... %q", p, p[max(0, len(p)-60):])
			}
		}
		if lines != 1000 || shared && longest > 4096 || !shared && longest <= 4096 {
			t.Errorf("shared %v: %d lines in pieces of at most %d bytes", shared, lines, longest)
		}
	}
}

// TestStamp holds times to what the library writes, within a second and over its end.
func TestStamp(t *testing.T) {
	var s stamp
	base := time.Date(2026, 11, 30, 23, 59, 58, 0, time.FixedZone("", 5400))
	for _, in := range []time.Location{*time.UTC, *base.Location()} {
		for _, ns := range []int64{0, 1, 10, 999_999_999, 1_000_000_000, 1_120_000_000, 86_400_000_000_007} {
			at := base.Add(time.Duration(ns)).In(&in)
			s.zone, s.head = s.zone[:0], s.head[:0]
			for range 2 { // made, and then kept
				if got := string(s.append(nil, at)); got != at.Format(time.RFC3339Nano) {
					t.Errorf("%s, want %s", got, at.Format(time.RFC3339Nano))
				}
			}
		}
	}
}
