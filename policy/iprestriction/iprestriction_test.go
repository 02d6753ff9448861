package iprestriction

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/policy/vectortest"
)

func send(access func(*policy.Context) *policy.Reply, ip string) string {
	c := vectortest.NewContext("GET", "/", "")
	c.ClientIP, _ = netip.ParseAddr(ip)
	if reply := access(c); reply != nil {
		return fmt.Sprintf("%d %s", reply.Status, reply.Message)
	}
	return "passes"
}

func TestKongDefaults(t *testing.T) { vectortest.Defaults(t, Kind()) }

func TestExample(t *testing.T) {
	doc := vectortest.Example(t, Kind())
	ch := vectortest.FirstChain(t, doc, vectortest.Env(doc), Kind())
	for ip, want := range map[string]string{
		"10.1.2.3": "passes", "2001:db8::7": "passes",
		"10.0.0.13": "403 IP address not allowed: 10.0.0.13", "11.0.0.1": "403 IP address not allowed: 11.0.0.1",
	} {
		if got := send(ch.Access, ip); got != want {
			t.Errorf("%s: got %s, want %s", ip, got, want)
		}
	}
}

func TestKongVectors(t *testing.T) {
	vectortest.Replay(t, vectortest.OpenChains(t, Name, Kind()))
}

func TestAccess(t *testing.T) {
	f := func(config, ip, want string) {
		t.Helper()
		i, problems := vectortest.Compile(t, Kind(), &policy.Env{}, config)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		if got := send(i.Access, ip); got != want {
			t.Errorf("%s from %s: got %s, want %s", config, ip, got, want)
		}
	}
	f(`{"deny":["1.2.3.4"]}`, "1.2.3.5", "passes")
	f(`{"deny":["1.2.3.4"]}`, "::ffff:1.2.3.4", "403 IP address not allowed: 1.2.3.4")
	f(`{"deny":["::ffff:1.2.3.0/120"]}`, "1.2.3.9", "403 IP address not allowed: 1.2.3.9")
	f(`{"allow":["1.2.3.4/31"]}`, "1.2.3.5", "passes")
	f(`{"allow":["1.2.3.4/31","9.9.9.9"]}`, "1.2.3.6", "403 IP address not allowed: 1.2.3.6")
	f(`{"allow":["0.0.0.0/0"]}`, "2001::1", "403 IP address not allowed: 2001::1")
	f(`{"allow":["::/0"]}`, "2001::1", "passes")
	f(`{"allow":["fe80::/10"]}`, "fe80::1%eth0", "passes")
	f(`{"allow":["10.0.0.0/8"],"deny":["10.0.0.1"]}`, "10.0.0.1", "403 IP address not allowed: 10.0.0.1")
	f(`{"deny":["1.2.3.4"],"status":451,"message":"no"}`, "1.2.3.4", "451 no")
	f(`{"deny":["1.2.3.4"]}`, "", "403 the address of the client is not known")
}

func TestConfigErrors(t *testing.T) {
	f := func(config, want string) {
		t.Helper()
		if _, problems := vectortest.Compile(t, Kind(), &policy.Env{}, config); !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %s", config, problems, want)
		}
	}
	f(`{}`, "at least one of these fields must be non-empty")
	f(`{"allow":["1.2.3.4","x"]}`, "config.allow.2: invalid ip or cidr range: 'x'")
	f(`{"deny":["1.2.3.4/40"]}`, "config.deny.1: invalid ip or cidr range: '1.2.3.4/40'")
	f(`{"deny":["::ffff:1.2.3.4/200"]}`, "config.deny.1: invalid ip or cidr range")
	f(`{"deny":["1.2.3.4"],"status":100}`, "config.status: expected the status of a response")
}

func BenchmarkLookup10k(b *testing.B) {
	var texts []string
	for i := range 10_000 {
		texts = append(texts, fmt.Sprintf("10.%d.%d.0/24", i/256, i%256))
	}
	s, err := newSet(texts)
	if err != nil {
		b.Fatal(err)
	}
	ip := netip.MustParseAddr("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		if s.has(ip) {
			b.Fatal("192.0.2.1 is not in 10.0.0.0/8")
		}
	}
}
