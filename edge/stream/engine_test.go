package stream

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/sock/socktest"
)

// TestEngineTellsHellosApart shakes hands with whom a route, an authority's question or
// an encrypted name is a reason for, with the very bytes that came, and sends the alert
// unrecognized_name to others.
func TestEngineTellsHellosApart(t *testing.T) {
	snap := snapshotOf(t, "services: [{name: s, protocol: tcp, host: 127.0.0.1, port: 9, routes: [{name: r, protocols: [tls], snis: [here.test]}]}]\n")
	seen := &ends{}
	e := New(func() *edge.Snapshot { return snap }, seen, slog.New(slog.DiscardHandler))
	for name, c := range map[string]struct {
		config *tls.Config
		shakes bool
	}{
		"a route":     {&tls.Config{ServerName: "here.test"}, true},
		"a question":  {&tls.Config{ServerName: "away.test", NextProtos: []string{challengeALPN}}, true},
		"no route":    {&tls.Config{ServerName: "away.test"}, false},
		"two of ALPN": {&tls.Config{ServerName: "away.test", NextProtos: []string{"h2", challengeALPN}}, false},
		"no name":     {&tls.Config{InsecureSkipVerify: true}, false},
	} {
		client, server := socktest.Pair(t)
		hello := helloOf(t, c.config)
		if _, err := client.Write(hello); err != nil {
			t.Fatal(err)
		}
		shook := false
		e.ServeStream(t.Context(), &edge.StreamConn{
			Conn: server, Info: &exchange.Conn{Listener: "stream-tls", Opened: time.Now()}, Limit: 10 * time.Second,
			Terminate: func(_ context.Context, pinned *edge.Snapshot, ahead []byte) *tls.Conn {
				shook = true
				if !bytes.Equal(ahead, hello) || pinned != snap {
					t.Errorf("%s: the handshake begins with other bytes than came, or in another snapshot", name)
				}
				return nil
			},
		})
		alert, _ := io.ReadAll(client)
		if shook != c.shakes || !shook && !bytes.Equal(alert, []byte{21, 3, 3, 0, 2, 2, 112}) {
			t.Errorf("%s: shakes hands %v, alert % x", name, shook, alert)
		}
	}
	if opened, results := seen.results(); opened != 0 || len(seen.list) != 5 {
		t.Errorf("%d streams were opened, and ended: %s", opened, results)
	}
}

// TestEngineEndsWithoutAWord closes a connection of a listener of the document whose name has
// no route, without an alert.
func TestEngineEndsWithoutAWord(t *testing.T) {
	client, server := socktest.Pair(t)
	at := netip.MustParseAddrPort(server.LocalAddr().String())
	snap := snapshotOf(t, fmt.Sprintf("x_keyway_listeners: [{name: l, protocol: tls, address: %s, port: %d}]\n", at.Addr(), at.Port()))
	if _, err := client.Write(helloOf(t, &tls.Config{ServerName: "away.test"})); err != nil {
		t.Fatal(err)
	}
	seen := &ends{}
	New(func() *edge.Snapshot { return snap }, seen, slog.New(slog.DiscardHandler)).ServeStream(t.Context(), &edge.StreamConn{
		Conn: server, Info: &exchange.Conn{Listener: "l", Opened: time.Now(), Local: at}, Limit: 10 * time.Second,
		Terminate: func(context.Context, *edge.Snapshot, []byte) *tls.Conn { return nil },
	})
	if said, _ := io.ReadAll(client); len(said) > 0 || len(seen.list) != 1 {
		t.Errorf("the client was told % x; %d streams ended", said, len(seen.list))
	}
}

// TestEngineIgnoresLooks says nothing of a connection that brought nothing.
func TestEngineIgnoresLooks(t *testing.T) {
	snap := snapshotOf(t, "services: []\n")
	seen := &ends{}
	client, server := socktest.Pair(t)
	_ = client.Close()
	New(func() *edge.Snapshot { return snap }, seen, slog.New(slog.DiscardHandler)).ServeStream(t.Context(), &edge.StreamConn{
		Conn: server, Info: &exchange.Conn{Opened: time.Now()}, Limit: time.Second, Terminate: func(context.Context, *edge.Snapshot, []byte) *tls.Conn { return nil },
	})
	if len(seen.list) != 0 {
		t.Errorf("%+v", seen.list[0])
	}
}
