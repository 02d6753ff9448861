package integration

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestGRPCWeb calls the suite's server as browsers do, over HTTP/1.1 and HTTP/2, in both
// forms.
func TestGRPCWeb(t *testing.T) {
	cert, key := pair(t, "grpc", "web.test")
	dir := t.TempDir()
	plain, _ := grpcServers(t, file(t, dir, "cert.pem", cert), file(t, dir, "key.pem", key))
	g := start(t, options{document: fmt.Sprintf(`
_format_version: "3.0"
certificates: [{cert: %q, key: %q, snis: [web.test]}]
services:
- {name: tests, url: "grpc://%s", routes: [{name: web, protocols: [http, https], paths: [/grpc.testing.TestService], plugins: [{name: grpc-web, config: {allow_origin_header: "https://page.test"}}]}]}
- {name: under, url: "grpc://%s", routes: [{name: under, paths: [/under], plugins: [{name: grpc-web, config: {pass_stripped_path: true}}]}]}
- {name: dead, url: "grpc://127.0.0.1:1", retries: 0, routes: [{name: dead, paths: [/dead], plugins: [{name: grpc-web}]}]}
`, cert, key, plain, plain)})
	const service = "/grpc.testing.TestService/"
	calls := []struct {
		name, path, message string
		status              int
		messages            string
		trailers            []string
	}{
		{"empty", service + "EmptyCall", "", 200, "\x00\x00\x00\x00\x00", []string{"grpc-status:0\r\n"}},
		{"stream", service + "StreamingOutputCall", "\x12\x02\x08\x02\x12\x02\x08\x01", 200, "\x00\x00\x00\x00\x06\x0a\x04\x12\x02\x00\x00" + "\x00\x00\x00\x00\x05\x0a\x03\x12\x01\x00", []string{"grpc-status:0\r\n"}},
		{"status", service + "UnaryCall", "\x3a\x08\x08\x02\x12\x04oops", 200, "", []string{"grpc-status:2\r\n", "grpc-message:oops\r\n"}},
		{"unimplemented", service + "UnimplementedCall", "", 200, "", []string{"grpc-status:12\r\n"}},
		{"under a prefix", "/under" + service + "EmptyCall", "", 200, "\x00\x00\x00\x00\x00", []string{"grpc-status:0\r\n"}},
		{"nobody listens", "/dead", "", 502, "", []string{"grpc-status:13\r\n"}},
	}
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		var p http.Protocols
		p.SetHTTP1(version == "HTTP/1.1")
		p.SetHTTP2(version != "HTTP/1.1")
		c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{Protocols: &p, TLSClientConfig: &tls.Config{ServerName: "web.test", InsecureSkipVerify: true}}} //nolint:gosec // a test's own pair
		defer c.CloseIdleConnections()
		for _, kind := range []string{"application/grpc-web+proto", "application/grpc-web-text"} {
			for _, call := range calls {
				t.Run(version+"/"+kind+"/"+call.name, func(t *testing.T) {
					text := strings.Contains(kind, "text")
					in := "\x00\x00\x00\x00" + string(rune(len(call.message))) + call.message
					if text {
						in = base64.StdEncoding.EncodeToString([]byte(in))
					}
					resp, err := c.Post("https://"+g.tls+call.path, kind, strings.NewReader(in))
					if err != nil {
						t.Fatal(err)
					}
					defer func() { _ = resp.Body.Close() }()
					raw, err := io.ReadAll(resp.Body)
					if err != nil {
						t.Fatal(err)
					}
					out := string(raw)
					if text {
						out = unbase64(t, out)
					}
					frame, ok := strings.CutPrefix(out, call.messages+"\x80\x00\x00\x00")
					if !ok || resp.StatusCode != call.status || resp.Proto != version || resp.Header.Get("Content-Type") != kind || len(resp.Trailer) > 0 {
						t.Fatalf("%s %d %v %q, trailers %v", resp.Proto, resp.StatusCode, resp.Header, out, resp.Trailer)
					}
					for _, want := range call.trailers {
						if int(frame[0]) != len(frame)-1 || !strings.Contains(frame[1:], want) {
							t.Errorf("the trailers are %q, expected %q", frame, want)
						}
					}
				})
			}
		}
		req, _ := http.NewRequest(http.MethodOptions, "https://"+g.tls+service+"EmptyCall", nil)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if f := resp.Header; resp.StatusCode != 200 || f.Get("Access-Control-Allow-Origin") != "https://page.test" || f.Get("Access-Control-Allow-Methods") != "POST" {
			t.Errorf("%s: OPTIONS: %d %v", version, resp.StatusCode, resp.Header)
		}
	}
}

// unbase64 decodes pieces that are padded each.
func unbase64(t *testing.T, s string) string {
	t.Helper()
	var out []byte
	for len(s) > 0 {
		end := len(s)
		if i := strings.IndexByte(s, '='); i >= 0 {
			end = i/4*4 + 4
		}
		b, err := base64.StdEncoding.DecodeString(s[:end])
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		out, s = append(out, b...), s[end:]
	}
	return string(out)
}
