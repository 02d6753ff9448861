package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestASourceOfGarbage is fault F-21 in a short form: one source sends garbage a hundred
// times a second, as a pair and as a secret. Others are as quick as before, requests go
// on, the log has a line a second about it, and the node is not busy with it.
func TestASourceOfGarbage(t *testing.T) {
	const span = 10 * time.Second
	bad, good := filepath.Join(t.TempDir(), "bad"), filepath.Join(t.TempDir(), "good")
	s := &shop{pairDir: good}
	cert, key := pair(t, "shop.test", "shop.test")
	s.replace(t, cert, key)
	file(t, good, "api", "key-0")
	badCert, badKey := pair(t, "bad.test", "bad.test")
	for name, text := range map[string]string{"tls.crt": badCert, "tls.key": badKey, "api.json": `{"key":"bad-0"}`} {
		file(t, bad, name, text)
	}
	up := freePort(t)
	s.a = originAt(t, up)
	s.gateway = start(t, options{document: fmt.Sprintf(`
_format_version: "3.0"
vaults: [{name: file, prefix: bad, config: {root: %s}}, {name: file, prefix: good, config: {root: %s}}]
certificates:
- {cert: "{vault://bad/tls.crt/}", key: "{vault://bad/tls.key/}", snis: [{name: bad.test}]}
- {cert: "{vault://good/tls.crt/}", key: "{vault://good/tls.key/}", snis: [{name: shop.test}]}
services: [{name: shop, url: "http://127.0.0.1:%d", routes: [{name: open, hosts: [shop.test], paths: [/open]}, {name: keyed, hosts: [shop.test], paths: [/keyed], plugins: [{name: key-auth}]}]}]
consumers: [{username: c, keyauth_credentials: [{key: "{vault://good/api/}"}, {key: "{vault://bad/api.json/key}"}, {key: steady}]}]
`, bad, good, up)})
	put := func(dir, name, text string) {
		tmp := filepath.Join(filepath.Dir(dir), "."+name)
		if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	opens := func(key string) bool {
		code, err := s.ask(s.client(false), "/keyed", key)
		return err == nil && code == 200
	}
	stop, sender := make(chan struct{}), make(chan struct{})
	var sent atomic.Int64
	go func() {
		defer close(sender)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			n := sent.Add(1)
			garbage := make([]byte, 2000)
			for i := range garbage {
				garbage[i] = byte(rand.IntN(256))
			}
			put(bad, []string{"tls.crt", "tls.key", "api.json"}[n%3], string(garbage)+fmt.Sprint(n))
		}
	}()
	// The log takes what comes at once, and then a line a second.
	poll(t, "the log has had enough", 30*time.Second, func() bool {
		return strings.Contains(s.log.String(), `"source":"bad"`) && strings.Contains(s.log.String(), `"lines_left_out"`)
	})
	var after []time.Duration
	own := 0
	before, used, began := s.log.String(), s.busy(), time.Now()
	for time.Since(began) < span {
		own++
		cert, key := pair(t, "shop.test", "shop.test")
		at := time.Now()
		s.replace(t, cert, key)
		put(good, "api", fmt.Sprintf("key-%d", own))
		poll(t, "the other source's pair is served", 20*time.Second, func() bool { return s.serial(t) == serialOf(t, cert) })
		poll(t, "the other source's key opens", 20*time.Second, func() bool { return opens(fmt.Sprintf("key-%d", own)) })
		after = append(after, time.Since(at))
		time.Sleep(900 * time.Millisecond)
	}
	close(stop)
	<-sender
	took := time.Since(began)
	cpu := float64(s.busy()-used) / float64(took)
	lines, told := 0, map[string]int{}
	for line := range strings.Lines(strings.TrimPrefix(s.log.String(), before)) {
		var l struct{ Msg, Name, Source string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if l.Source != "good" && !strings.Contains(l.Name, "good") && l.Name != "shop.test" {
			lines++
			told[l.Msg]++
		}
	}
	slices.Sort(after)
	half, worst := after[len(after)/2], after[len(after)-1]
	t.Logf("%d pieces of garbage in %s: %d changes of another source were in use after %s, %s at most; %d lines in the log, %.0f %% of a processor", sent.Load(), took.Round(time.Second), own, half.Round(time.Millisecond), worst.Round(time.Millisecond), lines, cpu*100)
	if half > time.Second { // one that waits for a processor says nothing of the others
		t.Errorf("changes of another source took %s, half of them at most 1s", after)
	}
	if most := int(took.Seconds()) + 2; lines > most || lines == 0 {
		t.Errorf("%d lines in %s, at most %d: %v", lines, took.Round(time.Second), most, told)
	}
	if cpu > 0.2 {
		t.Errorf("%.0f %% of a processor, at most 20", cpu*100)
	}
	if servedSerial(t, s.tls, "bad.test") != serialOf(t, badCert) || !opens("bad-0") || !opens("steady") {
		t.Error("what was good last is not in use any more")
	}
	next, nextKey := pair(t, "bad.test", "bad.test")
	put(bad, "tls.crt", next)
	put(bad, "tls.key", nextKey)
	poll(t, "a good pair of that source is served", 20*time.Second, func() bool { return servedSerial(t, s.tls, "bad.test") == serialOf(t, next) })
}
