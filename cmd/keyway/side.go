package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/certs/devca"
	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/admin"
	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/edge/telemetry"
)

// sideListener is one that listens beside the proxy: status, admin, manager, the echo.
type sideListener struct {
	name, address string
	listener      net.Listener
	handler       http.Handler
	secure        bool
}

// openSides opens them.
func (n *node) openSides(ctx context.Context) error {
	status := n.telemetry.StatusHandler(n)
	facts := admin.Handler(n.adminFacts, status, (*healthDesk)(n))
	page := admin.Page(func() any { return n.telemetry.Status(n) })
	s := n.settings
	var echoes []string
	if s.starts() && s.EchoListen != "off" {
		echoes = []string{s.EchoListen}
	}
	for _, x := range []struct {
		name      string
		addresses []string
		handler   http.Handler
		secure    bool
	}{
		{"status", s.StatusListen, status, false},
		{"status-tls", s.StatusTLSListen, status, true},
		{"admin", s.AdminListen, facts, false},
		{"admin-tls", s.AdminTLSListen, facts, true},
		{"manager", s.ManagerListen, page, false},
		{"manager-tls", s.ManagerTLSListen, page, true},
		{"admission-tls", s.Kube.Admission, n.admission(), true},
		{"echo", echoes, http.HandlerFunc(answerEcho), false},
	} {
		for _, a := range x.addresses {
			l, err := n.sockets.Listen(ctx, x.name, "tcp", a)
			if err != nil {
				return fmt.Errorf("listening on %s for %s: %w; set %s_listen to another address or to off", a, x.name, err, strings.ReplaceAll(x.name, "-", "_"))
			}
			n.sides = append(n.sides, sideListener{x.name, a, l, x.handler, x.secure})
		}
	}
	return nil
}

// side serves one of them. Their certificates are the default slot's, through the
// same callbacks as the proxy's: what swaps there swaps here, and what is revoked there
// ends connections here.
func (n *node) side(ctx context.Context, x sideListener) error {
	if !x.secure {
		return serveHTTP(ctx, x.listener, x.handler, nil)
	}
	return serveHTTP(ctx, tls.NewListener(edge.TrackListener(x.listener), n.term.Config()), x.handler, n.server.Side)
}

// adminFacts is what GET / of the admin listener answers.
func (n *node) adminFacts() admin.Facts {
	f := admin.Facts{Version: version, NodeID: n.config.NodeID, Plugins: map[string]bool{}, Tagline: "Welcome to keyway"}
	for _, k := range plugins() {
		f.Plugins[k.Schema.Name] = true
	}
	if s := n.publisher.Current(); s != nil {
		f.Document = s.Document
	}
	return f
}

// NotReady lists what keeps the node from being ready.
func (n *node) NotReady() []string {
	var why []string
	if n.draining.Load() {
		why = append(why, "draining: the node is stopping")
	}
	if n.publisher.Current() == nil {
		return append(why, "no configuration available: no document was loaded yet")
	}
	if !n.declared.Passed() {
		why = append(why, "the document's listeners are not open yet")
	}
	return why
}

// Rejected lists the faults of documents that were not taken.
func (n *node) Rejected() []telemetry.Problem {
	_, problems := n.inputs().Current()
	list := make([]telemetry.Problem, 0, len(problems))
	for _, p := range problems {
		list = append(list, telemetry.ProblemOf(p))
	}
	return list
}

// controlled is the node as the control socket sees it.
type controlled node

// Facts answers what needs no question.
func (c *controlled) Facts() control.Facts {
	n := (*node)(c)
	list, now := []secretFacts{}, time.Now()
	for _, x := range n.broker.List() {
		list = append(list, factsOfSecret(&x))
	}
	return control.Facts{Status: n.telemetry.Status(n), Certificates: n.owners.attribute(certificateFacts(n.publisher.Current(), now), now), Secrets: list}
}

// Explain says what would become of a request.
func (c *controlled) Explain(q control.Question) (any, error) {
	n := (*node)(c)
	return explain(n.publisher.Current(), n.config, q)
}

// reloadPatience is how long a reload waits for what it read to serve. It is less than
// the command's own patience with the node.
const reloadPatience = 20 * time.Second

// Reload makes the node look at its documents and credentials again, and waits until
// it serves by what it has read.
func (c *controlled) Reload(ctx context.Context) ([]string, bool) {
	n := (*node)(c)
	n.broker.Refresh()
	n.documents.Refresh()
	lines := []string{}
	for _, p := range n.documents.Load() {
		lines = append(lines, p.Error())
	}
	if len(lines) > 0 {
		return lines, false
	}
	ctx, cancel := context.WithTimeout(ctx, reloadPatience)
	defer cancel()
	return lines, n.publisher.Await(ctx, func(s *edge.Snapshot) bool {
		latest, _ := n.documents.Current() // a later one counts too
		return s.Document == latest
	})
}

// banner says what the node serves and, in development, what to try.
func (n *node) banner() {
	if n.config.Development {
		n.log.Warn("DEVELOPMENT MODE: certificates come from a development CA in the data folder; do not use it for anything that matters")
	}
	n.log.Info("serving", slog.Any("proxy", n.settings.ProxyListen), slog.Any("proxy_tls", n.settings.ProxyTLSListen), slog.Any("status", n.settings.StatusListen), slog.String("data_dir", n.settings.DataDir))
	if !n.settings.starts() || len(n.settings.ProxyTLSListen) == 0 {
		return
	}
	secure := local(n.settings.ProxyTLSListen[0])
	ca := filepath.Join(n.settings.DataDir, devca.CertName)
	lines := []string{
		"", "Keyway " + version + " is serving its starter document. Try:", "",
		"  curl --cacert " + ca + " https://" + secure + "/echo",
		"  curl --cacert " + ca + " -H 'apikey: demo-key' https://" + secure + "/orders/1",
	}
	if len(n.settings.StatusListen) > 0 {
		lines = append(lines, "  curl http://"+n.settings.StatusListen[0]+"/status")
	}
	fmt.Fprintln(n.out, strings.Join(append(lines, ""), "\n"))
}

// local is an address as a client of the same machine writes it.
func local(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if host == "" || host == "0.0.0.0" || host == "::" || host == "127.0.0.1" {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// newUUID makes a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
