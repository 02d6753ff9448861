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

	mu   sync.Mutex // guards the group below
	path string     // "" for a stream
	out  io.Writer
	file io.WriteCloser
	buf  *bufio.Writer
}

// NewAccessLog writes to w.
func NewAccessLog(w io.Writer, sample float64) *AccessLog {
	a := &AccessLog{sample: sample, out: w, buf: bufio.NewWriterSize(w, 64<<10)}
	a.log = slog.New(slog.NewJSONHandler(lockedWriter{a}, nil))
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
	return w.a.buf.Write(p)
}

// write logs one exchange. Failures of the node and its upstreams are always
// logged, whatever the sample. The query is left out: keys travel in it.
func (a *AccessLog) write(f *edge.Finished) {
	x := f.X
	if a.sample < 1 && x.Response.Status < 500 && rand.Float64() >= a.sample {
		return
	}
	attrs := make([]slog.Attr, 0, 32)
	attrs = append(attrs,
		slog.String("request_id", x.RequestID),
		slog.String("client", f.Context.ClientIP.String()),
		slog.String("method", x.Request.Method),
		slog.String("host", x.Request.Host),
		slog.String("path", x.Request.Path),
		slog.String("protocol", x.Conn.Protocol),
		slog.Int("status", x.Response.Status),
		slog.String("made_by", f.Source),
		slog.Int64("bytes_in", x.BytesIn),
		slog.Int64("bytes_out", x.BytesOut),
		ms("total_ms", x.Elapsed),
	)
	c := f.Context
	if c.Route != nil {
		attrs = append(attrs, slog.String("route", nameOr(c.Route.Name, c.Route.ID)))
	}
	if c.Service != nil {
		attrs = append(attrs, slog.String("service", nameOr(c.Service.Name, c.Service.ID)))
	}
	if c.Consumer != nil {
		attrs = append(attrs, slog.String("consumer", nameOr(c.Consumer.Username, c.Consumer.ID)))
	}
	if len(f.Sent) > 0 {
		list := make([]string, len(f.Sent))
		for i, s := range f.Sent {
			list[i] = s.Name + "@" + strconv.Itoa(s.Version)
		}
		attrs = append(attrs, slog.Any("upstream_credentials", list))
	}
	if c.Credential != nil {
		attrs = append(attrs, slog.String("credential", c.Credential.Plugin+":"+c.Credential.ID+"@"+strconv.Itoa(c.Credential.Version)))
	}
	if x.Conn.TLS != nil {
		attrs = append(attrs, slog.String("tls", tlsName(x.Conn.TLS.Version)), slog.String("sni", x.Conn.TLS.ServerName), slog.String("certificate", x.Conn.CertSerial))
	}
	if n := len(x.Attempts); n > 0 {
		last := x.Attempts[n-1]
		attrs = append(attrs, slog.String("upstream", last.Address), slog.Int("tries", n), slog.Bool("upstream_reused", x.UpstreamReused))
		if !x.UpstreamHead.IsZero() {
			attrs = append(attrs, ms("upstream_ms", x.UpstreamHead.Sub(x.UpstreamStart)))
		}
	}
	if f.Snapshot != nil {
		attrs = append(attrs, slog.Uint64("generation", f.Snapshot.Generation))
	}
	if f.Reply != nil && f.Reply.Err != nil {
		attrs = append(attrs, slog.String("reason", f.Reply.Err.Error()))
	}
	if f.Err != nil {
		attrs = append(attrs, slog.String("broken_off", f.Err.Error()))
	}
	a.log.LogAttrs(x.Ctx, slog.LevelInfo, "request", attrs...)
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
