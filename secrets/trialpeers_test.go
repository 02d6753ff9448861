package secrets

import (
	"net/netip"
	"testing"
	"time"
)

// TestTrialHearsEachPeerOnce has one stranger with many addresses of one network, and
// then several of them, speak against a version.
func TestTrialHearsEachPeerOnce(t *testing.T) {
	tripped := 0
	trial := NewTrial(time.Now(), TrialRule{Failures: 3}, func() { tripped++ })
	for _, text := range []string{"192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::ffff:1", "2001:db8::1%eth0"} {
		trial.BadFrom(netip.MustParseAddr(text))
	}
	if _, bad := trial.Counts(); bad != 2 || trial.Tripped() {
		t.Errorf("%d failures of two networks, tripped %v", bad, trial.Tripped())
	}
	trial.BadFrom(netip.MustParseAddr("2001:db8:0:1::1"))
	if !trial.Tripped() || tripped != 1 {
		t.Error("three networks are not heard")
	}
	many := NewTrial(time.Now(), TrialRule{Failures: 1 << 30}, nil)
	for i := range 2 * mostPeers {
		many.BadFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if len(many.peers) != mostPeers {
		t.Errorf("%d strangers are remembered", len(many.peers))
	}
	var none *Trial
	none.BadFrom(netip.Addr{})
	trial = NewTrial(time.Now(), TrialRule{Failures: 1}, nil)
	trial.BadFrom(netip.Addr{}) // of a connection without one
	if !trial.Tripped() {
		t.Error("a peer without an address is not heard")
	}
}
