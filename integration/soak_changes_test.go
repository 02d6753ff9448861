package integration

import (
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// certificates gives two names new ones each second, and sees each served.
func (k *soak) certificates() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i := 0; k.running(); i += 2 {
		if i%32 == 30 {
			k.badPair()
		}
		for j := i; j < i+2; j++ {
			n := j % soakNames
			k.fleet.rotate(k.t, n)
			k.book.happened("certificate", "%s is %s", k.fleet.name(n), k.fleet.newest(n))
			k.seen(n)
		}
		select {
		case <-tick.C:
		case <-k.stop:
		}
	}
}

// seen waits until the newest certificate of a name is served.
func (k *soak) seen(n int) {
	at := time.Now()
	l := &clients{g: k.g, roots: k.roots}
	for want := k.fleet.newest(n); l.shown(k.fleet.name(n)) != want; pause(k.never, 10*time.Millisecond) {
		if k.late(at, time.Second) {
			k.book.wrongly("certificates", "%s: %s is not served a second after it came", k.fleet.name(n), want)
			return
		}
	}
	k.slowestSwap = max(k.slowestSwap, time.Since(at))
}

// badPair puts a certificate in place whose key is another's: it is refused, and what
// serves goes on.
func (k *soak) badPair() {
	cert, _ := k.fleet.issue(k.fleet.name(0))
	dir := filepath.Join(k.fleet.dir, "n0")
	good, err := os.ReadFile(filepath.Join(dir, "tls.crt"))
	if err != nil {
		k.book.wrongly("certificates", "%v", err)
		return
	}
	const series = `keyway_credential_rejected_total{check="key_mismatch"}`
	before := k.g.counter(k.t, series)
	put := func(text string) {
		file(k.t, dir, ".crt.new", text)
		if err := os.Rename(filepath.Join(dir, ".crt.new"), filepath.Join(dir, "tls.crt")); err != nil {
			k.book.wrongly("certificates", "%v", err)
		}
	}
	k.book.happened("bad certificate", "%s", k.fleet.name(0))
	put(cert)
	for at := time.Now(); k.g.counter(k.t, series) <= before; pause(k.never, 10*time.Millisecond) {
		if k.late(at, 5*time.Second) {
			k.book.wrongly("certificates", "a pair that does not match is not refused within 5s")
			break
		}
	}
	put(string(good))
}

// documents changes the document each five seconds and has it read: by the command,
// by SIGHUP, by the node's own watch. Each fourth time a bad one comes before.
func (k *soak) documents() {
	for g := 1; ; g++ {
		pause(k.stop, 5*time.Second)
		if !k.running() {
			return
		}
		if g%4 == 2 {
			k.book.happened("bad document", "before generation %d", g)
			k.g.write("_format_version: \"3.0\"\nservices: [{name: a, hots: b}]\n")
			if out, err := k.g.run("reload"); err == nil || !strings.Contains(out, "hots") {
				k.book.wrongly("documents", "a bad one is taken: %s", out)
			}
		}
		k.book.happened("reload", "generation %d", g)
		k.g.write(k.document(g))
		at, limit := time.Now(), 5*time.Second
		switch g % 3 {
		case 0:
			if out, err := k.g.run("reload"); err != nil {
				k.book.wrongly("documents", "generation %d: %v: %s", g, err, out)
			}
			limit = 0
		case 1:
			if err := k.g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				k.book.wrongly("documents", "%v", err)
			}
		}
		for !k.serves(g, true) {
			if limit == 0 || k.late(at, limit) {
				k.book.wrongly("documents", "generation %d does not serve %s after it was written", g, time.Since(at))
				break
			}
			pause(k.never, 10*time.Millisecond)
		}
		k.book.happened("reloaded", "generation %d", g)
		if !k.serves(g-3, false) {
			k.book.wrongly("documents", "generation %d: a route that is gone still answers", g)
		}
	}
}

// serves says whether the route of a generation answers, or does not.
func (k *soak) serves(generation int, want bool) bool {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := c.Get(fmt.Sprintf("http://%s/generation-%d", k.g.proxy, generation))
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	if want {
		return resp.StatusCode == http.StatusOK && string(body) == fmt.Sprintf("generation %d", generation)
	}
	return resp.StatusCode == http.StatusNotFound
}

// secrets rotates keys of a consumer, one in a file and one in the sealed store, and the
// credential of an upstream, which refuses what is older than the one before.
func (k *soak) secrets() {
	for i := 1; ; i++ {
		pause(k.stop, 3*time.Second)
		if !k.running() {
			return
		}
		k.rotateDoor(i)
		if i%2 == 0 {
			continue
		}
		which, key := i/2%2, fmt.Sprintf("soak-key-%d", i)
		k.book.happened("key", "of the %s, number %d", []string{"file", "sealed store"}[which], i)
		if which == 0 {
			k.secret("api", key)
		} else {
			keep(k.t, k.g.dir, "soak-key", key)
		}
		// The one before stays good for its overlap, a minute.
		for at := time.Now(); !k.opens(key); pause(k.never, 20*time.Millisecond) {
			if k.late(at, 5*time.Second) {
				k.book.wrongly("secrets", "key %d does not open 5s after it came", i)
				break
			}
		}
		k.key[which].Store(key)
	}
}

// secret puts a value in a file, at once.
func (k *soak) secret(name, value string) {
	file(k.t, k.keys, name+".new", value)
	if err := os.Rename(filepath.Join(k.keys, name+".new"), filepath.Join(k.keys, name)); err != nil {
		k.book.wrongly("secrets", "%v", err)
	}
}

func (k *soak) rotateDoor(i int) {
	value := fmt.Sprintf("soak-door-%d", i)
	k.door.mu.Lock()
	defer k.door.mu.Unlock()
	k.secret("door", value)
	k.door.known, k.door.since, k.door.taken = append([]string{value}, k.door.known...), time.Now(), 2
	k.door.known = k.door.known[:min(len(k.door.known), 20)]
	if i > 0 {
		k.book.happened("upstream credential", "number %d", i)
	}
}

// opens says whether a key opens the route that asks for one.
func (k *soak) opens(key string) bool {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := c.Do(request("GET", "http://"+k.g.proxy+"/keyed/block/1024", nil, "apikey", key))
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// deaths kills targets in turn, one at a time, and sees each get traffic when it is back.
func (k *soak) deaths() {
	var all []*target
	for _, pool := range []string{"plain", "grpc", "tls", "tcp", "h2", "udp", "through"} {
		all = append(all, k.pools[pool]...)
	}
	mathrand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for i := 0; ; i++ {
		k.rest(k.killEvery)
		if !k.running() {
			return
		}
		x := all[i%len(all)]
		gone, back := k.book.dies(x.pool, x.name)
		x.end()
		gone()
		k.rest(k.killEvery)
		end, err := x.begin(x)
		if err != nil {
			k.book.wrongly("targets", "%s does not come back: %v", x.name, err)
			return
		}
		x.end = end
		back()
		if !k.running() {
			return
		}
		within := 30 * time.Second
		if x.pool == "udp" {
			within = 3 * time.Minute // sessions stay where they are, and there are three at a time
		}
		before, at := x.served.Load(), time.Now()
		for k.running() && !k.used(x, before) {
			if k.late(at, within) {
				k.book.wrongly("targets", "%s got no traffic in the %v after it had returned", x.name, within)
				break
			}
			pause(k.stop, 20*time.Millisecond)
		}
		k.book.happened("used again", "%s", x.name)
	}
}

// used says whether a target gets traffic; of one that cannot say so, whether the
// node takes it for healthy.
func (k *soak) used(x *target, before int64) bool {
	if x.silent {
		return k.g.counter(k.t, fmt.Sprintf(`keyway_upstream_target_healthy{target=%q,upstream=%q}`, x.addr, x.pool+".up")) == 1
	}
	return x.served.Load() > before+2
}
