package integration

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// guard is an upstream that takes some keys and no others.
type guard struct {
	mu   sync.RWMutex // guards what follows
	good []string     // newest first
	last string       // key of the last request that passed
	bad  int          // requests with another key
}

func (u *guard) check(r *http.Request) (int, string) {
	key := r.Header.Get("X-Upstream-Key")
	u.mu.RLock()
	for _, g := range u.good {
		if g == key {
			fresh := key == u.last
			u.mu.RUnlock()
			if !fresh {
				u.mu.Lock()
				u.last = key
				u.mu.Unlock()
			}
			return http.StatusOK, "ok"
		}
	}
	u.mu.RUnlock()
	u.mu.Lock()
	u.bad++
	u.mu.Unlock()
	return http.StatusUnauthorized, "the upstream does not know this key"
}

// accept makes these keys, and no others, good; put is done in the same moment.
func (u *guard) accept(put func(), keys ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if put != nil {
		put()
	}
	u.good = keys
}

func (u *guard) state() (last string, bad int) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.last, u.bad
}

// keeper is a node whose certificate, upstream credential and consumers' keys are in
// a Vault behind a proxy that fails.
type keeper struct {
	*gateway
	same   options // to start it again
	v      *vaultServer
	f      *faulty
	up     *guard
	origin *tattler
	a      *authority
	secret canaries
	keys   int
}

// newKeeper starts one. Its life is short, so that an outage is long against it.
func newKeeper(t *testing.T, leases int) *keeper {
	t.Helper()
	k := &keeper{v: startVault(t), up: &guard{}, a: newAuthority(t, "proof")}
	k.f = faultProxy(t, k.v.addr, nil, nil)
	k.origin = tattle(t, k.up.check)
	k.rotate("first")
	cert, key := encode(t, k.a.server(t, "kept.test"))
	k.v.put("pair", map[string]string{"cert": cert, "key": key})
	token := k.v.policy("node", `path "secret/data/*" { capabilities = ["read"] }`, "1h")
	k.secret.add(token, key)
	host, port, _ := strings.Cut(k.origin.addr, ":")
	var doc strings.Builder
	fmt.Fprintf(&doc, `
_format_version: "3.0"
vaults: [{name: hcv, prefix: hv, config: {address: "http://%s", token: "{vault://env/PROOF_TOKEN}", kv: v2, mount: secret, ttl: 1, overlap: 5}}]
certificates: [{cert: "{vault://hv/pair/cert}", key: "{vault://hv/pair/key}", snis: [kept.test]}]
services:
- {name: a, host: %s, port: %s, routes: [{paths: [/]}], x_keyway_upstream_auth: {type: header, name: X-Upstream-Key, value: "{vault://hv/up/key}"}}
consumers:
`, k.f.addr, host, port)
	for i := range leases {
		k.v.put(fmt.Sprintf("consumers/%d", i), map[string]string{"key": fmt.Sprintf("consumer-key-%d", i)})
		fmt.Fprintf(&doc, "- {username: c%d, keyauth_credentials: [{key: \"{vault://hv/consumers/%d/key}\"}]}\n", i, i)
	}
	k.same = options{document: doc.String(), env: debug(map[string]string{"PROOF_TOKEN": token}), dir: filepath.Join(t.TempDir(), "data"), proxy: freePort(t), tls: freePort(t)}
	k.gateway = start(t, k.same)
	return k
}

func (k *keeper) load(n int) *clients {
	return (&clients{g: k.gateway, roots: k.a.pool(), names: []string{"kept.test"}}).begin(n)
}

// rotate puts a new key into Vault that the upstream takes beside those it named.
func (k *keeper) rotate(what string, old ...string) string {
	k.keys++
	key := fmt.Sprintf("canary-%s-%d-c0ffee", what, k.keys)
	k.up.accept(func() { k.v.put("up", map[string]string{"key": key}) }, append([]string{key}, old...)...)
	k.secret.add(key)
	return key
}

// uses says whether the upstream got this key.
func (k *keeper) uses(key string) func() bool {
	return func() bool { last, _ := k.up.state(); return last == key }
}

// proveCredentials rotates an upstream's credential, with an overlap and without one.
func proveCredentials(t *testing.T, n figures) []outcome {
	var all []outcome
	for _, overlap := range []bool{true, false} {
		k := newKeeper(t, 5)
		l := k.load(2)
		name := "upstream credential rotated, no overlap"
		if overlap {
			name = "upstream credential rotated, overlap"
		}
		old := k.up.good[0]
		var worst time.Duration
		for range n.credentials {
			at := time.Now()
			var key string
			if overlap {
				key = k.rotate("rotated", old)
			} else {
				key = k.rotate("rotated")
			}
			poll(t, "the upstream gets the new key", 10*time.Second, k.uses(key))
			worst = max(worst, time.Since(at))
			old = key
			time.Sleep(1200 * time.Millisecond)
		}
		l.end()
		_, bad := k.up.state()
		if overlap && bad > 0 {
			t.Errorf("with an overlap the upstream refused %d requests", bad)
		}
		if n := k.origin.twice(); n > 0 {
			t.Errorf("%d requests were served twice", n)
		}
		all = append(all, judge(t, name, l, k.secret.scan(t, k.gateway), worst, "%d rotations; refused by the upstream and sent again: %d", n.credentials, bad))
	}
	return all
}

// proveOutages takes Vault away in every way, at once on as many nodes.
func proveOutages(t *testing.T, n figures) []outcome {
	kinds := []struct {
		name  string
		begin func(k *keeper)
	}{
		{"sealed", func(k *keeper) { k.v.seal() }},
		{"down", func(k *keeper) { k.f.set(t, faultRefuse) }},
		{"black hole", func(k *keeper) { k.f.set(t, faultBlackHole) }},
		{"slow, 20 s", func(k *keeper) { k.f.slow(t, 20*time.Second) }},
		{"429, Retry-After 7", func(k *keeper) { k.f.throttle(t, 7*time.Second) }},
		{"429", func(k *keeper) { k.f.throttle(t, 0) }},
	}
	keepers := make([]*keeper, len(kinds))
	loads := make([]*clients, len(kinds))
	before := make([]float64, len(kinds))
	for i, kind := range kinds {
		keepers[i] = newKeeper(t, 20)
		k := keepers[i]
		poll(t, "all of it is active", 20*time.Second, func() bool { return k.counter(t, `keyway_credentials{state="active"}`) >= 24 })
		loads[i] = k.load(1)
		before[i] = k.counter(t, `keyway_source_failures_total{source="hv"}`)
		kind.begin(k)
	}
	began := time.Now()
	time.Sleep(n.outage)
	out := make([]outcome, len(kinds))
	for i, kind := range kinds {
		k := keepers[i]
		// Looks that were on their way when it began are not its own. Where nobody
		// listens the node alone knows how often it tried.
		calls := k.f.since(began.Add(4*time.Second), "")
		tries := k.counter(t, `keyway_source_failures_total{source="hv"}`) - before[i]
		if limit := n.outage.Seconds() + 24; tries > limit {
			t.Errorf("%s: %.0f looks failed in %s, at most 1 a second and those on their way when it began", kind.name, tries, n.outage)
		}
		if kind.name == "429, Retry-After 7" {
			if most := busiest(calls, 6*time.Second); most > 1 {
				t.Errorf("%s: %d calls within 6 s", kind.name, most)
			}
		}
		if most := busiest(calls, 10*time.Second); most > 10 {
			t.Errorf("%s: %d calls within 10 s, at most 1 a second", kind.name, most)
		}
		if kind.name == "sealed" {
			k.v.open()
		} else {
			k.f.set(t, faultNone)
		}
		old, _ := k.up.state()
		at := time.Now()
		key := k.rotate("after", old)
		poll(t, kind.name+": what was written after the outage is used", 65*time.Second, k.uses(key))
		recovery := time.Since(at)
		loads[i].end()
		if state := k.get("/status/ready"); state != 200 {
			t.Errorf("%s: ready answers %d", kind.name, state)
		}
		out[i] = judge(t, "Vault "+kind.name, loads[i], k.secret.scan(t, k.gateway), recovery, "away %s with 24 leases; %d calls arrived, %.0f looks failed", n.outage.Round(time.Second), len(k.f.since(began, ""))-len(k.f.since(at, "")), tries)
	}
	return out
}

// basic is an upstream that logs in to PostgreSQL with what each request brings.
type basic struct {
	p  *postgres
	mu sync.Mutex // guards users
	// users are those who logged in, and their passwords.
	users map[string]string
	fails []string
}

func (b *basic) check(r *http.Request) (int, string) {
	name, password, _ := r.BasicAuth()
	err := b.p.login(name, password)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.fails = append(b.fails, fmt.Sprintf("%s: %v", name, err))
		return http.StatusUnauthorized, "PostgreSQL says no"
	}
	b.users[name] = password
	return http.StatusOK, "ok"
}

// dynamic is a node whose service logs in to PostgreSQL as users that Vault makes.
type dynamic struct {
	*gateway
	v      *vaultServer
	p      *postgres
	f      *faulty
	up     *basic
	origin *tattler
	a      *authority
	secret canaries
}

func newDynamic(t *testing.T, ttl, maxTTL string) *dynamic {
	t.Helper()
	d := &dynamic{p: startPostgres(t), v: startVault(t), a: newAuthority(t, "proof")}
	d.v.database(d.p, ttl, maxTTL)
	d.f = faultProxy(t, d.v.addr, nil, nil)
	d.up = &basic{p: d.p, users: map[string]string{}}
	d.origin = tattle(t, d.up.check)
	open := tattle(t, nil)
	pairs := t.TempDir()
	cert, key := encode(t, d.a.server(t, "kept.test"))
	file(t, pairs, "tls.crt", cert)
	file(t, pairs, "tls.key", key)
	token := d.v.policy("node", `path "database/creds/app" { capabilities = ["read"] }`, "1h")
	d.secret.add(token, key)
	host, port, _ := strings.Cut(d.origin.addr, ":")
	other, otherPort, _ := strings.Cut(open.addr, ":")
	d.gateway = start(t, options{env: debug(map[string]string{"PROOF_TOKEN": token}), document: fmt.Sprintf(`
_format_version: "3.0"
vaults:
- {name: hcv, prefix: db, config: {address: "http://%s", token: "{vault://env/PROOF_TOKEN}", engine: generic, overlap: 3}}
- {name: file, prefix: pair, config: {root: %s}}
certificates: [{cert: "{vault://pair/tls.crt/}", key: "{vault://pair/tls.key/}", snis: [kept.test]}]
services:
- {name: data, host: %s, port: %s, routes: [{paths: [/data]}], x_keyway_upstream_auth: {type: basic, username: "{vault://db/database/creds/app/username}", password: "{vault://db/database/creds/app/password}"}}
- {name: open, host: %s, port: %s, routes: [{paths: [/open]}]}
`, d.f.addr, pairs, host, port, other, otherPort)})
	return d
}

// scan looks for the passwords of users too.
func (d *dynamic) scan(t *testing.T) int64 {
	t.Helper()
	d.up.mu.Lock()
	for _, password := range d.up.users {
		d.secret.add(password)
	}
	d.up.mu.Unlock()
	return d.secret.scan(t, d.gateway)
}

func (d *dynamic) load(path string) *clients {
	return (&clients{g: d.gateway, roots: d.a.pool(), names: []string{"kept.test"}, path: path}).begin(1)
}

// proveDatabase has users come and go under load: each request logs in.
func proveDatabase(t *testing.T, n figures) []outcome {
	d := newDynamic(t, "4s", "12s")
	l := d.load("/data")
	time.Sleep(max(24*time.Second, n.outage/4))
	l.end()
	d.up.mu.Lock()
	users, fails := len(d.up.users), d.up.fails
	d.up.mu.Unlock()
	// Each renewal has its jitter, and the first renewals of the short form take most of
	// a life: the second user is the one that proves a change under load.
	if users < 2 || len(fails) > 0 {
		t.Errorf("%d users in the time of two of their lives; failed logins: %q", users, fails)
	}
	if now := len(d.p.users()); now > 3 {
		t.Errorf("%d users live at once, at most one and those in their overlap: %v", now, d.p.users())
	}
	canaries := d.scan(t) // ends the node with its leases held
	at := time.Now()
	poll(t, "no user outlives its lease", 30*time.Second, func() bool { return len(d.p.users()) == 0 })
	return []outcome{judge(t, "dynamic users of PostgreSQL", l, canaries, 0, "%d users in turn, each request logs in; the last was gone %.1fs after the node", users, time.Since(at).Seconds())}
}

// proveLeaseEnd takes Vault away for longer than a lease lives: until its end nothing
// is lost, then what needs it is closed and nothing else, then all is well again.
func proveLeaseEnd(t *testing.T, n figures) []outcome {
	d := newDynamic(t, "10s", "30s")
	closed := 0
	data, open := d.load("/data"), d.load("/open")
	time.Sleep(2 * time.Second)
	d.f.set(t, faultRefuse)
	began := time.Now()
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: data.config("kept.test")}}
	status := func() int {
		req, err := http.NewRequest(http.MethodGet, "https://"+d.tls+"/data", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "kept.test"
		resp, err := c.Do(req)
		if err != nil {
			t.Errorf("with its lease ended: %v", err)
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	// The last renewal was at most two thirds of the lease ago: a third is left at the least.
	time.Sleep(3 * time.Second)
	data.end()
	poll(t, "what needs the lease is closed", 15*time.Second, func() bool { return status() == http.StatusServiceUnavailable })
	ended := time.Since(began)
	for range 20 {
		if s := status(); s != http.StatusServiceUnavailable {
			t.Errorf("past the lease's end it answers %d, want 503", s)
		}
		closed++
		time.Sleep(100 * time.Millisecond)
	}
	d.f.set(t, faultNone)
	at := time.Now()
	poll(t, "it is open again", 60*time.Second, func() bool { return status() == http.StatusOK })
	recovery := time.Since(at)
	open.end()
	canaries := d.scan(t)
	first := judge(t, "Vault down, until the lease ends", data, canaries, 0, "no request lost before the end of the lease")
	return []outcome{first, judge(t, "Vault down past a lease's end, other routes", open, canaries, recovery, "the route closed %.1fs after Vault went: %d answers, all 503", ended.Seconds(), closed)}
}

// proveRestart starts the node again with its document and Vault away: it serves what
// was good last, and comes into step when they return.
func proveRestart(t *testing.T, _ figures) []outcome {
	k := newKeeper(t, 20)
	poll(t, "all of it is active", 20*time.Second, func() bool { return k.counter(t, `keyway_credentials{state="active"}`) >= 24 })
	l := k.load(1)
	poll(t, "what is served is kept", 20*time.Second, func() bool {
		kept, _ := filepath.Glob(filepath.Join(k.dir, "last-good", "*"))
		return len(kept) > 0 && k.origin.total.Load() > 20
	})
	// Kept a moment after each change: the last of them is a second old by then.
	time.Sleep(3 * time.Second)
	k.f.set(t, faultRefuse)
	l.down.Store(true)
	k.stop(syscall.SIGKILL)
	document := k.same.document
	k.same.document = "_format_version: \"3.0\"\nservices: [{name: a, hots: b}]\n" // no document that could be served
	at := time.Now()
	k.gateway = start(t, k.same)
	ready := time.Since(at)
	key, _ := k.up.state()
	k.up.accept(func() { k.up.last = "" }, key)
	l.down.Store(false)
	poll(t, "the upstream gets the key that was good last", 5*time.Second, k.uses(key))
	if ready > 5*time.Second {
		t.Errorf("ready after %s, at most 5s", ready)
	}
	if _, text := k.read("/status"); !strings.Contains(text, "last") {
		t.Errorf("/status does not say what it serves from: %s", text)
	}
	time.Sleep(3 * time.Second)
	k.f.set(t, faultNone)
	k.write(document)
	if out, err := k.run("reload"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	at = time.Now()
	next := k.rotate("returned", key)
	poll(t, "what was written after the return is used", time.Minute, k.uses(next))
	recovery := time.Since(at)
	l.end()
	return []outcome{judge(t, "restart with all sources away", l, k.secret.scan(t, k.gateway), recovery, "ready %.2fs after the start", ready.Seconds())}
}
