package integration

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// rejected is how many versions a node has refused, by all checks together.
func (g *gateway) rejected() (n int) {
	_, text := g.read("/metrics")
	for _, m := range regexp.MustCompile(`(?m)^keyway_credential_rejected_total\{.*\} (\d+)$`).FindAllStringSubmatch(text, -1) {
		c, err := strconv.Atoi(m[1])
		if err != nil {
			g.t.Fatal(err)
		}
		n += c
	}
	return n
}

// lose has the pair's files removed: that is told, and the pair that was read last serves.
func (s *shop) lose(t *testing.T, what string, remove func() error) {
	t.Helper()
	good := s.serial(t)
	losses := func() int {
		told, err := s.run("audit", "query", "--kind", "secret", "--event", "stale")
		if err != nil {
			return 0
		}
		return strings.Count(told, "{vault://pair/tls.crt/}")
	}
	before := losses()
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	poll(t, what+": the loss is told", 20*time.Second, func() bool {
		list, err := s.run("secrets", "list")
		return err == nil && strings.Contains(list, "stale") && losses() > before
	})
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if now := s.serial(t); now != good {
			t.Fatalf("%s gone: %s is served, want what was good last", what, now)
		}
	}
	if ready := s.get("/status/ready"); ready != 200 {
		t.Errorf("%s gone: ready answers %d", what, ready)
	}
}

// TestASourceThatIsDeletedAndComesBack is case C-03: while its files, and then its
// whole folder, are gone the pair that was read last serves, which is told; a new one
// is taken within two seconds.
func TestASourceThatIsDeletedAndComesBack(t *testing.T) {
	s := newShop(t, nil)
	load := s.crowd(4)
	for what, remove := range map[string]func() error{
		"files": func() error {
			return errors.Join(os.Remove(filepath.Join(s.pairDir, "tls.crt")), os.Remove(filepath.Join(s.pairDir, "tls.key")))
		},
		"folder": func() error { return os.RemoveAll(s.pairDir) },
	} {
		// If it took longer, two of three: one that waits for a processor says nothing of the others.
		for quick, slow := 0, 0; quick <= slow; {
			s.lose(t, what, remove)
			cert, key := pair(t, "shop.test", "shop.test")
			s.replace(t, cert, key)
			began := time.Now()
			poll(t, what+": the new pair is served", 20*time.Second, func() bool { return s.serial(t) == serialOf(t, cert) })
			took := time.Since(began)
			if took <= 2*time.Second {
				quick++
			} else if slow++; slow > 1 {
				t.Fatalf("%s: the new pair was served after %s, at most 2s", what, took)
			}
		}
	}
	load.end()
	if load.lost.Load() > 0 {
		t.Errorf("%d of %d requests lost, the first: %v", load.lost.Load(), load.sent.Load(), load.first.Load())
	}
}

// TestASourceThatBreaks is case C-04: emptied, of another kind, and a mebibyte of
// garbage are each refused and counted, a key that is missing is told as that; the
// good pair serves on.
func TestASourceThatBreaks(t *testing.T) {
	s := newShop(t, nil)
	good := s.serial(t)
	cert, key := pair(t, "shop.test", "shop.test")
	garbage := make([]byte, 1<<20)
	for i := range garbage {
		garbage[i] = byte(rand.IntN(256))
	}
	for _, c := range []struct{ what, cert, key string }{
		{"emptied", "", ""},
		{"wrong type: a key as the certificate", key, key},
		{"wrong type: JSON", `{"cert":"` + strings.Repeat("x", 100) + `"}`, `{}`},
		{"a mebibyte of garbage", string(garbage[:1<<20-1]), string(garbage[:1<<20-1])},
		{"a pair with a mebibyte of garbage behind it", cert + string(garbage), key},
		{"PEM without an end", cert + strings.Repeat("-----BEGIN CERTIFICATE-----\n", 20000), key},
	} {
		before := s.rejected()
		s.replace(t, c.cert, c.key)
		poll(t, c.what+" is counted", 20*time.Second, func() bool { return s.rejected() > before })
		if now := s.serial(t); now != good {
			t.Errorf("%s: another certificate is served", c.what)
		}
	}
	if err := os.Remove(filepath.Join(s.pairDir, "tls.key")); err != nil {
		t.Fatal(err)
	}
	poll(t, "a missing key is told", 20*time.Second, func() bool {
		list, err := s.run("secrets", "list")
		return err == nil && regexp.MustCompile(`tls\.key/\} +stale`).MatchString(list)
	})
	if now := s.serial(t); now != good {
		t.Error("the key is missing: another certificate is served")
	}
	s.replace(t, cert, key)
	poll(t, "a good pair is served again", 20*time.Second, func() bool { return s.serial(t) == serialOf(t, cert) })
	if text := s.log.String(); strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, traces(t, key)[2]) {
		t.Error("a key is in the log")
	}
}

// TestASourceGoesBackToAnOlderVersion is case C-06: renewed with a new key and then
// rolled back by whoever keeps the source: taken, and the log has serial and end.
func TestASourceGoesBackToAnOlderVersion(t *testing.T) {
	s := newShop(t, nil)
	oldCert, oldKey := pair(t, "shop.test", "shop.test")
	time.Sleep(1100 * time.Millisecond) // certificates tell time in seconds
	newCert, newKey := pair(t, "shop.test", "shop.test")
	for _, c := range [][2]string{{oldCert, oldKey}, {newCert, newKey}, {oldCert, oldKey}} {
		s.replace(t, c[0], c[1])
		poll(t, "it is served", 20*time.Second, func() bool { return s.serial(t) == serialOf(t, c[0]) })
	}
	type line struct {
		Msg, Kind, Name, Result, Serial string
		NotAfter                        time.Time `json:"not_after"`
		New                             int       `json:"new_version"`
	}
	var swaps []line
	for text := range strings.Lines(s.log.String()) {
		var l line
		if json.Unmarshal([]byte(text), &l) == nil && l.Msg == "credential changed" && l.Kind == "certificate" {
			swaps = append(swaps, l)
		}
	}
	if len(swaps) != 4 || swaps[1].Serial != swaps[3].Serial || swaps[1].Serial == swaps[2].Serial || swaps[3].Serial == "" {
		t.Fatalf("the log tells %+v", swaps)
	}
	if d := swaps[2].NotAfter.Sub(swaps[3].NotAfter); d <= 0 || d > time.Minute || time.Until(swaps[3].NotAfter) < 29*24*time.Hour {
		t.Errorf("the log tells the ends %s and %s", swaps[2].NotAfter, swaps[3].NotAfter)
	}
	if text := s.log.String(); strings.Contains(text, "PRIVATE KEY") {
		t.Error("a key is in the log")
	}
}
