package integration

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// TestCompression asks through a node over HTTP/1.1 and HTTP/2: a page comes encoded
// and whole, a picture as it is, an event of a stream at once.
func TestCompression(t *testing.T) {
	page := strings.Repeat("<p>a line of text</p>\n", 5000)
	next := make(chan struct{})
	o := origin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/page":
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("ETag", `"1"`)
			_, _ = io.WriteString(w, page)
		case "/picture":
			w.Header().Set("Content-Type", "image/png")
			_, _ = io.WriteString(w, page)
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				<-next
			}
		}
	})
	cert, key := pair(t, "edge.test", "edge.test")
	g := start(t, options{document: fmt.Sprintf("_format_version: \"3.0\"\ncertificates: [{cert: %q, key: %q, snis: [edge.test]}]\nplugins: [{name: compression, config: {codings: [gzip]}}]\nservices: [{name: a, url: \"http://%s\", routes: [{paths: [/]}]}]\n", cert, key, o)})
	for _, h2 := range []bool{false, true} {
		client := speaker(t, h2)
		client.Transport.(*http.Transport).DisableCompression = true
		ask := func(path, accepts string) *http.Response {
			t.Helper()
			req, err := http.NewRequest(http.MethodGet, "https://"+g.tls+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept-Encoding", accepts)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = resp.Body.Close() })
			return resp
		}
		resp := ask("/page", "gzip")
		raw, err := io.ReadAll(resp.Body)
		if err != nil || resp.Header.Get("Content-Encoding") != "gzip" || resp.Header.Get("ETag") != `W/"1"` || len(raw) > len(page)/20 {
			t.Errorf("%s: %v, %d bytes, %v", resp.Proto, err, len(raw), resp.Header)
		}
		r, err := gzip.NewReader(strings.NewReader(string(raw)))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(r); err != nil || string(text) != page {
			t.Errorf("%s: %v, %d bytes of %d", resp.Proto, err, len(text), len(page))
		}
		if resp := ask("/picture", "gzip"); resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: a picture has %v", resp.Proto, resp.Header)
		}
		if resp := ask("/page", "identity"); resp.Header.Get("Content-Encoding") != "" || resp.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s: not asked for: %v", resp.Proto, resp.Header)
		}
		events := ask("/events", "gzip")
		if r, err = gzip.NewReader(events.Body); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(r)
		for i := range 3 {
			line, err := lines.ReadString('\n')
			if err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Errorf("%s: event %d: %q, %v", events.Proto, i, line, err)
			}
			_, _ = lines.ReadString('\n')
			select {
			case next <- struct{}{}:
			case <-time.After(10 * time.Second):
				t.Fatal("the origin is not in the middle of its stream")
			}
		}
		if _, err := lines.ReadString('\n'); err != io.EOF {
			t.Errorf("%s: the stream ends with %v", events.Proto, err)
		}
	}
}
