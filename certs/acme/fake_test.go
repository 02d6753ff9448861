package acme

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs/certtest"
	"github.com/keyway-edge/keyway/certs/issue"
	"github.com/keyway-edge/keyway/secrets"
)

// fakeCA is a small ACME server in memory: it is reached without a network, so that
// days pass in a moment. It validates by asking Challenges.
type fakeCA struct {
	ca         *certtest.CA
	challenges *Challenges
	life       time.Duration

	mu       sync.Mutex
	away     bool                        // no answer at all
	refuse   func(name string) bool      // a name cannot be validated
	limited  time.Duration               // new orders are answered 429 with this Retry-After
	badNonce int                         // every so manieth call
	forget   bool                        // accounts are unknown, once
	window   func(serial string) *window // renewal information
	calls    []time.Time                 // also those without an answer
	orders   []*fakeOrder
}

type fakeOrder struct {
	names  []string
	status string
	tokens []string // by name
	cert   []byte
	at     time.Time
}

const fakeURL = "https://ca.test"

var errAway = errors.New("connection refused")

// RoundTrip answers a call.
func (f *fakeCA) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, time.Now())
	if f.away {
		return nil, errAway
	}
	w := httptest.NewRecorder()
	w.Header().Set("Replay-Nonce", strconv.Itoa(len(f.calls)))
	f.serve(w, r)
	return w.Result(), nil
}

func (f *fakeCA) serve(w *httptest.ResponseRecorder, r *http.Request) {
	var payload map[string]any
	if r.Method == http.MethodPost {
		if f.badNonce > 0 && len(f.calls)%f.badNonce == 0 {
			problem(w, 400, "badNonce")
			return
		}
		payload = read(r)
	}
	kind, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	id, name, _ := strings.Cut(rest, "/")
	n, _ := strconv.Atoi(id)
	switch kind {
	case "dir":
		answer(w, 200, map[string]any{"newNonce": fakeURL + "/nonce", "newAccount": fakeURL + "/account", "newOrder": fakeURL + "/new", "renewalInfo": fakeURL + "/ari"})
	case "nonce":
	case "account":
		w.Header().Set("Location", fakeURL+"/account/1")
		answer(w, 201, map[string]any{"status": "valid"})
	case "new":
		f.order(w, payload)
	case "order":
		f.show(w, 200, n)
	case "authz":
		f.authz(w, n, name)
	case "challenge":
		f.validate(n, name)
		answer(w, 200, map[string]any{"type": HTTP01, "status": "processing"})
	case "finalize":
		f.sign(n, payload)
		f.show(w, 200, n)
	case "cert":
		_, _ = w.Write(issue.Chain(f.orders[n].cert, f.ca.Cert.Raw))
	case "ari":
		_, serial, _ := strings.Cut(rest, ".")
		if f.window == nil || f.window(serial) == nil {
			w.WriteHeader(404)
			return
		}
		answer(w, 200, map[string]any{"suggestedWindow": f.window(serial)})
	default:
		w.WriteHeader(404)
	}
}

func answer(w *httptest.ResponseRecorder, status int, body any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func problem(w *httptest.ResponseRecorder, status int, kind string) {
	answer(w, status, map[string]any{"type": "urn:ietf:params:acme:error:" + kind, "detail": kind, "status": status})
}

// read takes the payload out of a signed call.
func read(r *http.Request) map[string]any {
	var jws struct{ Payload string }
	_ = json.NewDecoder(r.Body).Decode(&jws)
	text, _ := base64.RawURLEncoding.DecodeString(jws.Payload)
	var payload map[string]any
	_ = json.Unmarshal(text, &payload)
	return payload
}

func (f *fakeCA) order(w *httptest.ResponseRecorder, payload map[string]any) {
	if f.limited > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.limited.Seconds())))
		problem(w, 429, "rateLimited")
		return
	}
	if f.forget {
		f.forget = false
		problem(w, 400, "accountDoesNotExist")
		return
	}
	o := &fakeOrder{status: "pending", at: time.Now()}
	for i, x := range payload["identifiers"].([]any) {
		o.names = append(o.names, x.(map[string]any)["value"].(string))
		o.tokens = append(o.tokens, fmt.Sprintf("token-%d-%d", len(f.orders), i))
	}
	f.orders = append(f.orders, o)
	f.show(w, 201, len(f.orders)-1)
}

func (f *fakeCA) show(w *httptest.ResponseRecorder, status, n int) {
	o := f.orders[n]
	w.Header().Set("Location", fmt.Sprintf("%s/order/%d", fakeURL, n))
	body := map[string]any{"status": o.status, "finalize": fmt.Sprintf("%s/finalize/%d", fakeURL, n)}
	var authz []string
	for _, name := range o.names {
		authz = append(authz, fmt.Sprintf("%s/authz/%d/%s", fakeURL, n, name))
	}
	body["authorizations"] = authz
	if o.cert != nil {
		body["certificate"] = fmt.Sprintf("%s/cert/%d", fakeURL, n)
	}
	answer(w, status, body)
}

func (f *fakeCA) token(n int, name string) string {
	for i, x := range f.orders[n].names {
		if x == name {
			return f.orders[n].tokens[i]
		}
	}
	return ""
}

func (f *fakeCA) authz(w *httptest.ResponseRecorder, n int, name string) {
	status := map[string]string{"pending": "pending", "invalid": "invalid"}[f.orders[n].status]
	if status == "" {
		status = "valid"
	}
	answer(w, 200, map[string]any{
		"status": status, "identifier": map[string]string{"type": "dns", "value": name},
		"challenges": []any{map[string]any{"type": HTTP01, "status": "pending", "token": f.token(n, name), "url": fmt.Sprintf("%s/challenge/%d/%s", fakeURL, n, name)}},
	})
}

func (f *fakeCA) validate(n int, name string) {
	o := f.orders[n]
	keyAuth, ok := f.challenges.HTTP(name, f.token(n, name))
	switch {
	case f.refuse != nil && f.refuse(name) || !ok || !strings.HasPrefix(keyAuth, f.token(n, name)+"."):
		o.status = "invalid"
	case o.status == "pending":
		o.status = "ready"
	}
}

func (f *fakeCA) sign(n int, payload map[string]any) {
	der, _ := base64.RawURLEncoding.DecodeString(payload["csr"].(string))
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil || f.orders[n].status != "ready" {
		return
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	tmpl := &x509.Certificate{SerialNumber: serial, DNSNames: csr.DNSNames, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(f.life - time.Hour)}
	f.orders[n].cert, err = x509.CreateCertificate(rand.Reader, tmpl, f.ca.Cert, csr.PublicKey, f.ca.Key)
	if err == nil {
		f.orders[n].status = "valid"
	}
}

// set changes what the authority does.
func (f *fakeCA) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// since counts calls and orders from a time on.
func (f *fakeCA) since(at time.Time) (calls, orders int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if !c.Before(at) {
			calls++
		}
	}
	for _, o := range f.orders {
		if !o.at.Before(at) {
			orders++
		}
	}
	return calls, orders
}

// rig is an issuer at a fake authority.
type rig struct {
	*Source
	t     *testing.T
	ca    *fakeCA
	state *certtest.State
}

func newRig(t *testing.T, ca *fakeCA, state *certtest.State, holder string) *rig {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if state == nil {
		state = certtest.NewState()
	}
	challenges := NewChallenges(state, log)
	if ca == nil {
		ca = &fakeCA{ca: certtest.NewCA(t, "fake"), challenges: challenges, life: 90 * 24 * time.Hour}
	}
	s := New(Config{Name: "test", Directories: []Directory{{URL: fakeURL + "/dir"}}, Challenges: []string{HTTP01}}, Deps{State: state, Challenges: challenges, Log: log, Holder: holder})
	s.authorities[0].http = &http.Client{Transport: ca}
	return &rig{s, t, ca, state}
}

// run runs the issuer, and fetches as the broker does, until the end of the test.
func (r *rig) run(names string) {
	ctx := r.t.Context()
	go func() { _ = r.Run(ctx) }()
	go func() {
		for pause(ctx, 20*time.Minute) == nil {
			_, _ = r.fetch(names)
		}
	}()
	_, _ = r.fetch(names)
}

func (r *rig) fetch(names string) (secrets.Lease, error) {
	return r.Fetch(r.t.Context(), secrets.Request{Resource: "id", Options: map[string]string{"names": names, "key_type": "ecdsa-p256"}})
}

// must answers the pair that there has to be.
func (r *rig) must(names string) secrets.Lease {
	r.t.Helper()
	l, err := r.fetch(names)
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}
