package stream

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/sock/socktest"
	"github.com/keyway-edge/keyway/routing"
)

// TestSplitStreams has each connection go to one of the services of its route, by
// weight, and those that fall on none be closed.
func TestSplitStreams(t *testing.T) {
	var services strings.Builder
	for _, name := range []string{"a", "b"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, name)
				_ = c.Close()
			}
		}()
		fmt.Fprintf(&services, "- {name: %s, protocol: tcp, host: 127.0.0.1, port: %d}\n", name, l.Addr().(*net.TCPAddr).Port)
	}
	snap := snapshotOf(t, "services:\n"+services.String()+`- {name: web, host: 127.0.0.1}
routes:
- {name: r, protocols: [tcp], destinations: [{port: 1}], x_keyway_split: [{service: a, weight: 2}, {service: b}, {service: null}]}
- {name: none, protocols: [tcp], destinations: [{port: 2}], x_keyway_split: [{service: a, weight: 0}]}
- {name: wrong, protocols: [tcp], destinations: [{port: 3}], x_keyway_split: [{service: web}]}
`)
	if len(snap.Problems) != 1 || snap.Problems[0].Name != "wrong" || !strings.Contains(snap.Problems[0].Message, "takes no streams") && !strings.Contains(snap.Problems[0].Message, "takes requests") {
		t.Errorf("problems %v", snap.Problems)
	}
	seen := &ends{}
	e := New(func() *edge.Snapshot { return snap }, seen, slog.New(slog.DiscardHandler))
	count := func(port uint16, n int) map[string]int {
		got := map[string]int{}
		for range n {
			client, server := socktest.Pair(t)
			_ = client.CloseWrite() // nothing more is said
			e.ServeStream(t.Context(), &edge.StreamConn{
				Conn: server, Info: &exchange.Conn{Listener: "stream", Opened: time.Now(), Local: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)}, Limit: 10 * time.Second,
			})
			text, _ := io.ReadAll(client)
			_ = client.Close()
			seen.mu.Lock()
			end := seen.list[len(seen.list)-1]
			if end.Service != nil && end.Service.Name != string(text) && end.Opened {
				t.Errorf("%s was told as of %s", text, end.Service.Name)
			}
			got[string(text)+" "+end.Result]++
			seen.mu.Unlock()
		}
		return got
	}
	got := count(1, 40)
	for what, want := range map[string]int{"a closed": 20, "b closed": 10, " unavailable": 10} {
		if d := got[what] - want; d < -3 || d > 3 || len(got) != 3 {
			t.Errorf("%v, expected %d of %q", got, want, what)
		}
	}
	for _, port := range []uint16{2, 3} {
		if got := count(port, 3); got[" unavailable"] != 3 {
			t.Errorf("port %d: %v", port, got)
		}
	}
	routed, ok := snap.Stream(&routing.StreamQuery{Protocol: routing.TCP, Destination: netip.MustParseAddrPort("127.0.0.1:1")})
	if !ok || len(routed.Shares) != 3 || routed.Shares[0].Weight != 2 || routed.Shares[2].Service != nil {
		t.Errorf("%+v", routed)
	}
}
