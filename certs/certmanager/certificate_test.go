package certmanager

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// read is a Certificate shop/web with this status.
func read(t *testing.T, status string) *Certificate {
	t.Helper()
	var o object
	text := `{"metadata": {"name": "web", "namespace": "shop", "uid": "u", "annotations": {"cert-manager.io/issue-temporary-certificate": "true"}},
		"spec": {"secretName": "pair", "issuerRef": {"kind": "ClusterIssuer", "name": "ca", "group": "cert-manager.io"}}, "status": ` + status + `}`
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o.certificate()
}

func TestStates(t *testing.T) {
	const (
		ready   = `{"type": "Ready", "status": "True", "reason": "Ready", "message": "it is"}`
		unready = `{"type": "Ready", "status": "False", "reason": "SecretMismatch", "message": "names differ"}`
		issuing = `{"type": "Issuing", "status": "True", "reason": "DoesNotExist", "message": "no Secret", "lastTransitionTime": "2030-01-01T11:55:00Z"}`
		failed  = `{"type": "Issuing", "status": "False", "reason": "Failed", "message": "the issuer\n  said no"}`
		times   = `, "notAfter": "2030-01-10T00:00:00Z", "renewalTime": "2030-01-06T00:00:00Z"`
	)
	for _, c := range []struct {
		status, now string
		state       State
		why         string
	}{
		{`{"conditions": [` + ready + `]` + times + `}`, "2030-01-01T12:00:00Z", Issued, ""},
		{`{"conditions": [` + ready + `]` + times + `}`, "2030-01-07T23:59:00Z", Issued, ""},
		{`{"conditions": [` + ready + `]` + times + `}`, "2030-01-08T00:01:00Z", Overdue, "it was to be renewed at 2030-01-06T00:00:00Z and ends at 2030-01-10T00:00:00Z"},
		{`{"conditions": [` + ready + `]` + times + `}`, "2030-01-10T00:00:01Z", Expired, "it ended at 2030-01-10T00:00:00Z"},
		{`{"conditions": [` + ready + `, ` + issuing + `]` + times + `}`, "2030-01-01T12:00:00Z", Issuing, "DoesNotExist: no Secret"},
		{`{"conditions": [` + issuing + `]}`, "2030-01-01T12:06:00Z", Failing, "under way since 2030-01-01T11:55:00Z: DoesNotExist: no Secret"},
		{`{"conditions": [` + unready + `]` + times + `}`, "2030-01-01T12:00:00Z", NotReady, "SecretMismatch: names differ"},
		{`{"conditions": [` + ready + `, ` + failed + `], "failedIssuanceAttempts": 2, "lastFailureTime": "2030-01-01T11:00:00Z"` + times + `}`, "2030-01-01T12:00:00Z", Failing, "failed 2 times, last at 2030-01-01T11:00:00Z: Failed: the issuer said no"},
		{`{"conditions": [` + ready + `, ` + issuing + `], "failedIssuanceAttempts": 2, "lastFailureTime": "2030-01-01T11:00:00Z"` + times + `}`, "2030-01-01T12:00:00Z", Failing, "failed 2 times, last at 2030-01-01T11:00:00Z; tried again since 2030-01-01T11:55:00Z: DoesNotExist: no Secret"},
		{`{"conditions": [` + failed + `], "failedIssuanceAttempts": 2, "lastFailureTime": "2030-01-01T11:00:00Z"` + times + `}`, "2030-02-01T12:00:00Z", Expired, "it ended at 2030-01-10T00:00:00Z; failed 2 times"},
		{`{}`, "2030-01-01T12:00:00Z", NotReady, ""},
	} {
		now, err := time.Parse(time.RFC3339, c.now)
		if err != nil {
			t.Fatal(err)
		}
		if state, why := read(t, c.status).State(now); state != c.state || !strings.HasPrefix(why, c.why) || c.why == "" && why != "" {
			t.Errorf("%s at %s: %s %q, want %s %q", c.status, c.now, state, why, c.state, c.why)
		}
	}
}

func TestWhatACertificateSaysOfItself(t *testing.T) {
	c := read(t, `{}`)
	if c.Secret != "pair" || c.Issuer != "ClusterIssuer ca" || !c.Temporary || c.UID != "u" || c.String() != "Certificate shop/web" {
		t.Errorf("%+v", c)
	}
	var o object
	if err := json.Unmarshal([]byte(`{"spec": {"issuerRef": {"name": "x", "kind": "Step", "group": "example.test"}}}`), &o); err != nil {
		t.Fatal(err)
	}
	if c := o.certificate(); c.Issuer != "Step.example.test x" || c.Temporary {
		t.Errorf("%+v", c)
	}
	if o.Spec.IssuerRef.Kind = ""; o.certificate().Issuer != "Issuer.example.test x" {
		t.Error(o.certificate().Issuer)
	}
}
