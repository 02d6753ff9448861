package telemetry

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/edge"
)

// AccessLog writes one JSON line for each exchange. Lines are buffered for at
// most a second; Flush and Close lose none.
type AccessLog struct {
	log    *slog.Logger
	sample float64
	lines  sync.Pool // of *accessLine

	mu     sync.Mutex // guards the group below
	path   string     // "" for a stream
	out    io.Writer
	file   io.WriteCloser
	buf    *bufio.Writer
	shared bool
}

// accessLine is where a line is composed. Composing takes longer than a lock should be
// held that each core wants for each request.
type accessLine struct {
	text  []byte
	stamp stamp
}

// pipeWrite is how much a pipe takes in one piece, whoever else writes to it (pipe(7)).
const pipeWrite = 4096

// NewAccessLog writes to w.
func NewAccessLog(w io.Writer, sample float64) *AccessLog {
	a := &AccessLog{sample: sample, out: w, buf: bufio.NewWriterSize(w, 64<<10)}
	a.log = slog.New(slog.NewJSONHandler(lockedWriter{a}, nil))
	a.lines.New = func() any { return new(accessLine) }
	return a
}

// OpenAccessLog appends to the file at path, made with mode 0640.
func OpenAccessLog(path string, sample float64) (*AccessLog, error) {
	a := NewAccessLog(nil, sample)
	a.path = path
	return a, a.Reopen()
}

// Reopen opens the file anew, after it was moved away. A stream stays.
func (a *AccessLog) Reopen() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.path == "" {
		return nil
	}
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("opening the access log: %w", err)
	}
	if a.file != nil {
		_ = a.buf.Flush()
		_ = a.file.Close()
	}
	a.file, a.out = f, f
	a.buf.Reset(f)
	return nil
}

// Share says whether another process writes to the same stream: then no more is written at
// once than a pipe takes in one piece. A file takes every piece whole.
func (a *AccessLog) Share(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shared = on && a.path == ""
	_ = a.buf.Flush()
}

// Run flushes once a second until ctx ends, and then once more.
func (a *AccessLog) Run(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return a.Flush()
		case <-t.C:
			_ = a.Flush()
		}
	}
}

// Flush writes what is buffered.
func (a *AccessLog) Flush() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.buf.Flush()
	if err != nil {
		// A bufio.Writer that failed once refuses everything. A disk that was full
		// may have room again: lines that could not be written are lost, no later ones.
		a.buf.Reset(a.out)
		return fmt.Errorf("writing the access log: %w", err)
	}
	return nil
}

type lockedWriter struct{ a *AccessLog }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.a.mu.Lock()
	defer w.a.mu.Unlock()
	return w.a.put(p)
}

// put writes a line; mu is held.
func (a *AccessLog) put(line []byte) (int, error) {
	// Lines are written whole, for another process may write to the same file.
	if n := a.buf.Buffered(); n > 0 && (len(line) > a.buf.Available() || a.shared && n+len(line) > pipeWrite) {
		_ = a.buf.Flush()
	}
	return a.buf.Write(line)
}

// write logs one exchange. Failures of the node and its upstreams are always
// logged, whatever the sample. The query is left out: keys travel in it.
func (a *AccessLog) write(f *edge.Finished) {
	x := f.X
	if a.sample < 1 && x.Response.Status < 500 && rand.Float64() >= a.sample {
		return
	}
	l := a.lines.Get().(*accessLine)
	l.text = appendExchange(l.text[:0], f, &l.stamp)
	a.mu.Lock()
	_, _ = a.put(l.text) // Flush tells of a disk that takes nothing
	a.mu.Unlock()
	a.lines.Put(l)
}

// appendExchange writes the line of one exchange.
func appendExchange(line []byte, f *edge.Finished, s *stamp) []byte {
	x, c := f.X, f.Context
	l := object(line)
	l.time(`{"time":"`, x.Start.Add(x.Elapsed), s)
	l.text(`,"level":"INFO","msg":"request","request_id":"`, x.RequestID)
	l.address(`,"client":"`, c.ClientIP)
	l.text(`,"method":"`, x.Request.Method)
	l.text(`,"host":"`, x.Request.Host)
	l.text(`,"path":"`, x.Request.Path)
	l.text(`,"protocol":"`, x.Conn.Protocol)
	l.number(`,"status":`, int64(x.Response.Status))
	l.text(`,"made_by":"`, f.Source)
	l.number(`,"bytes_in":`, x.BytesIn)
	l.number(`,"bytes_out":`, x.BytesOut)
	l.millis(`,"total_ms":`, x.Elapsed)
	if c.Route != nil {
		l.text(`,"route":"`, nameOr(c.Route.Name, c.Route.ID))
	}
	if c.Service != nil {
		l.text(`,"service":"`, nameOr(c.Service.Name, c.Service.ID))
	}
	if c.Consumer != nil {
		l.text(`,"consumer":"`, nameOr(c.Consumer.Username, c.Consumer.ID))
	}
	if len(f.Sent) > 0 {
		l.versions(`,"upstream_credentials":[`, f.Sent)
	}
	if c.Credential != nil {
		l.credential(`,"credential":"`, c.Credential)
	}
	if tls := x.Conn.TLS; tls != nil {
		l.text(`,"tls":"`, tlsName(tls.Version))
		l.text(`,"sni":"`, tls.ServerName)
		l.text(`,"certificate":"`, x.Conn.CertSerial)
	}
	if n := len(x.Attempts); n > 0 {
		l.text(`,"upstream":"`, x.Attempts[n-1].Address)
		l.number(`,"tries":`, int64(n))
		if x.UpstreamReused {
			l = append(l, `,"upstream_reused":true`...)
		} else {
			l = append(l, `,"upstream_reused":false`...)
		}
		if !x.UpstreamHead.IsZero() {
			l.millis(`,"upstream_ms":`, x.UpstreamHead.Sub(x.UpstreamStart))
		}
	}
	if f.Snapshot != nil {
		l = strconv.AppendUint(append(l, `,"generation":`...), f.Snapshot.Generation, 10)
	}
	if f.Reply != nil && f.Reply.Err != nil {
		l.text(`,"reason":"`, f.Reply.Err.Error())
	}
	if f.Err != nil {
		l.text(`,"broken_off":"`, f.Err.Error())
	}
	return append(l, '}', '\n')
}

func ms(key string, d time.Duration) slog.Attr {
	return slog.Float64(key, float64(d.Microseconds())/1000)
}

func nameOr(name, id string) string {
	if name != "" {
		return name
	}
	return id
}
