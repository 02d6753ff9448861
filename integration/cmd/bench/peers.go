package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// ports of everything; below those that outgoing connections take.
const (
	lockPort    = 19409 // held during a run: SO_REUSEPORT would let two share their connections
	backendPort = 19410
	nginxPort   = 19420 // TLS; the next one is in clear
	haproxyPort = 19430
	caddyPort   = 19440
	keywayPort  = 19450
	besidePorts = 50 // those of the Keyway beside are so much higher
	echoPort    = 19415
)

// peer is one proxy under measurement.
type peer struct {
	name  string
	port  int
	clear int  // port without TLS; 0 is the one after port
	fixed bool // up all the time, and no process of its own to measure
	start func(workers int) (*exec.Cmd, error)
	log   string // access log that it writes, "" for none

	cmd     *exec.Cmd
	workers int
}

func (p *peer) tls() int { return p.port }

func (p *peer) plain() int {
	if p.clear != 0 {
		return p.clear
	}
	return p.port + 1
}

// cpuTime is what the peer has used so far.
func (p *peer) cpuTime() (usage, error) {
	if p.fixed {
		return nil, nil
	}
	return cpuTime(p.cmd.Process.Pid)
}

// lab is where a run keeps its files.
type lab struct {
	dir, keyway, caddy string
	beside             string // another Keyway, if any
	configs            string // folder of the templates
	origin             *peer
}

// values fill the templates.
type values struct {
	Workers, TLS, Plain, Backend int
	Secure, Echo                 int // the origin over TLS, and that of WebSockets
	Cert, Key, Both, Body        string
}

// render writes a template out and answers its path.
func (l *lab) render(name string, port, workers int) (string, error) {
	text, err := os.ReadFile(filepath.Join(l.configs, name))
	if err != nil {
		return "", fmt.Errorf("reading a peer's configuration: %w", err)
	}
	t, err := template.New(name).Parse(string(text))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", name, err)
	}
	var b bytes.Buffer
	v := values{workers, port, port + 1, backendPort, backendPort + 1, echoPort, l.dir + "/cert.pem", l.dir + "/key.pem", l.dir + "/both.pem", strings.Repeat("a", 1024)}
	if err := t.Execute(&b, v); err != nil {
		return "", fmt.Errorf("filling %s: %w", name, err)
	}
	path := filepath.Join(l.dir, name)
	return path, os.WriteFile(path, b.Bytes(), 0o600)
}

// command makes a command pinned to the first CPU for one worker, to none for more.
func pinned(workers int, name string, args ...string) *exec.Cmd {
	if workers == 1 {
		args = append([]string{"-c", "0", name}, args...)
		name = "taskset"
	}
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func (l *lab) nginx() *peer {
	return &peer{name: "nginx", port: nginxPort, start: func(workers int) (*exec.Cmd, error) {
		conf, err := l.render("nginx.conf", nginxPort, workers)
		if err != nil {
			return nil, err
		}
		return pinned(workers, "nginx", "-p", l.dir, "-c", conf), nil
	}}
}

func (l *lab) haproxy() *peer {
	return &peer{name: "haproxy", port: haproxyPort, start: func(workers int) (*exec.Cmd, error) {
		conf, err := l.render("haproxy.cfg", haproxyPort, workers)
		if err != nil {
			return nil, err
		}
		return pinned(workers, "haproxy", "-db", "-f", conf), nil
	}}
}

func (l *lab) caddyPeer() *peer {
	return &peer{name: "caddy", port: caddyPort, start: func(workers int) (*exec.Cmd, error) {
		conf, err := l.render("Caddyfile", caddyPort, workers)
		if err != nil {
			return nil, err
		}
		cmd := pinned(workers, l.caddy, "run", "--config", conf, "--adapter", "caddyfile")
		cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(workers), "HOME="+l.dir)
		return cmd, nil
	}}
}

// serving is what a Keyway is started with.
type serving struct {
	document string // a file of the lab's folder, or a path
	curves   string // "" for the product's defaults
	port     int
	log      bool // of access, into a file
}

// keyways is the Keyway under measurement, and the one beside it.
func (l *lab) keyways(s serving) []*peer {
	peers := []*peer{l.keywayPeer("keyway", l.keyway, s)}
	if l.beside != "" {
		s.port += besidePorts
		peers = append(peers, l.keywayPeer("keyway-b", l.beside, s))
	}
	return peers
}

func (l *lab) keywayPeer(name, binary string, s serving) *peer {
	p := &peer{name: name, port: s.port}
	access := "off"
	if s.log {
		// Not beside the documents, whose folder is watched: each write would be looked at.
		p.log = filepath.Join(l.dir, "log", name+".log")
		access = p.log
	}
	if !filepath.IsAbs(s.document) {
		s.document = filepath.Join(l.dir, s.document)
	}
	p.start = func(workers int) (*exec.Cmd, error) {
		cmd := pinned(workers, binary, "serve")
		cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(workers), "KEYWAY_DOCUMENTS="+s.document, "KEYWAY_TLS_CURVES="+s.curves,
			fmt.Sprintf("KEYWAY_PROXY_TLS_LISTEN=127.0.0.1:%d", s.port), fmt.Sprintf("KEYWAY_PROXY_LISTEN=127.0.0.1:%d", s.port+1),
			fmt.Sprintf("KEYWAY_STATUS_LISTEN=127.0.0.1:%d", s.port+2), "KEYWAY_ADMIN_LISTEN=off", "KEYWAY_MANAGER_LISTEN=off",
			"KEYWAY_DATA_DIR="+filepath.Join(l.dir, name), "KEYWAY_ACCESS_LOG="+access, "KEYWAY_LOG_LEVEL=error",
			"KEYWAY_TLS_CERT="+l.dir+"/cert.pem", "KEYWAY_TLS_KEY="+l.dir+"/key.pem", "KEYWAY_KEEPALIVE_REQUESTS=100000000")
		return cmd, nil
	}
	return p
}

// up starts the peer with so many workers, unless it runs so already.
func (p *peer) up(ctx context.Context, workers int) error {
	if p.fixed || p.cmd != nil && p.workers == workers {
		return nil
	}
	p.down()
	if c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", p.tls()), time.Second); err == nil {
		_ = c.Close()
		return fmt.Errorf("something else listens on port %d, which %s needs; end it first", p.tls(), p.name)
	}
	cmd, err := p.start(workers)
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	p.cmd, p.workers = cmd, workers
	return waitPort(ctx, p.name, p.tls())
}

// down ends the peer and everything that it started.
func (p *peer) down() {
	if p.cmd == nil {
		return
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	_ = p.cmd.Wait()
	p.cmd = nil
}

func waitPort(ctx context.Context, name string, port int) error {
	deadline := time.Now().Add(60 * time.Second)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			return c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s does not listen on port %d", name, port)
}

// pss is the proportional memory of one process in bytes.
func pss(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, fmt.Errorf("reading memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("smaps_rollup has no Pss")
}
