package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestGRPCErrors has the node itself answer gRPC's clients: with a status that they read.
func TestGRPCErrors(t *testing.T) {
	cert, key := pair(t, "grpc", "grpc.test")
	g := start(t, options{document: fmt.Sprintf(`
_format_version: "3.0"
certificates: [{cert: %q, key: %q, snis: [grpc.test]}]
services:
- {name: dead, url: "grpc://127.0.0.1:1", retries: 0, routes: [{name: dead, protocols: [grpcs], paths: [/dead]}]}
- name: shut
  url: "grpc://127.0.0.1:1"
  routes:
  - {name: shut, protocols: [grpcs], paths: [/shut], plugins: [{name: request-termination, config: {status_code: 429, message: "not now"}}]}
`, cert, key)})
	var h2, h1 http.Protocols
	h2.SetHTTP2(true)
	h1.SetHTTP1(true)
	ask := func(p *http.Protocols, path, contentType string) (*http.Response, string) {
		t.Helper()
		c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{Protocols: p, TLSClientConfig: &tls.Config{ServerName: "grpc.test", InsecureSkipVerify: true}}} //nolint:gosec // a test's own pair
		defer c.CloseIdleConnections()
		resp, err := c.Post("https://"+g.tls+path, contentType, strings.NewReader("\x00\x00\x00\x00\x00"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		return resp, string(body)
	}
	for _, c := range []struct {
		path            string
		status          int
		code, says, why string
	}{
		{"/none", 404, "5", "no Route matched with those values", "no route"},
		{"/dead", 502, "13", "An invalid response was received from the upstream server", "nobody listens"},
		{"/shut", 429, "8", "not now", "a plugin"},
	} {
		resp, body := ask(&h2, c.path, "application/grpc")
		if f := resp.Header; resp.StatusCode != c.status || f.Get("Grpc-Status") != c.code || f.Get("Grpc-Message") != c.says || f.Get("Content-Type") != "application/grpc" || body != "" {
			t.Errorf("%s: %d %v %q", c.why, resp.StatusCode, f, body)
		}
	}
	if resp, _ := ask(&h1, "/dead", "application/grpc"); resp.StatusCode != 426 || resp.Header.Get("Grpc-Status") != "" {
		t.Errorf("over HTTP/1.1: %d %v", resp.StatusCode, resp.Header)
	}
	if resp, body := ask(&h2, "/dead", "application/json"); resp.StatusCode != 415 || !strings.Contains(body, "Non-gRPC") {
		t.Errorf("not gRPC: %d %q", resp.StatusCode, body)
	}
}
