package integration

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// TestDefaultPairSwapsEverywhere replaces the default pair, which is kept by reference,
// and looks at every TLS listener: the proxy's and those beside it.
func TestDefaultPairSwapsEverywhere(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	cert, key := pair(t, "edge.test", "edge.test")
	keep(t, data, "edge", cert+"\n"+key)
	side := map[string]string{}
	env := map[string]string{"KEYWAY_TLS_CERT": "{vault://sealed/edge}", "KEYWAY_TLS_KEY": "{vault://sealed/edge}"}
	for _, name := range []string{"ADMIN", "STATUS", "MANAGER"} {
		side[name] = fmt.Sprintf("127.0.0.1:%d", freePort(t))
		env["KEYWAY_"+name+"_TLS_LISTEN"] = side[name]
	}
	g := start(t, options{dir: data, env: env, document: "_format_version: \"3.0\"\nconsumers: []\n"})
	side["PROXY"] = g.tls
	shown := func(address string) string {
		c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, ServerName: "edge.test"}) // only what is shown matters here
		if err != nil {
			return err.Error()
		}
		defer func() { _ = c.Close() }()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	for name, address := range side {
		if got := shown(address); got != serialOf(t, cert) {
			t.Errorf("%s shows %s, expected the first pair's %s", name, got, serialOf(t, cert))
		}
	}
	time.Sleep(1100 * time.Millisecond) // validity counts whole seconds: an equal beginning is not newer
	next, nextKey := pair(t, "edge.test", "edge.test")
	keep(t, data, "edge", next+"\n"+nextKey)
	for name, address := range side {
		poll(t, name+" shows the new pair", 20*time.Second, func() bool { return shown(address) == serialOf(t, next) })
	}
}
