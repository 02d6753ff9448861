package main

import (
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certmanager"
)

func TestIssuanceOfWhatServes(t *testing.T) {
	now := time.Now()
	slot := func(temporary bool) *certs.Slot { return &certs.Slot{Active: []*certs.Bundle{{Temporary: temporary}}} }
	ready := certmanager.Condition{True: true}
	underWay := certmanager.Condition{True: true, Reason: "DoesNotExist", Message: "no Secret", Since: now}
	for _, c := range []struct {
		what   string
		slot   *certs.Slot
		of     certmanager.Certificate
		state  string
		bad    bool
		reason string
	}{
		{"issued", slot(false), certmanager.Certificate{Ready: ready}, "issued", false, ""},
		{"a stand-in while it is issued", slot(true), certmanager.Certificate{Issuing: underWay, Issuer: "Issuer x"}, "temporary", false, "a stand-in serves until Issuer x has answered; DoesNotExist: no Secret"},
		{"a stand-in serves on for a moment", slot(true), certmanager.Certificate{Ready: ready, Issuer: "Issuer x"}, "temporary", false, "a stand-in serves until Issuer x has answered"},
		{"a stand-in while the issuer refuses", slot(true), certmanager.Certificate{Issuing: underWay, Attempts: 1}, "failing", true, "failed 1 times"},
		{"nothing serves", nil, certmanager.Certificate{Issuing: underWay}, "issuing", false, "DoesNotExist: no Secret"},
		{"ended", slot(false), certmanager.Certificate{Ready: ready, NotAfter: now.Add(-time.Hour)}, "expired", true, "it ended"},
	} {
		x := owned{of: &c.of}
		x.judge(c.slot, now)
		if x.facts.State != c.state || x.bad != c.bad || !strings.HasPrefix(x.facts.Reason, c.reason) || c.reason == "" && x.facts.Reason != "" {
			t.Errorf("%s: %s %v %q, want %s %v %q", c.what, x.facts.State, x.bad, x.facts.Reason, c.state, c.bad, c.reason)
		}
		if f := &x.facts; f.Temporary != (c.slot != nil && c.slot.Active[0].Temporary) || f.wrong() != (c.bad || c.state == stateTemporary) {
			t.Errorf("%s: temporary %v, wrong %v", c.what, f.Temporary, f.wrong())
		}
	}
}
