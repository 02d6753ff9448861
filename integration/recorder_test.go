package integration

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// seen is one request as an origin got it.
type seen struct {
	Port       int         `json:"port"`
	Method     string      `json:"method"`
	Target     string      `json:"target"`
	Version    string      `json:"version"`
	Headers    [][2]string `json:"headers"`
	BodyLen    int         `json:"body_len"`
	BodySHA256 string      `json:"body_sha256"`
	Body       *string     `json:"body"`
}

// canned is a response that an origin is told to give.
type canned struct {
	Status  int         `json:"status"`
	Headers [][2]string `json:"headers"`
	Body    string      `json:"body"`
}

// origins are the recording origins of the recordings: ports 19900 and up.
type origins struct {
	mu    sync.Mutex
	seen  []seen
	reply *canned
	act   func(s *seen) *canned // decides about each reply, where a test needs more than one
	live  []net.Listener
}

// listenOrigins opens n origins at 127.0.0.1:19900 and up.
func listenOrigins(t testing.TB, n int) *origins {
	t.Helper()
	o := &origins{}
	t.Cleanup(func() {
		for _, l := range o.live {
			_ = l.Close()
		}
	})
	for i := range n {
		port := 19900 + i
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatalf("the recordings need port %d: %v", port, err)
		}
		o.live = append(o.live, l)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go o.serve(c, port)
			}
		}()
	}
	return o
}

// take answers what was seen since the last take and sets the next reply.
func (o *origins) take(next *canned) []seen {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.seen
	o.seen, o.reply = nil, next
	return s
}

func (o *origins) serve(c net.Conn, port int) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for {
		s, err := readRequest(r)
		if err != nil {
			return
		}
		s.Port = port
		o.mu.Lock()
		o.seen = append(o.seen, *s)
		reply, act := o.reply, o.act
		o.mu.Unlock()
		if act != nil {
			reply = act(s)
		}
		if _, err := c.Write(render(s, reply)); err != nil {
			return
		}
	}
}

func readRequest(r *bufio.Reader) (*seen, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	parts := strings.SplitN(strings.TrimRight(line, "\r\n"), " ", 3)
	if len(parts) != 3 {
		return nil, fmt.Errorf("bad request line %q", line)
	}
	s := &seen{Method: parts[0], Target: parts[1], Version: parts[2]}
	body, headers, err := readMessage(r)
	if err != nil {
		return nil, err
	}
	s.Headers = headers
	sum := sha256.Sum256(body)
	text := latin1(body)
	s.BodyLen, s.BodySHA256, s.Body = len(body), hex.EncodeToString(sum[:]), &text
	return s, nil
}

// readMessage reads header fields and a request body.
func readMessage(r *bufio.Reader) ([]byte, [][2]string, error) {
	headers, err := readFields(r)
	if err != nil {
		return nil, nil, err
	}
	length, chunked := 0, false
	for _, h := range headers {
		switch strings.ToLower(h[0]) {
		case "content-length":
			length, err = strconv.Atoi(h[1])
		case "transfer-encoding":
			chunked = true
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if chunked {
		body, err := readChunks(r)
		return body, headers, err
	}
	body := make([]byte, length)
	_, err = io.ReadFull(r, body)
	return body, headers, err
}

func readFields(r *bufio.Reader) ([][2]string, error) {
	var headers [][2]string
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			return headers, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("bad header line %q", line)
		}
		headers = append(headers, [2]string{name, latin1([]byte(strings.Trim(value, " \t")))})
	}
}

func readChunks(r *bufio.Reader) ([]byte, error) {
	var body []byte
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(strings.SplitN(line, ";", 2)[0]), 16, 32)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			_, err := textproto.NewReader(r).ReadMIMEHeader()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return body, err
		}
		part := make([]byte, n+2)
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, err
		}
		body = append(body, part[:n]...)
	}
}

// render makes the reply: the canned one, or an echo in JSON.
func render(s *seen, reply *canned) []byte {
	var b bytes.Buffer
	if reply == nil {
		echo, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(&b, "HTTP/1.1 200 OK\r\nServer: echo/1\r\nContent-Type: application/json\r\nX-Echo: 1\r\nContent-Length: %d\r\n\r\n", len(echo))
		if s.Method != "HEAD" {
			b.Write(echo)
		}
		return b.Bytes()
	}
	status := reply.Status
	if status == 0 {
		status = 200
	}
	body := bytesOf(reply.Body)
	fmt.Fprintf(&b, "HTTP/1.1 %d Status\r\n", status)
	framed := false
	for _, h := range reply.Headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], bytesOf(h[1]))
		if n := strings.ToLower(h[0]); n == "content-length" || n == "transfer-encoding" {
			framed = true
		}
	}
	// The origin of the recordings says these two of itself unless told otherwise.
	for _, own := range [][2]string{{"Server", "echo/1"}, {"Content-Type", "application/json"}} {
		if _, ok := header(reply.Headers, own[0]); !ok {
			fmt.Fprintf(&b, "%s: %s\r\n", own[0], own[1])
		}
	}
	if !framed && status != 204 && status != 304 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	if s.Method != "HEAD" && status != 204 && status != 304 {
		b.Write(body)
	}
	return b.Bytes()
}

// latin1 and bytesOf are the recordings' way of keeping bytes in JSON strings.
func latin1(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}

func bytesOf(s string) []byte {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			b = append(b, string(r)...)
			continue
		}
		b = append(b, byte(r))
	}
	return b
}

// sent is a request of a recording.
type sent struct {
	Method  string      `json:"method"`
	Target  string      `json:"target"`
	Version string      `json:"version"`
	Headers [][2]string `json:"headers"`
	Body    string      `json:"body"`
	TLS     bool        `json:"tls"`
	SNI     string      `json:"sni"`
	Reply   *canned     `json:"backend_response"`
}

// got is a response as a client got it.
type got struct {
	Status  int         `json:"status"`
	Headers [][2]string `json:"headers"`
	Body    string      `json:"body"`
}

// do sends a recorded request byte for byte, with extra header lines at the end.
func do(plain, secure string, q sent, extra ...[2]string) (*got, error) {
	address := plain
	if q.TLS {
		address = secure
	}
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if q.TLS {
		// The recordings say which certificate was shown by other means; here only routing is looked at.
		c = tls.Client(c, &tls.Config{ServerName: q.SNI, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	version := q.Version
	if version == "" {
		version = "HTTP/1.1"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\r\n", q.Method, bytesOf(q.Target), version)
	for _, h := range append(append([][2]string(nil), q.Headers...), extra...) {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], bytesOf(h[1]))
	}
	b.WriteString("\r\n")
	b.Write(bytesOf(q.Body))
	if _, err := c.Write(b.Bytes()); err != nil {
		return nil, err
	}
	return readResponse(bufio.NewReader(c), q.Method)
}

func readResponse(r *bufio.Reader, method string) (*got, error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("reading the status line: %w", err)
		}
		parts := strings.SplitN(strings.TrimRight(line, "\r\n"), " ", 3)
		if len(parts) < 2 {
			return nil, fmt.Errorf("bad status line %q", line)
		}
		status, err := strconv.Atoi(parts[1])
		if err != nil {
			return nil, fmt.Errorf("bad status line %q", line)
		}
		headers, err := readFields(r)
		if err != nil {
			return nil, err
		}
		if status/100 == 1 && status != 101 {
			continue
		}
		g := &got{Status: status, Headers: headers}
		body, err := readBody(r, g, method)
		g.Body = latin1(body)
		return g, err
	}
}

func readBody(r *bufio.Reader, g *got, method string) ([]byte, error) {
	if method == "HEAD" || g.Status == 204 || g.Status == 304 {
		return nil, nil
	}
	for _, h := range g.Headers {
		switch strings.ToLower(h[0]) {
		case "content-length":
			n, err := strconv.Atoi(h[1])
			if err != nil {
				return nil, err
			}
			body := make([]byte, n)
			_, err = io.ReadFull(r, body)
			return body, err
		case "transfer-encoding":
			return readChunks(r)
		}
	}
	return io.ReadAll(r)
}
