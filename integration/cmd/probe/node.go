package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// node is the gateway under attack.
type node struct {
	plain, tls, status, origin string // host:port
	cmd                        *exec.Cmd
	log                        string // file
	ended                      chan struct{}
}

// startNode starts the binary with everything at its default but the addresses,
// and waits until it is ready.
func startNode(ctx context.Context, dir, keyway, fixtures string) (*node, error) {
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	n := &node{plain: at(0), tls: at(1), status: at(2), origin: at(3), log: filepath.Join(dir, "node.log"), ended: make(chan struct{})}
	doc, err := document(fixtures, ports[3])
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "probe.json")
	if err := os.WriteFile(path, doc, 0o600); err != nil {
		return nil, fmt.Errorf("writing the probe's document: %w", err)
	}
	log, err := os.Create(n.log)
	if err != nil {
		return nil, fmt.Errorf("making the node's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	n.cmd = exec.Command(keyway, "serve")
	n.cmd.Env = withoutSettings(os.Environ())
	n.cmd.Env = append(n.cmd.Env,
		"KEYWAY_PROXY_LISTEN="+n.plain, "KEYWAY_PROXY_TLS_LISTEN="+n.tls, "KEYWAY_STATUS_LISTEN="+n.status,
		"KEYWAY_ADMIN_LISTEN=off", "KEYWAY_MANAGER_LISTEN=off", "KEYWAY_ACCESS_LOG=off",
		"KEYWAY_DATA_DIR="+filepath.Join(dir, "data"), "KEYWAY_DOCUMENTS="+path, "KEYWAY_REQUEST_POLICY=strict",
		"KEYWAY_TLS_CERT="+filepath.Join(fixtures, "default.crt"), "KEYWAY_TLS_KEY="+filepath.Join(fixtures, "default.key"))
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s (make build makes it): %w", keyway, err)
	}
	go func() {
		_ = n.cmd.Wait()
		close(n.ended)
	}()
	if err := n.ready(ctx); err != nil {
		n.stop(true)
		return nil, err
	}
	return n, nil
}

// withoutSettings keeps the caller's own node settings away from the node under test.
func withoutSettings(env []string) []string {
	var kept []string
	for _, e := range env {
		if !strings.HasPrefix(e, "KEYWAY_") {
			kept = append(kept, e)
		}
	}
	return kept
}

// ready waits for the node.
func (n *node) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.status+"/status/ready", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-n.ended:
			return errors.New("the node ended before it was ready")
		case <-ctx.Done():
			return fmt.Errorf("waiting for the node to be ready: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// alive is an error when the node did not survive.
func (n *node) alive() error {
	select {
	case <-n.ended:
		return errors.New("the node ended under attack")
	default:
		return nil
	}
}

// stop kills the node; show copies its log to standard error.
func (n *node) stop(show bool) {
	_ = n.cmd.Process.Kill()
	<-n.ended
	if !show {
		return
	}
	if b, err := os.ReadFile(n.log); err == nil {
		fmt.Fprintf(os.Stderr, "the node said:\n%s", b)
	}
}

// freePorts are ports of loopback that nobody listens on, below the range that
// outgoing connections take theirs from: the origin opens its port only later. They
// are all held until the last one is found, so no two are the same. Other tests, which may
// run beside this, have theirs from 20000 on.
func freePorts(count int) ([]int, error) {
	var ports []int
	for range 50 * count {
		port := 10000 + rand.IntN(8000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer func() { _ = l.Close() }()
		if ports = append(ports, port); len(ports) == count {
			return ports, nil
		}
	}
	return nil, errors.New("looking for free ports from 10000 to 17999: there are not enough")
}
