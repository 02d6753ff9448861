package certtest

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Responder answers for a CA, as an http.Handler and as a transport that never
// leaves memory. Its fields may be changed between requests with Set.
type Responder struct {
	CA *CA

	mu    sync.Mutex
	how   Answers
	asked int
}

// Answers says how a Responder answers. The zero one is right, for an hour from now.
type Answers struct {
	Err       error                // of the transport
	Status    int                  // of HTTP, 0 for 200
	Body      []byte               // instead of an answer
	From, To  time.Time            // zero for now and an hour later
	NoEnd     bool                 // no nextUpdate
	Signer    *CA                  // who signs, when it is not the CA
	Delegate  *Delegate            // who signs for the CA
	EmbedCA   bool                 // the CA's certificate is sent along
	SayStatus func(status int) int // changes the status of x/crypto/ocsp
	Change    func(der []byte) []byte
}

// Delegate is a responder with a certificate of its own.
type Delegate struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// Delegate makes a certificate that may sign answers when usage says so.
func (ca *CA) Delegate(notAfter time.Time, usage ...x509.ExtKeyUsage) *Delegate {
	key := newKey(ca.t, "")
	return &Delegate{create(ca.t, &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "responder"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usage,
	}, ca.Cert, key, ca.Key), key}
}

// Set changes how the next requests are answered.
func (r *Responder) Set(how Answers) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.how = how
}

// Asked counts the requests so far.
func (r *Responder) Asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// RoundTrip answers a request in memory.
func (r *Responder) RoundTrip(request *http.Request) (*http.Response, error) {
	var query []byte
	if request.Body != nil {
		defer request.Body.Close()
		var err error
		if query, err = io.ReadAll(request.Body); err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
	}
	status, body, err := r.Answer(query)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), Request: request}, nil
}

// ServeHTTP answers a request.
func (r *Responder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	query, _ := io.ReadAll(request.Body)
	status, body, err := r.Answer(query)
	if err != nil {
		status, body = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/ocsp-response")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// Answer answers a request of OCSP.
func (r *Responder) Answer(query []byte) (status int, body []byte, err error) {
	r.mu.Lock()
	how := r.how
	r.asked++
	r.mu.Unlock()
	if how.Err != nil {
		return 0, nil, how.Err
	}
	if how.Status == 0 {
		how.Status = http.StatusOK
	}
	if how.Body != nil || how.Status != http.StatusOK {
		return how.Status, how.Body, nil
	}
	body, err = r.sign(query, how)
	if err != nil {
		return 0, nil, err
	}
	if how.Change != nil {
		body = how.Change(body)
	}
	return how.Status, body, nil
}

func (r *Responder) sign(query []byte, how Answers) ([]byte, error) {
	q, err := ocsp.ParseRequest(query)
	if err != nil {
		return nil, fmt.Errorf("parsing the request: %w", err)
	}
	now := time.Now()
	say := ocsp.Response{Status: ocsp.Good, SerialNumber: q.SerialNumber, ThisUpdate: how.From, NextUpdate: how.To}
	if say.ThisUpdate.IsZero() {
		say.ThisUpdate = now
	}
	if say.NextUpdate.IsZero() {
		say.NextUpdate = say.ThisUpdate.Add(time.Hour)
	}
	if how.NoEnd {
		say.NextUpdate = time.Time{}
	}
	r.CA.mu.Lock()
	for _, e := range r.CA.revoked {
		if e.SerialNumber.Cmp(q.SerialNumber) == 0 {
			say.Status, say.RevokedAt, say.RevocationReason = ocsp.Revoked, e.RevocationTime, e.ReasonCode
		}
	}
	r.CA.mu.Unlock()
	if how.SayStatus != nil {
		say.Status = how.SayStatus(say.Status)
	}
	cert, key := r.CA.Cert, r.CA.Key
	switch {
	case how.Delegate != nil:
		cert, key = how.Delegate.Cert, how.Delegate.Key
		say.Certificate = cert
	case how.Signer != nil:
		cert, key = how.Signer.Cert, how.Signer.Key
	}
	if how.EmbedCA {
		say.Certificate = cert
	}
	der, err := ocsp.CreateResponse(r.CA.Cert, cert, say, key)
	if err != nil {
		return nil, fmt.Errorf("signing the answer: %w", err)
	}
	return der, nil
}
