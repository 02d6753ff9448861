package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// sizes measures what grows with configuration: memory of certificates, a swap of
// one among ten thousand, and the build of snapshots.
func (l *lab) sizes(ctx context.Context) error {
	one, _, err := l.certificates(ctx, 1)
	if err != nil {
		return err
	}
	many, swap, err := l.certificates(ctx, 10_000)
	if err != nil {
		return err
	}
	fmt.Printf("memory with 1 certificate      %6.1f MiB PSS\n", float64(one)/(1<<20))
	fmt.Printf("memory with 10,000             %6.1f MiB PSS, %.1f KiB for each\n", float64(many)/(1<<20), float64(many-one)/9999/1024)
	fmt.Printf("swap of one among 10,000       visible after %s (median of %d, worst %s), %d failed of %d handshakes\n",
		swap.median.Round(time.Millisecond), swap.swaps, swap.worst.Round(time.Millisecond), swap.failed, swap.handshakes)
	for _, n := range []int{1000, 10_000} {
		whole, change, err := l.routes(ctx, n)
		if err != nil {
			return err
		}
		fmt.Printf("snapshot of %6d routes       built in %s; after a change of one route in %s\n", n, whole, change)
	}
	return nil
}

type swapped struct {
	swaps, failed, handshakes int
	median, worst             time.Duration
}

// certificates serves n certificates, all but one written into the document, and
// swaps that one, which is a pair of files.
func (l *lab) certificates(ctx context.Context, n int) (memory int64, s swapped, err error) {
	dir := filepath.Join(l.dir, "swap"+strconv.Itoa(n))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, s, fmt.Errorf("making a folder: %w", err)
	}
	document, err := manyCertificates(dir, n)
	if err != nil {
		return 0, s, err
	}
	p := l.keywayPeer("keyway-certs", l.keyway, serving{document: document, curves: "X25519", port: keywayPort + 30})
	defer p.down()
	if err := p.up(ctx, 2); err != nil {
		return 0, s, err
	}
	if err := ready(ctx, p.port+2); err != nil {
		return 0, s, err
	}
	time.Sleep(5 * time.Second) // what the start left is collected meanwhile
	if memory, err = pss(p.cmd.Process.Pid); err != nil {
		return 0, s, err
	}
	if n > 1 {
		s, err = swapOne(ctx, dir, p.tls())
	}
	return memory, s, err
}

// manyCertificates writes a document with n certificates and answers its path.
func manyCertificates(dir string, n int) (string, error) {
	type entity map[string]any
	var certificates []entity
	for i := range n {
		name := fmt.Sprintf("c%d.example.com", i)
		cert, key, err := selfSigned(name)
		if err != nil {
			return "", err
		}
		if i == 0 {
			if err := writePair(dir, cert, key); err != nil {
				return "", err
			}
			cert, key = "{vault://swap/tls.crt/}", "{vault://swap/tls.key/}"
		}
		certificates = append(certificates, entity{"cert": cert, "key": key, "snis": []entity{{"name": name}}})
	}
	text, err := json.Marshal(entity{
		"_format_version": "3.0", "certificates": certificates,
		"vaults": []entity{{"name": "file", "prefix": "swap", "config": entity{"root": filepath.Join(dir, "pair")}}},
	})
	if err != nil {
		return "", fmt.Errorf("rendering a document: %w", err)
	}
	path := filepath.Join(dir, "document.json")
	return path, os.WriteFile(path, text, 0o600)
}

// writePair replaces the pair, each file at once.
func writePair(dir, cert, key string) error {
	pair := filepath.Join(dir, "pair")
	if err := os.MkdirAll(pair, 0o700); err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	for name, text := range map[string]string{"tls.crt": cert, "tls.key": key} {
		tmp := filepath.Join(dir, name+".new")
		if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
			return fmt.Errorf("writing the pair: %w", err)
		}
		if err := os.Rename(tmp, filepath.Join(pair, name)); err != nil {
			return fmt.Errorf("replacing the pair: %w", err)
		}
	}
	return nil
}

// swapOne swaps the pair 20 times while two clients open connections for it.
func swapOne(ctx context.Context, dir string, port int) (s swapped, err error) {
	var latest atomic.Value // serial number shown last
	var failed, done atomic.Int64
	stop, cancel := context.WithCancel(ctx)
	finished := make(chan struct{}, 2)
	for range 2 {
		go func() {
			defer func() { finished <- struct{}{} }()
			for stop.Err() == nil {
				c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{ServerName: "c0.example.com", InsecureSkipVerify: true})
				done.Add(1)
				if err != nil {
					failed.Add(1)
					continue
				}
				latest.Store(c.ConnectionState().PeerCertificates[0].SerialNumber.String())
				_ = c.Close()
			}
		}()
	}
	var took []time.Duration
	for range 20 {
		if ctx.Err() != nil {
			break
		}
		cert, key, err := selfSigned("c0.example.com")
		if err != nil {
			break
		}
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil {
			break
		}
		time.Sleep(300 * time.Millisecond) // swaps follow one another by days: what is measured is one
		if err := writePair(dir, cert, key); err != nil {
			break
		}
		began := time.Now()
		for latest.Load() != pair.Leaf.SerialNumber.String() && time.Since(began) < 20*time.Second {
			time.Sleep(200 * time.Microsecond)
		}
		took = append(took, time.Since(began))
	}
	cancel()
	<-finished
	<-finished
	slices.Sort(took)
	s = swapped{swaps: len(took), failed: int(failed.Load()), handshakes: int(done.Load())}
	if len(took) > 0 {
		s.median, s.worst = took[len(took)/2], took[len(took)-1]
	}
	return s, err
}

// built is what one build cost: the node's own clock, and the CPU time of the whole
// process from reading the document to serving it.
type built struct {
	seconds string
	cpu     time.Duration
}

func (b built) String() string { return fmt.Sprintf("%s s (%s of CPU with reading)", b.seconds, b.cpu) }

// routes serves n routes, then changes one, and answers what each build took.
func (l *lab) routes(ctx context.Context, n int) (whole, change built, err error) {
	path := filepath.Join(l.dir, fmt.Sprintf("routes%d.yaml", n))
	text := document(n, false)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return whole, change, fmt.Errorf("writing a document: %w", err)
	}
	p := l.keywayPeer("keyway-routes", l.keyway, serving{document: path, curves: "X25519", port: keywayPort + 40})
	defer p.down()
	if err := p.up(ctx, 2); err != nil {
		return whole, change, err
	}
	if err := ready(ctx, p.port+2); err != nil {
		return whole, change, err
	}
	if whole, err = build(p); err != nil {
		return whole, change, err
	}
	first, err := metric(p.port+2, "keyway_snapshot_generation")
	if err != nil {
		return whole, change, err
	}
	before, err := p.cpuTime()
	if err != nil {
		return whole, change, err
	}
	if err := os.WriteFile(path, []byte(strings.Replace(text, "/app7/v1", "/app7/v2", 1)), 0o600); err != nil {
		return whole, change, fmt.Errorf("writing a document: %w", err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		generation, err := metric(p.port+2, "keyway_snapshot_generation")
		if err != nil {
			return whole, change, err
		}
		if generation != first {
			break
		}
		if time.Now().After(deadline) {
			return whole, change, fmt.Errorf("the change of one route among %d was not published", n)
		}
	}
	change, err = build(p)
	change.cpu -= before.total().Round(10 * time.Millisecond)
	return whole, change, err
}

// build reads what the last build took and the CPU time of the process until now.
func build(p *peer) (b built, err error) {
	if b.seconds, err = metric(p.port+2, "keyway_snapshot_build_seconds"); err != nil {
		return b, err
	}
	used, err := p.cpuTime()
	b.cpu = used.total().Round(10 * time.Millisecond)
	return b, err
}

// ready waits for the node.
func ready(ctx context.Context, port int) error {
	deadline := time.Now().Add(60 * time.Second)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/status/ready", port))
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("the node at port %d is not ready", port)
}

// metric reads one sample without labels.
func metric(port int, name string) (string, error) {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
	if err != nil {
		return "", fmt.Errorf("reading metrics: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("reading metrics: %w", err)
	}
	for line := range strings.Lines(string(body)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			return v, nil
		}
	}
	return "", fmt.Errorf("there is no metric %s", name)
}
