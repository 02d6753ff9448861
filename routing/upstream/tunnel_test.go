package upstream

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/routing/spec"
)

// carrying is document with a service of streams.
func carrying(protocol string, targets ...*spec.Target) *spec.Document {
	d := document(targets...)
	d.Services[0].Protocol = protocol
	d.Upstreams[0].Healthchecks.Passive.Unhealthy = spec.Unhealthy{TCPFailures: 1}
	return d
}

func TestDialTriesOthersAndJudges(t *testing.T) {
	alive, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = alive.Close() }()
	set := build(t, nil, carrying("tcp", at(refusing(t), 100), at(alive.Addr().String(), 100)))
	cl := set.Cluster("s")
	total := 0
	for range 4 {
		tun, err := cl.Dial(t.Context(), Dialing{Network: "tcp", Preface: []byte("hello")})
		if err != nil {
			t.Fatal(err)
		}
		if tun.Address != alive.Addr().String() {
			t.Errorf("connected to %s", tun.Address)
		}
		total += tun.Tries
		c, err := alive.Accept()
		if err != nil {
			t.Fatal(err)
		}
		b := cl.balancer
		if open := open(b, alive.Addr().String()); open != 1 {
			t.Errorf("%d places are taken while it is open", open)
		}
		tun.Close()
		tun.Close()
		if open := open(b, alive.Addr().String()); open != 0 {
			t.Errorf("%d places are taken after it", open)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
			t.Errorf("the target was told %q, %v", got, err)
		}
		_ = c.Close()
	}
	if total != 5 {
		t.Errorf("4 connections took %d tries, want one more: the dead target is asked once", total)
	}
	if h := set.Health(); h[0].State != Unhealthy || h[1].State != Healthy {
		t.Errorf("health %+v", h)
	}
}

// open is how many places of a target are taken.
func open(b *balancer, name string) int64 {
	for _, x := range b.targets {
		if x.name == name {
			return x.vitals.open.Load()
		}
	}
	return -1
}

func TestDialHashesByClient(t *testing.T) {
	d := carrying("udp", at("127.0.0.1:1", 100), at("127.0.0.1:2", 100), at("127.0.0.1:3", 100), at("127.0.0.1:4", 100))
	d.Upstreams[0].Algorithm, d.Upstreams[0].HashOn, d.Upstreams[0].HashFallback, d.Upstreams[0].Slots = "consistent-hashing", "ip", "none", 1000
	cl := build(t, nil, d).Cluster("s")
	reached := map[string]bool{}
	for i := range 20 {
		client := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		first := ""
		for range 5 {
			tun, err := cl.Dial(t.Context(), Dialing{Network: "udp", Client: client})
			if err != nil {
				t.Fatal(err)
			}
			if tun.Close(); first != "" && tun.Address != first {
				t.Errorf("%s was sent to %s and %s", client, first, tun.Address)
			}
			first = tun.Address
		}
		reached[first] = true
	}
	if len(reached) < 3 {
		t.Errorf("20 clients reached %d targets of 4", len(reached))
	}
}

func TestDialRespectsMaxConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	d := carrying("tcp", at(l.Addr().String(), 100))
	limits := spec.DefaultBalancing()
	limits.MaxConnections, limits.MaxPending = 1, 0
	d.Upstreams[0].Balancing = &limits
	cl := build(t, nil, d).Cluster("s")
	first, err := cl.Dial(t.Context(), Dialing{Network: "tcp"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Dial(t.Context(), Dialing{Network: "tcp"}); !errors.Is(err, ErrBusy) {
		t.Errorf("a second connection: %v", err)
	}
	first.Close()
	second, err := cl.Dial(t.Context(), Dialing{Network: "tcp"})
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestDialUDPIsJudgedByAnswers(t *testing.T) {
	set := build(t, nil, carrying("udp", at("127.0.0.1:9", 100)))
	tun, err := set.Cluster("s").Dial(t.Context(), Dialing{Network: "udp", Client: netip.MustParseAddr("192.0.2.1")})
	if err != nil {
		t.Fatal(err)
	}
	tun.Answered()
	if h := set.Health(); h[0].State != Healthy {
		t.Errorf("health %+v", h)
	}
	tun.Failed(errors.New("refused")) // it has died since
	tun.Answered()
	tun.Close()
	if h := set.Health(); h[0].State != Unhealthy || h[0].Open != 0 {
		t.Errorf("health %+v", h)
	}
}

func TestCarries(t *testing.T) {
	for protocol, takes := range map[string]string{
		"tcp": "tcp tls tls_passthrough", "tls": "tcp tls", "tls_passthrough": "tls_passthrough", "udp": "udp", "http": "",
	} {
		cl := build(t, nil, carrying(protocol)).Cluster("s")
		for _, p := range []string{"tcp", "tls", "tls_passthrough", "udp"} {
			if err := cl.Carries(p); (err == nil) != strings.Contains(" "+takes+" ", " "+p+" ") {
				t.Errorf("%s to a service of %s: %v", p, protocol, err)
			}
		}
	}
}
