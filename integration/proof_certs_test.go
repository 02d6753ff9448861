package integration

import (
	"crypto/tls"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// debug are the settings of a node that is to say all it can.
func debug(more map[string]string) map[string]string {
	env := map[string]string{"KEYWAY_LOG_LEVEL": "debug", "KEYWAY_ACCESS_LOG": "stdout"}
	for k, v := range more {
		env[k] = v
	}
	return env
}

// signedFleet is a fleet of names whose pairs an authority signs. Keys of them are
// added to the canaries.
func signedFleet(t *testing.T, a *authority, names int, c *canaries) *fleet {
	t.Helper()
	f := &fleet{dir: filepath.Join(t.TempDir(), "pairs"), known: map[string][]version{}}
	f.issue = func(name string) (string, string) { return encode(t, a.server(t, name)) }
	f.watch(c)
	for i := range names {
		f.rotate(t, i)
	}
	return f
}

// watch makes the keys of the first pairs to come canaries, and those of every
// hundredth after.
func (f *fleet) watch(c *canaries) {
	issue, n := f.issue, 0
	f.issue = func(name string) (string, string) {
		cert, key := issue(name)
		if n++; n <= 100 || n%100 == 0 && n <= 10000 {
			c.add(key)
		}
		return cert, key
	}
}

// document has one certificate for each name and one service for all.
func (f *fleet) document(names int, origin string) string {
	var doc strings.Builder
	host, port, _ := strings.Cut(origin, ":")
	fmt.Fprintf(&doc, "_format_version: \"3.0\"\nvaults: [{name: file, prefix: pairs, config: {root: %s}}]\nservices: [{name: a, host: %s, port: %s, routes: [{paths: [/]}]}]\ncertificates:\n", f.dir, host, port)
	for i := range names {
		fmt.Fprintf(&doc, "- {cert: \"{vault://pairs/n%d/tls.crt}\", key: \"{vault://pairs/n%d/tls.key}\", snis: [%s]}\n", i, i, f.name(i))
	}
	return doc.String()
}

func (f *fleet) names(n int) []string {
	var out []string
	for i := range n {
		out = append(out, f.name(i))
	}
	return out
}

// newest is the serial that came last for name i.
func (f *fleet) newest(i int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.known[f.name(i)]
	return list[len(list)-1].serial
}

// shown is the serial that a strict handshake for name i sees.
func (l *clients) shown(name string) string {
	c, err := tls.Dial("tcp", l.g.tls, l.config(name))
	if err != nil {
		return err.Error()
	}
	defer func() { _ = c.Close() }()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// proveCertificates rotates certificates of many names under load.
func proveCertificates(t *testing.T, n figures) []outcome {
	a := newAuthority(t, "proof")
	var secret canaries
	f := signedFleet(t, a, n.names, &secret)
	o := tattle(t, nil)
	g := start(t, options{document: f.document(n.names, o.addr), env: debug(nil)})
	l := (&clients{g: g, roots: a.pool(), names: f.names(n.names), stale: f.stale}).begin(4)
	began := time.Now()
	for i := range n.rotations {
		f.rotate(t, i%n.names)
		if ahead := n.within*time.Duration(i)/time.Duration(n.rotations) - time.Since(began); ahead > 0 {
			time.Sleep(ahead)
		}
	}
	took := time.Since(began)
	var slowest time.Duration
	at := time.Now()
	for i := range n.names {
		poll(t, f.name(i)+" has its newest certificate", 10*time.Second, func() bool { return l.shown(f.name(i)) == f.newest(i) })
	}
	slowest = time.Since(at)
	l.end()
	activated := g.counter(t, `keyway_credential_rotations_total{kind="certificate",result="activated",source="pairs"}`)
	if o.twice() > 0 {
		t.Errorf("%d requests reached the origin twice", o.twice())
	}
	return []outcome{judge(t, "certificates rotated", l, secret.scan(t, g), slowest, "%d rotations of %d names in %s, %.0f activated, %d handshakes", n.rotations, n.names, took.Round(100*time.Millisecond), activated, l.handshakes.Load())}
}

// proveKills kills the node at random moments of a swap: it comes back with a good
// pair each time, and its ledger holds.
func proveKills(t *testing.T, n figures) []outcome {
	a := newAuthority(t, "proof")
	var secret canaries
	f := signedFleet(t, a, 4, &secret)
	o := tattle(t, nil)
	dir := filepath.Join(t.TempDir(), "data")
	same := options{document: f.document(4, o.addr), dir: dir, proxy: freePort(t), tls: freePort(t), env: debug(nil)}
	g := start(t, same)
	l := (&clients{g: g, roots: a.pool(), names: f.names(4), stale: f.stale}).begin(2)
	var worst time.Duration
	var said strings.Builder // by those that were killed
	for i := range n.kills {
		f.rotate(t, i%4)
		time.Sleep(time.Duration(mathrand.IntN(30)) * time.Millisecond)
		l.down.Store(true)
		_ = g.cmd.Process.Signal(syscall.SIGKILL)
		<-g.done
		said.WriteString(g.log.String())
		at := time.Now()
		g = start(t, same)
		if got := l.shown(f.name(i % 4)); got != f.newest(i%4) {
			t.Errorf("kill %d: after the start %s is served, want %s", i, got, f.newest(i%4))
		}
		worst = max(worst, time.Since(at))
		l.down.Store(false)
		time.Sleep(time.Duration(mathrand.IntN(40)) * time.Millisecond)
	}
	l.end()
	if out, err := g.run("audit", "verify"); err != nil {
		t.Errorf("the ledger does not hold after %d kills: %v: %s", n.kills, err, out)
	}
	return []outcome{judge(t, "SIGKILL during a swap", l, secret.scan(t, g, said.String()), worst, "%d kills; requests of the dead are not counted", n.kills)}
}

// proveMany starts with many certificates and leases at once: ready within 10 s,
// below 400 MiB, and one certificate among them is swapped within a second or so.
func proveMany(t *testing.T, n figures) []outcome {
	a := newAuthority(t, "proof")
	v := startVault(t)
	var secret canaries
	f := signedFleet(t, a, n.certs, &secret)
	o := tattle(t, nil)
	var doc strings.Builder
	doc.WriteString(strings.Replace(f.document(n.certs, o.addr), "vaults: [", fmt.Sprintf("vaults: [{name: hcv, prefix: hv, config: {address: %q, token: %s, kv: v2, mount: secret}}, ", v.addr, v.token), 1))
	doc.WriteString("consumers:\n")
	for i := range n.leases {
		key := fmt.Sprintf("canary-many-key-%d-c0ffee", i)
		if i%20 == 0 {
			secret.add(key)
		}
		v.put(fmt.Sprintf("many/%d", i), map[string]string{"key": key})
		fmt.Fprintf(&doc, "- {username: c%d, keyauth_credentials: [{key: \"{vault://hv/many/%d/key}\"}]}\n", i, i)
	}
	at := time.Now()
	g := start(t, options{document: doc.String(), patience: time.Minute})
	ready, cpu := time.Since(at), g.cpu()
	poll(t, "all leases are active", time.Minute, func() bool {
		return int(g.counter(t, `keyway_credentials{state="active"}`)) >= 2*n.certs+n.leases
	})
	l := &clients{g: g, roots: a.pool(), names: f.names(50)}
	poll(t, "all certificates are served", time.Minute, func() bool {
		return g.counter(t, `keyway_snapshot_problems`) == 0 && l.shown(f.name(n.certs-1)) == f.newest(n.certs-1)
	})
	all, started := time.Since(at), g.peak()
	l.begin(1)
	var swap time.Duration
	for i := range 20 {
		f.rotate(t, i)
		at := time.Now()
		poll(t, "the newest certificate is served", time.Minute, func() bool { return l.shown(f.name(i)) == f.newest(i) })
		swap = max(swap, time.Since(at))
	}
	l.end()
	peak := g.peak()
	if ready > 10*time.Second {
		t.Errorf("ready after %s, at most 10s", ready)
	}
	if started > 400*mebi {
		t.Errorf("%d MiB at the most when it is ready, at most 400", started/mebi)
	}
	return []outcome{judge(t, "many certificates and leases", l, secret.scan(t, g), swap, "%d certificates, %d leases: ready %.1fs (%.1fs of CPU), all active %.1fs, peak %d MiB, %d MiB after swaps", n.certs, n.leases, ready.Seconds(), cpu.Seconds(), all.Seconds(), started/mebi, peak/mebi)}
}

// proveFlat rotates many times: nothing grows.
func proveFlat(t *testing.T, n figures) []outcome {
	a := newAuthority(t, "proof")
	var secret canaries
	f := signedFleet(t, a, n.names, &secret)
	o := tattle(t, nil)
	g := start(t, options{document: f.document(n.names, o.addr)})
	l := (&clients{g: g, roots: a.pool(), names: f.names(n.names), stale: f.stale}).begin(1)
	var early, late holding
	for i := range n.many {
		f.rotate(t, i%n.names)
		if i%n.names == n.names-1 { // all of them: the last is served before the next turn
			poll(t, "the newest certificate is served", 10*time.Second, func() bool { return l.shown(f.name(i%n.names)) == f.newest(i%n.names) })
		}
		switch {
		case i%10 != 0:
		case i > n.many/10 && i <= n.many/4:
			early.least(g.holds(t))
		case i > n.many*85/100:
			late.least(g.holds(t))
		}
	}
	activated := g.counter(t, `keyway_credential_rotations_total{kind="certificate",result="activated",source="pairs"}`)
	l.end()
	if late.Heap > early.Heap*5/4+8*mebi || late.Goroutines > early.Goroutines+50 || late.Files > early.Files+50 {
		t.Errorf("it grew from %+v to %+v", early, late)
	}
	peak := g.peak()
	return []outcome{judge(t, "many rotations", l, secret.scan(t, g), 0, "%d rotations, %.0f activated; least heap %.1f then %.1f MiB, goroutines %d, %d, descriptors %d, %d; peak %d MiB", n.many, activated,
		float64(early.Heap)/mebi, float64(late.Heap)/mebi, early.Goroutines, late.Goroutines, early.Files, late.Files, peak/mebi)}
}

// cpu is the processor time that a node has used.
func (g *gateway) cpu() time.Duration {
	g.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	// The name in parentheses may have spaces; user and system time are the 14th and 15th field.
	f := strings.Fields(string(text)[strings.LastIndexByte(string(text), ')')+1:])
	var user, system int
	if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil {
		g.t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
