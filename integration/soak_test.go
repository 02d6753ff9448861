package integration

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	soakQuick = 26 * time.Second // of load, where SOAK does not say how long
	// Distances of a client's requests, so that all of them together leave a core room.
	keptEvery  = 60 * time.Millisecond
	freshEvery = 200 * time.Millisecond
)

// soak is a node under load of every kind, what changes around it meanwhile, and the
// book of it.
type soak struct {
	t             *testing.T
	g             *gateway
	length        time.Duration
	killEvery     time.Duration
	longest       int // messages of a session
	book          *book
	authority     *authority
	roots         *x509.CertPool
	ca            string // its file
	fleet         *fleet
	keys          string // folder of secrets
	key           [2]atomic.Value
	door          *door
	doorAddr      string
	pools         map[string][]*target
	spare         *target // of the pool plain, in every second document
	secureCalls   *target
	tcp, tls, udp string // stream listeners

	block, text []byte // what targets send

	number, handshakes atomic.Int64
	slowestSwap        time.Duration
	series             []holding
	machine            *machine
	stop, never        chan struct{}
	gone               context.Context // done when the node has ended
	wg                 sync.WaitGroup
}

func newSoak(t *testing.T, length time.Duration) *soak {
	t.Helper()
	k := &soak{t: t, length: length, killEvery: 800 * time.Millisecond, longest: 40, book: newBook(), keys: filepath.Join(t.TempDir(), "keys"), pools: map[string][]*target{}, never: make(chan struct{})}
	k.book.told = func(fault string) { t.Logf("at %s nothing explains %s", clock(time.Now()), fault) }
	if length >= 5*time.Minute {
		k.killEvery, k.longest = 2*time.Second, 600
	}
	k.block = make([]byte, mebi)
	_, _ = rand.Read(k.block)
	k.text = []byte(strings.Repeat("<p>a line of text that is like others</p>\n", mebi/40))[:mebi]
	k.authority = newAuthority(t, "soak")
	k.roots = k.authority.pool()
	k.ca = file(t, t.TempDir(), "ca.pem", k.authority.pem)
	k.fleet = &fleet{dir: filepath.Join(t.TempDir(), "pairs"), known: map[string][]version{}}
	k.fleet.issue = func(name string) (string, string) { return encode(t, k.authority.server(t, name)) }
	for i := range soakNames {
		k.fleet.rotate(t, i)
	}
	k.door = &door{find: bearers[0].find, more: func(since time.Time) time.Duration { return k.machine.busy(since) }}
	k.rotateDoor(0)
	k.doorAddr = origin(t, func(w http.ResponseWriter, r *http.Request) {
		status, why := k.door.check(r)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, why)
	})
	own := k.authority.leafOf(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(30 * time.Hour) })
	cert, key := encode(t, own)
	certFile, keyFile := file(t, t.TempDir(), "cert.pem", cert), file(t, t.TempDir(), "key.pem", key)
	for range 3 {
		k.add("plain", k.web(nil))
	}
	k.spare = k.add("spare", k.web(nil))
	for range 2 {
		k.add("tls", k.web(&tls.Config{Certificates: []tls.Certificate{own}, NextProtos: []string{"http/1.1"}}))
		k.add("h2", k.web(&tls.Config{Certificates: []tls.Certificate{own}}))
		k.add("grpc", k.calls())
		k.add("tcp", k.echo(nil))
		k.add("through", k.echo(&tls.Config{Certificates: []tls.Certificate{k.authority.server(t, throughName)}}))
		k.add("udp", k.datagrams)
	}
	k.secureCalls = k.add("grpcs", k.calls("-cert", certFile, "-key", keyFile))
	dir := filepath.Join(t.TempDir(), "data")
	k.secret("api", "soak-key-file")
	keep(t, dir, "soak-key", "soak-key-sealed")
	k.key[0].Store("soak-key-file")
	k.key[1].Store("soak-key-sealed")
	address := func() string { return fmt.Sprintf("127.0.0.1:%d", freePort(t)) }
	k.tcp, k.tls, k.udp = address(), address(), address()
	k.g = start(t, options{dir: dir, document: k.document(0), env: map[string]string{
		"KEYWAY_H2C": "all", "KEYWAY_HTTP3": "all", "KEYWAY_ROUTER_FLAVOR": "expressions", "SSL_CERT_FILE": k.ca,
		"KEYWAY_STREAM_LISTEN": k.tcp + ", " + k.tls + " ssl, " + k.udp + " udp",
		"KEYWAY_ACCESS_LOG":    filepath.Join(t.TempDir(), "access.log"), "KEYWAY_ACCESS_LOG_SAMPLE": "0.02",
		"KEYWAY_UPSTREAM_KEEPALIVE_IDLE_TIMEOUT": "4s",
		// Clients that are slow because the machine is busy are not sent away.
		"KEYWAY_HANDSHAKE_TIMEOUT": "20s", "KEYWAY_HEADER_TIMEOUT": "60s", // half a handshake is held for so long, also after the load
	}})
	k.machine = &machine{processes: []int{os.Getpid(), k.g.cmd.Process.Pid}}
	k.book.waited = k.machine.between
	go k.machine.watch(k.g.done)
	gone, end := context.WithCancel(context.Background())
	k.gone = gone
	go func() {
		<-k.g.done
		end()
	}()
	return k
}

// load begins everything that clients do.
func (k *soak) load() {
	k.stop = make(chan struct{})
	list := voices()
	var two []*voice // that speak HTTP/2
	for _, v := range list {
		k.wg.Go(func() { k.converse(v) })
		if strings.HasPrefix(v.protocol, "HTTP/2") {
			two = append(two, v)
		}
	}
	some := func(of []*voice) *voice { return of[mathrand.IntN(len(of))] }
	k.every(500*time.Millisecond, func() { k.many(some(list), 20) })
	k.every(2*time.Second, func() { k.slow(some(list)) })
	for range 12 {
		k.every(50*time.Millisecond, func() { k.later(some(list)) })
	}
	for range 3 {
		k.every(200*time.Millisecond, func() { k.listen(some(list)) })
	}
	for _, how := range []string{"HTTP/1.1 in clear", "HTTP/1.1 over TLS", "HTTP/2"} {
		for range 2 {
			k.every(200*time.Millisecond, func() { k.chat(how) })
		}
	}
	k.every(200*time.Millisecond, func() { k.call(some(two), nameGRPC, "grpc") })
	k.every(200*time.Millisecond, func() { k.call(some(two), nameGRPCS, "grpcs") })
	k.every(200*time.Millisecond, func() { k.duplex(some(two), nameGRPC, "grpc") })
	k.every(200*time.Millisecond, func() { k.duplex(some(two), nameGRPCS, "grpcs") })
	k.every(400*time.Millisecond, func() { k.browse(some(list)) })
	cases := 0
	k.every(4*time.Second, func() { k.interop(cases); cases++ })
	for how, pool := range map[string]string{"TCP": "tcp", "TLS that ends here": "tcp", "TLS passed on": "through"} {
		k.every(200*time.Millisecond, func() { k.stream(how, pool, k.words()) })
		k.every(400*time.Millisecond, func() { k.stream(how, pool, 1) })
	}
	for range 3 {
		k.every(200*time.Millisecond, func() { k.questions(k.words()) })
	}
	k.every(250*time.Millisecond, func() { k.rude(list) })
}

// quiet ends the load.
func (k *soak) quiet() {
	close(k.stop)
	k.wg.Wait()
}

// TestSoak has a node serve every protocol at once while documents, certificates and
// secrets change and targets die and return. Nothing may fail that this does not
// explain, nothing may grow, and it stops as told under load. It takes SOAK, or half a
// minute; `make soak` runs an hour and writes what it was to SOAK_OUT.
func TestSoak(t *testing.T) {
	length := soakQuick
	if v := os.Getenv("SOAK"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatalf("SOAK: %v", err)
		}
		length = d
	}
	k := newSoak(t, length)
	began, own := time.Now(), ownCPU(t)
	before := k.g.holds(t)
	k.load()
	for _, change := range []func(){k.certificates, k.documents, k.secrets, k.deaths, k.sample} {
		k.wg.Go(change)
	}
	late := time.After(length)
	for over := false; !over; {
		select {
		case <-late:
			over = true
		case <-k.g.done:
			k.book.wrongly("node", "it ended: %v", k.g.err)
			over = true
		case <-time.After(200 * time.Millisecond):
			// Once it is certain that it failed, what there is says why.
			over = k.book.troubles() >= keptFaults || t.Failed()
		}
	}
	took, waiting := time.Since(began), k.machine.all()
	k.quiet()
	cpu := k.g.cpu()
	generator := ownCPU(t) - own
	peak := k.g.peak()
	after := k.rests(before)
	k.door.mu.Lock()
	if k.door.strange+k.door.old+k.door.refused > 0 {
		k.book.wrongly("upstream credential", "%d requests came with a strange one, %d with an old one a second after, %d were refused", k.door.strange, k.door.old, k.door.refused)
	}
	k.door.mu.Unlock()
	drained := k.leave()
	if out, err := k.g.run("audit", "verify"); err != nil {
		t.Errorf("the ledger does not hold: %v: %s", err, out)
	}
	parts := thirds(k.series)
	for _, what := range grown(parts[1], parts[2]) {
		if length < soakQuick { // it is still warming up
			t.Logf("in the last third %s", what)
			continue
		}
		t.Errorf("in the last third %s", what)
	}
	k.tell(soakReport{
		Date: began.UTC().Format(time.RFC3339), Seconds: took.Seconds(), Drain: drained.Seconds(), CPU: cpu.Seconds(), GeneratorCPU: generator.Seconds(), PeakRSS: peak,
		Start: before, Thirds: parts, End: after, Waiting: waiting.Seconds(),
	})
}

// rests waits until the node holds no more than before the load, or for half a minute.
func (k *soak) rests(before holding) holding {
	var now holding
	for at := time.Now(); time.Since(at) < 30*time.Second; pause(k.never, 200*time.Millisecond) {
		// Of files the sampling's own connection is one; what reads documents and folders may be at work.
		if now = k.g.holds(k.t); now.Goroutines <= before.Goroutines+8 && now.Files <= before.Files+5 {
			return now
		}
	}
	k.t.Errorf("30s after the load ended the node holds %d goroutines and %d descriptors; %d and %d before", now.Goroutines, now.Files, before.Goroutines, before.Files)
	return now
}

// leave stops the node under load, and answers how long it took.
func (k *soak) leave() time.Duration {
	k.load()
	pause(k.never, 2*time.Second)
	at := time.Now()
	k.book.leaves()
	if err := k.g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		k.t.Error(err)
	}
	pause(k.never, time.Second)
	k.quiet()
	select {
	case <-k.g.done:
	case <-time.After(45 * time.Second):
		k.t.Error("the drain does not end in 45s")
		return time.Since(at)
	}
	if k.book.happens["under way at the stop"] == 0 {
		k.t.Error("nothing was under way when the node was told to stop")
	}
	if code := k.g.cmd.ProcessState.ExitCode(); code != 0 {
		k.t.Errorf("exit status %d after SIGTERM, want 0: something was cut", code)
	}
	return time.Since(at)
}

// ownCPU is the processor time of this process.
func ownCPU(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
