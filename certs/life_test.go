package certs_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/secrets"
)

// authority signs leaves in memory.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	der  []byte
	key  crypto.Signer
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: number(t), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, der, key}
}

func number(t testing.TB) *big.Int {
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// leafOf says what a leaf is to be; zero fields are ECDSA, valid from an hour ago for 30 days.
type leafOf struct {
	key    crypto.Signer
	from   time.Time
	to     time.Time
	alone  bool // self-signed
	client bool
}

func (a *authority) leaf(o leafOf, names ...string) certs.Pair {
	a.t.Helper()
	var err error
	if o.key == nil {
		if o.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			a.t.Fatal(err)
		}
	}
	now := time.Now()
	if o.from.IsZero() {
		o.from = now.Add(-time.Hour)
	}
	if o.to.IsZero() {
		o.to = now.Add(30 * 24 * time.Hour)
	}
	tmpl := &x509.Certificate{
		SerialNumber: number(a.t), Subject: pkix.Name{CommonName: strings.Join(names, " ")}, DNSNames: names, NotBefore: o.from, NotAfter: o.to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if o.alone {
		parent, signer = tmpl, o.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, o.key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if !o.alone {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.der})...)
	}
	kd, err := x509.MarshalPKCS8PrivateKey(o.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return certs.Pair{Cert: secrets.NewValue(text), Key: secrets.NewValue(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kd}))}
}

func offer(source string, names []string, pairs ...certs.Pair) certs.Candidate {
	return certs.Candidate{Name: "slot", Source: source, Names: names, Pairs: pairs}
}

func value(s string) secrets.Value { return secrets.NewValue([]byte(s)) }

func TestEachCheckRefusesAndTheOldVersionServes(t *testing.T) {
	ca, now := newAuthority(t), time.Now()
	names := []string{"a.test", "*.w.test"}
	active, outcome := certs.Advance(nil, offer("one", names, ca.leaf(leafOf{}, names...)), now)
	if outcome != certs.Activated || active.Version != 1 || len(active.Warnings) > 0 {
		t.Fatalf("%s %+v", outcome, active)
	}
	good, other := ca.leaf(leafOf{}, names...), ca.leaf(leafOf{}, names...)
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger := newAuthority(t)
	broken := string(good.Cert.Reveal())
	broken = broken[:strings.Index(broken, "-----END")+len("-----END CERTIFICATE-----\n")] + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: stranger.der}))
	for check, c := range map[certs.Check]certs.Candidate{
		certs.CheckParse:       offer("one", names, certs.Pair{Cert: value("garbage"), Key: good.Key}),
		certs.CheckEncrypted:   offer("one", names, certs.Pair{Cert: good.Cert, Key: value("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")}),
		certs.CheckMismatch:    offer("one", names, certs.Pair{Cert: good.Cert, Key: other.Key}),
		certs.CheckStrength:    offer("one", names, ca.leaf(leafOf{key: weak}, names...)),
		certs.CheckChain:       offer("one", names, certs.Pair{Cert: value(broken), Key: good.Key}),
		certs.CheckExpired:     offer("one", names, ca.leaf(leafOf{from: now.Add(-2 * time.Hour), to: now.Add(-time.Hour)}, names...)),
		certs.CheckNotYetValid: offer("one", names, ca.leaf(leafOf{from: now.Add(time.Hour)}, names...)),
		certs.CheckNames:       offer("one", names, ca.leaf(leafOf{}, "b.test")),
		certs.CheckOlder:       offer("two", names, ca.leaf(leafOf{from: now.Add(-10 * time.Hour), to: now.Add(24 * time.Hour)}, names...)),
		certs.CheckStandIn:     offer("one", names, ca.leaf(leafOf{alone: true}, names...)),
	} {
		next, outcome := certs.Advance(active, c, now)
		if outcome != certs.Refused || next.Refused == nil || next.Refused.Check != check {
			t.Errorf("%s: %s, %+v", check, outcome, next.Refused)
			continue
		}
		if next.Fingerprint() != active.Fingerprint() || next.Version != 1 {
			t.Errorf("%s: the old version does not serve", check)
		}
		if strings.Contains(next.Refused.Error(), "PRIVATE") && check != certs.CheckParse {
			t.Errorf("%s: %s", check, next.Refused)
		}
		again, outcome := certs.Advance(next, c, now.Add(time.Minute))
		if outcome != certs.Unchanged || again != next {
			t.Errorf("%s: the same candidate is judged and told again: %s", check, outcome)
		}
	}
}

func TestTheStoryOfASlot(t *testing.T) {
	ca, now := newAuthority(t), time.Now()
	names := []string{"a.test"}
	first := offer("one", names, ca.leaf(leafOf{from: now.Add(-5 * time.Hour), to: now.Add(20 * time.Hour)}, names...))
	s, _ := certs.Advance(nil, first, now)
	if same, outcome := certs.Advance(s, first, now); same != s || outcome != certs.Unchanged {
		t.Error("the same candidate makes a new slot")
	}
	second := offer("one", names, ca.leaf(leafOf{}, names...))
	s2, outcome := certs.Advance(s, second, now)
	if outcome != certs.Activated || s2.Version != 2 {
		t.Errorf("%s %d", outcome, s2.Version)
	}
	// The very source of the active version goes back: taken, with a warning.
	s3, outcome := certs.Advance(s2, first, now)
	if outcome != certs.Warned || s3.Version != 3 || len(s3.Warnings) != 1 || !strings.HasPrefix(s3.Warnings[0], "older") {
		t.Errorf("%s %+v", outcome, s3)
	}
	// A refusal is forgotten when the source offers what is active.
	bad, _ := certs.Advance(s2, offer("one", names, certs.Pair{Cert: value("x"), Key: value("y")}), now)
	back, _ := certs.Advance(bad, second, now)
	if back.Refused != nil || back.Version != 2 {
		t.Errorf("%+v", back)
	}
	// Time alone makes a refused version good.
	soon := offer("one", names, ca.leaf(leafOf{from: now.Add(time.Hour)}, names...))
	waiting, _ := certs.Advance(s2, soon, now)
	if waiting.Refused == nil {
		t.Fatal("a version from the future is active")
	}
	if s5, outcome := certs.Advance(waiting, soon, now.Add(2*time.Hour)); outcome != certs.Activated || s5.Version != 3 {
		t.Errorf("%s %+v", outcome, s5)
	}
	// With nothing before, an expired pair is better than none, and says so.
	old, outcome := certs.Advance(nil, offer("one", names, ca.leaf(leafOf{from: now.Add(-3 * time.Hour), to: now.Add(-time.Hour)}, names...)), now)
	if outcome != certs.Warned || len(old.Active) != 1 {
		t.Errorf("%s %+v", outcome, old)
	}
	none, outcome := certs.Advance(nil, offer("one", names, certs.Pair{Cert: value("x"), Key: value("y")}), now)
	if outcome != certs.Refused || len(none.Active) != 0 {
		t.Errorf("%s %+v", outcome, none)
	}
}

func TestTheKeyTypeIsTheClients(t *testing.T) {
	ca := newAuthority(t)
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s, outcome := certs.Advance(nil, offer("one", nil, ca.leaf(leafOf{key: rk}, "a.test"), ca.leaf(leafOf{}, "a.test")), time.Now())
	if outcome != certs.Activated || s.Active[0].KeyType != "ECDSA" || s.Active[1].KeyType != "RSA" {
		t.Fatalf("%s %+v", outcome, s.Active)
	}
	for want, suites := range map[string][]tls.SignatureScheme{"RSA": {tls.PSSWithSHA256}, "ECDSA": {tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA256}} {
		_, b, err := s.Certificate(&tls.ClientHelloInfo{
			ServerName: "a.test", SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: suites, SupportedCurves: []tls.CurveID{tls.X25519, tls.CurveP256},
			CipherSuites: []uint16{tls.TLS_AES_128_GCM_SHA256},
		})
		if err != nil || b.KeyType != want {
			t.Errorf("%v: %v %v", suites, b, err)
		}
	}
	if _, outcome := certs.Advance(nil, offer("one", nil, ca.leaf(leafOf{}, "a.test"), ca.leaf(leafOf{}, "a.test")), time.Now()); outcome != certs.Refused {
		t.Error("two pairs of one type are taken")
	}
	_, ek, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if s, outcome := certs.Advance(nil, offer("one", nil, ca.leaf(leafOf{key: ek}, "a.test")), time.Now()); outcome != certs.Warned || len(s.Warnings) != 1 {
		t.Error("Ed25519 alone is worth a warning")
	}
	if c, b, err := (*certs.Slot)(nil).Certificate(nil); c != nil || b != nil || err != nil {
		t.Error("no slot must answer nil and no error: that is unrecognized_name")
	}
}

func TestNamesFindWhatIsBoundToThem(t *testing.T) {
	slots := map[string]*certs.Slot{}
	var bindings []certs.Binding
	for _, n := range []string{"a.test", "*.a.test", "x.a.test", "pre.*", "*.deep.a.test"} {
		slots[n] = &certs.Slot{Name: n}
		bindings = append(bindings, certs.Binding{Name: n, Slot: slots[n]})
	}
	def := &certs.Slot{Name: "default"}
	x := certs.NewIndex(nil, bindings, def)
	for name, want := range map[string]string{
		"a.test": "a.test", "A.TEST": "a.test", "a.test.": "a.test", "x.a.test": "x.a.test", "y.a.test": "*.a.test", "z.y.a.test": "default",
		"y.deep.a.test": "*.deep.a.test", "pre.com": "pre.*", "pre.a.b": "default", "": "default", ".a.test": "default", "*.a.test": "default",
		"other": "default", "a.test\x00.evil": "default",
	} {
		if m := x.Find(name); m.Slot.Name != want {
			t.Errorf("%q finds %s, want %s", name, m.Slot.Name, want)
		}
	}
	star := certs.NewIndex(x, append(bindings, certs.Binding{Name: "*", Slot: &certs.Slot{Name: "star"}}), def)
	if m := star.Find("other"); m.Slot.Name != "star" || m.Pattern != "*" {
		t.Errorf("%+v", m)
	}
	swapped := append([]certs.Binding(nil), bindings...)
	swapped[0].Slot = &certs.Slot{Name: "new"}
	if m := certs.NewIndex(x, swapped, def).Find("a.test"); m.Slot.Name != "new" {
		t.Error("a swap is not seen")
	}
	if n := testing.AllocsPerRun(100, func() { x.Find("y.a.test") }); n > 0 {
		t.Errorf("a look-up allocates %v times", n)
	}
}

// handshakeWith serves one handshake under a policy and answers what the client saw.
func handshakeWith(t *testing.T, p *certs.Policy, base certs.Base, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		s := tls.Server(c, p.Config(base))
		if s.Handshake() == nil {
			_, _ = s.Write([]byte("x"))
		}
		_ = s.Close()
	}()
	c, err := tls.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		<-done
		return tls.ConnectionState{}, err
	}
	defer func() { _ = c.Close(); <-done }()
	if n, err := c.Read(make([]byte, 1)); n == 0 && err != nil { // TLS 1.3 tells of a refused client certificate here
		return tls.ConnectionState{}, err
	}
	return c.ConnectionState(), nil
}

func mustPolicy(t *testing.T, s certs.PolicySpec) *certs.Policy {
	t.Helper()
	p, err := certs.NewPolicy(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestASessionStaysWithItsPolicy(t *testing.T) {
	ca, ca2 := newAuthority(t), newAuthority(t)
	slot, _ := certs.Advance(nil, offer("one", nil, ca.leaf(leafOf{}, "a.test")), time.Now())
	tickets := certs.NewTickets()
	base := certs.Base{NextProtos: []string{"h2", "http/1.1"}, Tickets: tickets, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, _, err := slot.Certificate(h)
		return c, err
	}}
	open := mustPolicy(t, certs.PolicySpec{Name: "open"})
	one := mustPolicy(t, certs.PolicySpec{Name: "one", ClientAuth: "required", Roots: [][]byte{ca.der}})
	two := mustPolicy(t, certs.PolicySpec{Name: "two", ClientAuth: "required", Roots: [][]byte{ca2.der}})
	id := ca.leaf(leafOf{client: true}, "client")
	pair, err := tls.X509KeyPair(id.Cert.Reveal(), id.Key.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client := func(certificates ...tls.Certificate) *tls.Config {
			return &tls.Config{InsecureSkipVerify: true, ServerName: "a.test", MaxVersion: version, Certificates: certificates, ClientSessionCache: tls.NewLRUClientSessionCache(4), NextProtos: []string{"h2"}}
		}
		c := client()
		if st, err := handshakeWith(t, open, base, c); err != nil || st.NegotiatedProtocol != "h2" {
			t.Fatalf("%x: %v", version, err)
		}
		if st, err := handshakeWith(t, open, base, c); err != nil || !st.DidResume {
			t.Errorf("%x: a session is not resumed under its own policy: %v", version, err)
		}
		if _, err := handshakeWith(t, one, base, c); err == nil {
			t.Errorf("%x: a session of an open name opens one that asks for a client certificate", version)
		}
		c = client(pair)
		if _, err := handshakeWith(t, one, base, c); err != nil {
			t.Errorf("%x: a good client certificate is refused: %v", version, err)
		}
		if _, err := handshakeWith(t, two, base, c); err == nil {
			t.Errorf("%x: a client certificate of one CA opens a name that trusts another", version)
		}
		tickets.RotateNow()
		if st, err := handshakeWith(t, one, base, c); err != nil || st.DidResume {
			t.Errorf("%x: a session outlives its key: %v %v", version, st.DidResume, err)
		}
	}
	if _, err := handshakeWith(t, certs.Closed(certs.PolicySpec{ID: "x"}), base, &tls.Config{InsecureSkipVerify: true, ServerName: "a.test", Certificates: []tls.Certificate{pair}}); err == nil {
		t.Error("a closed policy lets somebody in")
	}
	strict := mustPolicy(t, certs.PolicySpec{MinVersion: "1.3"})
	if _, err := handshakeWith(t, strict, base, &tls.Config{InsecureSkipVerify: true, ServerName: "a.test", MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 is spoken under a policy of 1.3")
	}
	if _, err := handshakeWith(t, open, base, &tls.Config{InsecureSkipVerify: true, ServerName: "a.test", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}); err == nil {
		t.Error("a CBC suite is taken")
	}
	if st, err := handshakeWith(t, open, base, &tls.Config{InsecureSkipVerify: true, ServerName: "a.test"}); err != nil || st.CurveID != tls.X25519MLKEM768 {
		t.Errorf("the default group is %v (%v), want X25519MLKEM768", st.CurveID, err)
	}
	for _, bad := range []certs.PolicySpec{{MinVersion: "1.1"}, {ClientAuth: "maybe"}, {Roots: [][]byte{{1}}}} {
		if _, err := certs.NewPolicy(bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestSwapsBesideHandshakes(t *testing.T) {
	ca := newAuthority(t)
	candidates := make([]certs.Candidate, 8)
	for i := range candidates {
		candidates[i] = offer("one", nil, ca.leaf(leafOf{}, "a.test"))
	}
	var mu sync.Mutex
	slot, _ := certs.Advance(nil, candidates[0], time.Now())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				s := slot
				mu.Unlock()
				if c, _, err := s.Certificate(&tls.ClientHelloInfo{ServerName: "a.test"}); c == nil || err != nil {
					t.Error("no certificate")
					return
				}
			}
		})
	}
	for i := range 200 {
		next, _ := certs.Advance(slot, candidates[i%len(candidates)], time.Now())
		mu.Lock()
		slot = next
		mu.Unlock()
	}
	close(stop)
	wg.Wait()
}

// BenchmarkTenThousand reports the memory of an idle certificate, and of one with two
// earlier versions kept, and times the index after a swap of one of ten thousand.
func BenchmarkTenThousand(b *testing.B) {
	ca := newAuthority(b)
	const n = 10_000
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	bindings := make([]certs.Binding, n)
	rotate := func() uint64 {
		for i := range bindings {
			name := fmt.Sprintf("c%d.test", i)
			slot, _ := certs.Advance(bindings[i].Slot, offer("one", []string{name}, ca.leaf(leafOf{}, name)), time.Now())
			bindings[i] = certs.Binding{Name: name, Slot: slot}
		}
		return heap() - before
	}
	one := rotate()
	rotate()
	three := rotate()
	x := certs.NewIndex(nil, bindings, nil)
	for b.Loop() {
		x = certs.NewIndex(x, bindings, nil)
	}
	b.ReportMetric(float64(one)/n, "B/cert")
	b.ReportMetric(float64(three)/n, "B/cert-with-2-kept")
	if x.Len() != n {
		b.Fatal("the index lost names")
	}
}

// BenchmarkHello is what a ClientHello asks of this package: the slot of a name, its
// certificate with a staple, the policy's configuration.
func BenchmarkHello(b *testing.B) {
	ca := newAuthority(b)
	slot, _ := certs.Advance(nil, offer("one", []string{"a.test"}, ca.leaf(leafOf{}, "a.test")), time.Now())
	slot.Active[0].SetStaple([]byte("staple"))
	policy, err := certs.NewPolicy(certs.PolicySpec{})
	if err != nil {
		b.Fatal(err)
	}
	base := certs.Base{Tickets: certs.NewTickets()}
	x := certs.NewIndex(nil, []certs.Binding{{Name: "a.test", Slot: slot, Policy: policy}}, nil)
	hello := func() {
		m := x.Find("A.test")
		if c, _, err := m.Slot.Certificate(nil); err != nil || c.OCSPStaple == nil || m.Policy.Config(base) == nil {
			b.Fatal("no certificate")
		}
	}
	hello()
	if n := testing.AllocsPerRun(100, hello); n > 0 {
		b.Fatalf("a hello allocates %v times", n)
	}
	for b.Loop() {
		hello()
	}
}
