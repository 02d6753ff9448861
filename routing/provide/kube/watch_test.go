package kube

import (
	"slices"
	"testing"

	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
)

// TestAListCountsWhenItWasTaken: between, the state has nothing of it.
func TestAListCountsWhenItWasTaken(t *testing.T) {
	b, s := newInbox(), &source{}
	b.put(map[translate.Ref]translate.Object{{Kind: "Ingress", Name: "i"}: nil}, s)
	if b.have(slices.Values([]*source{s})) {
		t.Error("it counts while nobody has it")
	}
	if len(b.take()) != 1 || !b.have(slices.Values([]*source{s})) {
		t.Error("it does not count although it was taken")
	}
}
