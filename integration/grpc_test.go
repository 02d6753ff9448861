package integration

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// grpcCases are those of gRPC's interoperability suite that need nothing of a cloud.
func grpcCases() []string {
	return []string{
		"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream", "timeout_on_sleeping_server",
		"cancel_after_begin", "cancel_after_first_response", "status_code_and_message", "special_status_message", "custom_metadata",
		"unimplemented_method", "unimplemented_service",
	}
}

// grpcServers starts the suite's server, in clear and over TLS, and answers both addresses.
func grpcServers(t *testing.T, cert, key string) (plain, secure string) {
	t.Helper()
	dev := tool(t, "grpcdev")
	plain, secure = fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
	a := process(t, t.TempDir(), nil, dev, "-listen", plain)
	b := process(t, t.TempDir(), nil, dev, "-listen", secure, "-cert", cert, "-key", key)
	poll(t, "both servers are ready", 20*time.Second, func() bool {
		return strings.Contains(a.String(), "ready") && strings.Contains(b.String(), "ready")
	})
	return plain, secure
}

// TestGRPCInterop has grpc-go's client run each case through the node: TLS and clear in
// front, TLS and clear behind, and a service of protocol https that says h2.
func TestGRPCInterop(t *testing.T) {
	dev := tool(t, "grpcdev")
	cert, key := pair(t, "grpc", "h2c.test", "tls.test", "h2.test")
	dir := t.TempDir()
	certFile, keyFile := file(t, dir, "cert.pem", cert), file(t, dir, "key.pem", key)
	plain, secure := grpcServers(t, certFile, keyFile)
	g := start(t, options{env: map[string]string{"SSL_CERT_FILE": certFile, "KEYWAY_H2C": "all"}, document: fmt.Sprintf(`
_format_version: "3.0"
certificates:
- {cert: %q, key: %q, snis: [h2c.test, tls.test, h2.test]}
services:
- {name: h2c, url: "grpc://%s", routes: [{name: h2c, protocols: [grpc, grpcs], hosts: [h2c.test], paths: [/]}]}
- {name: tls, url: "grpcs://%s", routes: [{name: tls, protocols: [grpcs], hosts: [tls.test], paths: [/], preserve_host: true}]}
- {name: h2, url: "https://%s", x_keyway_upstream_protocol: h2, routes: [{name: h2, protocols: [https], hosts: [h2.test], paths: [/], strip_path: false, preserve_host: true}]}
`, cert, key, plain, secure, secure)})
	for _, pass := range []struct{ front, backend string }{{"tls", "h2c"}, {"tls", "tls"}, {"tls", "h2"}, {"h2c", "h2c"}} {
		for _, name := range grpcCases() {
			t.Run(pass.front+" in front, "+pass.backend+" behind/"+name, func(t *testing.T) {
				args := []string{"-dial", g.proxy, "-server-name", pass.backend + ".test", "-case", name}
				if pass.front == "tls" {
					args[1] = g.tls
					args = append(args, "-ca", certFile)
				}
				out, err := exec.CommandContext(t.Context(), dev, args...).CombinedOutput()
				if err != nil || !strings.Contains(string(out), "passed "+name) {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}
