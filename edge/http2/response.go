package http2

import (
	"io"
	"net/http"
	"strconv"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// connectionField says whether a field is of HTTP/1.1 connections: it may not be sent here (RFC
// 9113, section 8.2.2). What the upstream side let through, or a plugin set, ends here.
func connectionField(canonical string) bool {
	switch canonical {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// setFields adds the fields of a message to header.
func setFields(header http.Header, fields *exchange.Fields) {
	for f := range fields.All() {
		name := http.CanonicalHeaderKey(f.Name)
		if !connectionField(name) {
			header[name] = append(header[name], f.Value)
		}
	}
}

// interim sends a 1xx response.
func interim(w http.ResponseWriter, status int, fields *exchange.Fields) error {
	header := w.Header()
	if fields != nil {
		setFields(header, fields)
	}
	w.WriteHeader(status)
	clear(header) // they are the interim response's alone
	return nil
}

// respond sends the response.
func (e *Engine) respond(x *exchange.Exchange, w http.ResponseWriter, last bool) error {
	resp := &x.Response
	if c, ok := resp.Body.(io.Closer); ok {
		defer func() { _ = c.Close() }()
	}
	header := w.Header()
	// The response's own or none: the library would make them up.
	header["Date"], header["Content-Type"] = nil, nil
	setFields(header, &resp.Fields)
	noBody := x.Request.Method == http.MethodHead || resp.Status == http.StatusNoContent || resp.Status == http.StatusNotModified
	if resp.Length >= 0 && resp.Status != http.StatusNoContent && (resp.Length > 0 || resp.Status != http.StatusNotModified) {
		header["Content-Length"] = []string{strconv.FormatInt(resp.Length, 10)}
	}
	if last {
		header["Connection"] = []string{"close"} // never sent: it asks the library for GOAWAY
	}
	w.WriteHeader(resp.Status)
	if resp.Body == nil || noBody {
		return nil
	}
	n, err := e.copy(w, resp)
	x.BytesOut += n
	if err != nil {
		return err
	}
	if resp.Length >= 0 && n != resp.Length {
		return io.ErrUnexpectedEOF
	}
	for f := range resp.Trailer.All() {
		if name := http.CanonicalHeaderKey(f.Name); !connectionField(name) {
			header.Add(http.TrailerPrefix+name, f.Value)
		}
	}
	return nil
}

// copy drains the body. A body of unknown length may be endless, so what is
// there is sent at once.
func (e *Engine) copy(w http.ResponseWriter, resp *exchange.Response) (int64, error) {
	buf := e.buffers.Get().(*[]byte)
	defer e.buffers.Put(buf)
	flusher, _ := w.(http.Flusher)
	var total int64
	for {
		n, err := resp.Body.Read(*buf)
		if n > 0 {
			if _, werr := w.Write((*buf)[:n]); werr != nil {
				return total, werr
			}
			total += int64(n)
			if resp.Length < 0 {
				flusher.Flush()
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
