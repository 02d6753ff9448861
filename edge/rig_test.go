package edge

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/policy"
	"github.com/keyway-edge/keyway/routing"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/routing/upstream"
	"github.com/keyway-edge/keyway/secrets"
)

// kinds are plugins whose faults a test can ask for: "needs" wants the value of a
// secret, "bomb" panics in the phase that its config names, "stop" answers itself.
func kinds() []policy.Kind {
	text := func(name string) []spec.Schema { return []spec.Schema{{Name: name, Type: spec.String, Required: true}} }
	return []policy.Kind{
		{Schema: spec.PluginSchema{Name: "needs", Fields: []spec.Schema{{Name: "value", Type: spec.String, Required: true, Referenceable: true}}}, Compile: func(env *policy.Env, p *spec.Plugin) (policy.Instance, error) {
			v, err := env.Secret(p.Config["value"].(string))
			if err != nil {
				return policy.Instance{}, err
			}
			if string(v.Reveal()) == "wrong" {
				return policy.Instance{}, errors.New("expected another value")
			}
			return policy.Instance{Header: func(c *policy.Context) { c.X.Response.Fields.Set("X-Needs", "met") }}, nil
		}},
		{Schema: spec.PluginSchema{Name: "bomb", Fields: text("phase")}, Compile: func(_ *policy.Env, p *spec.Plugin) (policy.Instance, error) {
			var i policy.Instance
			switch p.Config["phase"] {
			case "access":
				i.Access = func(*policy.Context) *policy.Reply { panic("access goes off") }
			case "header":
				i.Header = func(*policy.Context) { panic("header goes off") }
			case "log":
				i.Log = func(*policy.Context) { panic("log goes off") }
			}
			return i, nil
		}},
		{Schema: spec.PluginSchema{Name: "stop", Fields: text("say")}, Compile: func(_ *policy.Env, p *spec.Plugin) (policy.Instance, error) {
			say := p.Config["say"].(string)
			return policy.Instance{Access: func(*policy.Context) *policy.Reply { return &policy.Reply{Status: 418, Message: say} }}, nil
		}},
	}
}

func load(t testing.TB, text string) *spec.Document {
	t.Helper()
	schemas := spec.Schemas{}
	for _, k := range kinds() {
		schemas[k.Schema.Name] = k.Schema
	}
	doc, problems := spec.Load([]spec.Source{{Name: "test.yaml", Data: []byte("_format_version: \"3.0\"\n" + text)}}, schemas)
	if len(problems) > 0 {
		t.Fatalf("the test's document is wrong:\n%v", problems)
	}
	return doc
}

// silent is a log that nobody reads.
func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newBuilder(t testing.TB, config *Config) *Builder {
	t.Helper()
	pools := upstream.NewPools(upstream.Settings{})
	t.Cleanup(pools.Close)
	return &Builder{Config: config, Kinds: kinds(), Pools: pools, Env: policy.Env{Log: silent(), Shared: func(_ string, f func() any) any { return f() }}}
}

// rig is a handler over one document, and what it was observed to do.
type rig struct {
	t         testing.TB
	config    *Config
	builder   *Builder
	publisher *Publisher
	handler   *Handler

	mu       sync.Mutex // guards finished
	finished []Finished
}

func (r *rig) Finished(f *Finished) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := *f
	kept.Sent = slices.Clone(f.Sent) // the handler uses it again
	r.finished = append(r.finished, kept)
}

func newRig(t testing.TB, config *Config, document string) *rig {
	t.Helper()
	if config.Version == "" {
		config.Version = "0"
	}
	if config.Policy == "" {
		config.Policy = routing.Strict
	}
	r := &rig{t: t, config: config, builder: newBuilder(t, config)}
	r.publisher = NewPublisher(r.builder, nil, nil, nil, nil, silent())
	r.handler = NewHandler(config, r.publisher, r, silent())
	if document != "" {
		r.use(document, nil)
	}
	return r
}

// use puts a document in force.
func (r *rig) use(document string, set *secrets.Set) *Snapshot {
	r.t.Helper()
	s, _ := r.builder.Build(r.publisher.Current(), Inputs{Document: load(r.t, document), Set: set, Now: time.Now()})
	r.publisher.current.Store(s)
	return s
}

// ask makes an exchange as an engine would. lines are "Name: value".
func ask(t testing.TB, method, host, target string, lines ...string) *exchange.Exchange {
	x := &exchange.Exchange{
		Conn: &exchange.Conn{Peer: netip.MustParseAddrPort("192.0.2.7:4711"), Local: netip.MustParseAddrPort("192.0.2.1:8000"), Protocol: "HTTP/1.1"},
		Ctx:  t.Context(), Start: time.Now(),
	}
	path, query, has := strings.Cut(target, "?")
	x.Request = exchange.Request{Method: method, Scheme: "http", Host: host, Target: target, Path: path, Query: query, HasQuery: has, Version: exchange.HTTP11, Body: exchange.NoBody}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		x.Request.Fields.Add(name, value)
	}
	return x
}

// do handles an exchange to its end and answers the body.
func (r *rig) do(x *exchange.Exchange) string {
	r.t.Helper()
	r.handler.Handle(x)
	var body []byte
	var err error
	if x.Response.Body != nil {
		body, err = io.ReadAll(x.Response.Body)
		if c, ok := x.Response.Body.(io.Closer); ok {
			_ = c.Close()
		}
	}
	r.handler.Done(x, err)
	return string(body)
}

// origin is an upstream that remembers the request it got last.
type originServer struct {
	*httptest.Server
	mu    sync.Mutex // guards the group below
	last  *http.Request
	conns map[net.Conn]bool
}

func newOrigin(t testing.TB, answer http.HandlerFunc) *originServer {
	o := &originServer{conns: map[net.Conn]bool{}}
	o.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		o.mu.Lock()
		o.last = q.Clone(context.WithoutCancel(q.Context()))
		o.mu.Unlock()
		if answer != nil {
			answer(w, q)
			return
		}
		_, _ = io.WriteString(w, "from the origin")
	}))
	o.Config.ConnState = func(c net.Conn, state http.ConnState) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.conns[c] = true; state == http.StateClosed || state == http.StateHijacked {
			delete(o.conns, c)
		}
	}
	o.Start()
	t.Cleanup(o.Close)
	return o
}

// open is the number of connections that clients have.
func (o *originServer) open() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.conns)
}

// poll waits for ok, which must come true without much delay.
func poll(t testing.TB, fault string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(fault)
		}
	}
}

func (o *originServer) got() *http.Request {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.last
	o.last = nil
	return q
}

// authority signs certificates; leaf makes a pair for names.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t}
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.pem, _ = a.sign(tmpl)
	block, _ := pem.Decode([]byte(a.pem))
	var err error
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) sign(tmpl *x509.Certificate) (cert, key string) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if tmpl.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		a.t.Fatal(err)
	}
	if tmpl.NotAfter.IsZero() {
		tmpl.NotAfter = time.Now().Add(24 * time.Hour)
	}
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore = time.Now().Add(-time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer, a.key = tmpl, k, k
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &k.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd}))
}

func (a *authority) leaf(names ...string) (cert, key string) {
	return a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
}

// credential is an active one of a reference.
func credential(t testing.TB, ref, value string, version int) *secrets.Credential {
	t.Helper()
	parsed, err := secrets.ParseRef(ref)
	if err != nil {
		t.Fatal(err)
	}
	c := &secrets.Credential{Ref: parsed, Name: ref, Source: "test", Version: version, State: secrets.Missing, Reason: "no such secret"}
	if value != "" {
		c.Value, c.State, c.Reason = secrets.NewValue([]byte(value)), secrets.Active, ""
	}
	return c
}
