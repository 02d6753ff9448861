// Package control is the door for the commands of the same machine: HTTP with
// JSON over the unix socket <data folder>/control.sock, which only the user that
// runs the node may open (mode 0600). It shows facts, and does what a command asks
// for under the name of the user who asks; it never shows a secret value.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/keyway-edge/keyway/edge/handover"
)

// SocketName is the socket's name inside the data folder.
const SocketName = "control.sock"

// maxPath is how long the path of a socket may be: the system's array for it ends in a zero.
const maxPath = len(syscall.RawSockaddrUnix{}.Path) - 1

// Node answers what the commands ask. Answers are rendered as JSON.
type Node interface {
	Facts() Facts
	// Explain says what would become of a request; the error is for the user.
	Explain(q Question) (any, error)
	// Reload makes the node look at its documents and credentials again. It
	// answers the problems that this found, and whether what was read serves by now:
	// a document waits for its secrets.
	Reload(ctx context.Context) (problems []string, serves bool)
	// Act does what a command asks for and answers once it is done. The error is for
	// the user.
	Act(ctx context.Context, a Action) (any, error)
}

// Facts are the answers that need no question.
type Facts struct {
	Status       any
	Certificates any
	Secrets      any
}

// Question is a request to explain.
type Question struct {
	Method  string
	URL     string
	SNI     string
	Port    int      // that the request comes to, 0 for the URL's
	Headers []string // "Name: value"
	// Consumer is who the request is from, by username or id; "" for nobody.
	Consumer string
}

// Purpose is what the socket is called among those that a node hands over.
const Purpose = "control"

// finish is how long answers under way may take when the node ends.
const finish = time.Second

// Server listens on the socket.
type Server struct {
	path    string
	node    Node
	l       *net.UnixListener
	closing sync.Once
}

// New makes a Server for the data folder dir; Listen listens.
func New(dir string, node Node) *Server {
	return &Server{path: filepath.Join(dir, SocketName), node: node}
}

// Socket is what the socket is called among those that a node hands over.
func (s *Server) Socket() handover.Socket {
	return handover.Socket{Network: "unix", Address: s.path, Purpose: Purpose}
}

// Listen listens, unless the socket was handed over and is listening already. A socket
// left by a dead node is replaced; one that a living node answers on is an error: two
// nodes must not share a data folder.
func (s *Server) Listen(ctx context.Context, sockets *handover.Sockets) error {
	if sockets.Holds(s.Socket()) {
		return s.listen(ctx, sockets)
	}
	if len(s.path) > maxPath {
		return fmt.Errorf("the path of the control socket, %s, has %d bytes; expected at most %d: set a shorter data_dir", s.path, len(s.path), maxPath)
	}
	if c, err := net.DialTimeout("unix", s.path, time.Second); err == nil {
		_ = c.Close()
		return fmt.Errorf("another node answers on %s: two nodes cannot share a data folder, set data_dir", s.path)
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the old control socket: %w", err)
	}
	if err := s.listen(ctx, sockets); err != nil {
		return err
	}
	// The folder is 0700 already; the mode says the same of the socket itself.
	if err := os.Chmod(s.path, 0o600); err != nil {
		_ = s.l.Close()
		return fmt.Errorf("protecting the control socket: %w", err)
	}
	return nil
}

func (s *Server) listen(ctx context.Context, sockets *handover.Sockets) error {
	l, err := sockets.Listen(ctx, Purpose, "unix", s.path)
	if err != nil {
		return fmt.Errorf("listening on the control socket: %w", err)
	}
	s.l = l.(*net.UnixListener) // "unix" makes no other kind
	return nil
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, ConnContext: withPeer}
	if err := handover.ServeHTTP(ctx, srv, door{s.l, s, ctx}, finish); err != nil {
		return fmt.Errorf("the control socket: %w", err)
	}
	return nil
}

// Leave leaves the socket to the process that it was handed over to: from then on that one
// answers whoever comes.
func (s *Server) Leave() { s.close(true) }

// close stops to accept. The name of a socket that was given leads to another process.
func (s *Server) close(given bool) {
	s.closing.Do(func() {
		s.l.SetUnlinkOnClose(!given)
		_ = s.l.Close()
	})
}

// door is the socket while Run serves it.
type door struct {
	*net.UnixListener
	s   *Server
	ctx context.Context //nolint:containedctx // it says why it is closed
}

// Close closes the socket.
func (d door) Close() error {
	d.s.close(handover.GivenBy(d.ctx).Has(d.s.Socket()))
	return nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	fact := func(pick func(Facts) any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, pick(s.node.Facts())) }
	}
	mux.HandleFunc("GET /v1/status", fact(func(f Facts) any { return f.Status }))
	mux.HandleFunc("GET /v1/certificates", fact(func(f Facts) any { return f.Certificates }))
	mux.HandleFunc("GET /v1/secrets", fact(func(f Facts) any { return f.Secrets }))
	mux.HandleFunc("POST /v1/explain", func(w http.ResponseWriter, r *http.Request) {
		var q Question
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&q); err != nil {
			answer(w, http.StatusBadRequest, map[string]string{"error": "the question is not JSON"})
			return
		}
		a, err := s.node.Explain(q)
		if err != nil {
			answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		answer(w, http.StatusOK, a)
	})
	mux.HandleFunc("POST /v1/act", s.act)
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		problems, serves := s.node.Reload(r.Context())
		answer(w, http.StatusOK, map[string]any{"problems": problems, "serves": serves})
	})
	return mux
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v)
}

// Client asks the node of a data folder.
type Client struct {
	http http.Client
	path string
}

// Dial makes a Client for the data folder dir; it connects when it is used.
func Dial(dir string) *Client {
	path := filepath.Join(dir, SocketName)
	return &Client{path: path, http: http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}},
	}}
}

// Patient makes the Client wait longer for answers.
func (c *Client) Patient(limit time.Duration) { c.http.Timeout = limit }

// Get asks for a fact: "status", "certificates" or "secrets".
func (c *Client) Get(ctx context.Context, fact string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node/v1/"+fact, nil)
	if err != nil {
		return fmt.Errorf("asking for %s: %w", fact, err)
	}
	return c.do(req, into)
}

// Post sends a question: "explain" or "reload".
func (c *Client) Post(ctx context.Context, what string, question, into any) error {
	text, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("writing the question: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://node/v1/"+what, bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("asking to %s: %w", what, err)
	}
	return c.do(req, into)
}

func (c *Client) do(req *http.Request, into any) error {
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the node at %s: %w; is it running, with this data folder (--data-dir)?", c.path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		var said struct {
			Error string `json:"error"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&said); err != nil || said.Error == "" {
			return fmt.Errorf("the node at %s answered %s", c.path, resp.Status)
		}
		return errors.New(said.Error)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("reading the node's answer: %w", err)
	}
	return nil
}
