package edge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
	"github.com/keyway-edge/keyway/edge/rulings"
	"github.com/keyway-edge/keyway/routing/spec"
	"github.com/keyway-edge/keyway/secrets"
)

// scene is a running publisher over one certificate by reference.
type scene struct {
	t      *testing.T
	ca     *authority
	dir    string
	doc    *spec.Document
	id     string
	p      *Publisher
	store  *rulings.Store
	issuer *office
	stop   func()

	docHint, setHint chan struct{}

	mu      sync.Mutex // guards the group below
	set     *secrets.Set
	built   []*Report
	revoked []string
}

// office is a Revocation that a test speaks for.
type office struct {
	hint chan struct{}

	mu     sync.Mutex // guards the group below
	said   map[string]bool
	wanted []*certs.Bundle
}

func (i *office) Want(b []*certs.Bundle)   { i.mu.Lock(); i.wanted = b; i.mu.Unlock() }
func (i *office) Staple(string) []byte     { return nil }
func (i *office) Changed() <-chan struct{} { return i.hint }
func (i *office) Ruling(f string) (certs.Ruling, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	known := slices.ContainsFunc(i.wanted, func(b *certs.Bundle) bool { return b.Fingerprint == f }) // as a stapler
	return certs.Ruling{Check: certs.CheckRevoked, Reason: "the issuer says so"}, i.said[f] && known
}

func (i *office) revoke(f string) {
	i.mu.Lock()
	i.said[f] = true
	i.mu.Unlock()
	i.hint <- struct{}{}
}

// documents is the scene as a source of documents.
type documents struct{ *scene }

func (d documents) Current() (*spec.Document, spec.Problems) { return d.doc, nil }
func (d documents) Changed() <-chan struct{}                 { return d.docHint }

func (s *scene) Resolve(context.Context, secrets.Plan) *secrets.Set { return s.Current() }
func (s *scene) Want(secrets.Plan)                                  {}
func (s *scene) Current() *secrets.Set                              { s.mu.Lock(); defer s.mu.Unlock(); return s.set }
func (s *scene) Changed() <-chan struct{}                           { return s.setHint }
func (s *scene) Built(_ *Snapshot, r *Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.built = append(s.built, r)
}

func newScene(t *testing.T) *scene {
	s := &scene{t: t, ca: newAuthority(t), dir: t.TempDir(), docHint: make(chan struct{}, 1), setHint: make(chan struct{}, 1)}
	s.id = "4f5a5c8e-0000-4000-8000-000000000001"
	s.doc = load(t, "certificates: [{id: "+s.id+", cert: \"{vault://env/p/c}\", key: \"{vault://env/p/k}\", snis: [one.test, two.test]}]")
	return s
}

// offer makes the source have a pair, or nothing. It hints if the publisher runs.
func (s *scene) offer(n int, cert, key string) {
	s.mu.Lock()
	s.set = secrets.NewSet(uint64(n), credential(s.t, "{vault://env/p/c}", cert, n), credential(s.t, "{vault://env/p/k}", key, n))
	s.mu.Unlock()
	if s.p != nil {
		s.setHint <- struct{}{}
	}
}

// start begins a life of the node, with the data folder of the one before.
func (s *scene) start() {
	s.t.Helper()
	var err error
	if s.store, err = rulings.Open(s.dir, time.Now()); err != nil {
		s.t.Fatal(err)
	}
	b := newBuilder(s.t, &Config{})
	b.Trial = secrets.TrialRule{Failures: 3}
	s.issuer = &office{hint: make(chan struct{}, 1), said: map[string]bool{}}
	p := NewPublisher(b, documents{s}, s, s, func(*spec.Document) secrets.Plan { return secrets.Plan{} }, silent())
	p.Certify(s.store, s.issuer, func(_ context.Context, r Revoked) {
		s.mu.Lock()
		s.revoked = append(s.revoked, r.Fingerprints...)
		s.mu.Unlock()
	})
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	<-p.Ready()
	s.p = p
	s.stop = func() { end(); <-done; s.p = nil }
	s.t.Cleanup(func() {
		if s.p == p {
			s.stop()
		}
	})
}

// serves waits for a version to serve, 0 for none.
func (s *scene) serves(version int) *certs.Slot {
	s.t.Helper()
	var slot *certs.Slot
	poll(s.t, "the version expected does not serve", func() bool {
		slot = s.p.Current().Slot(s.id)
		if slot == nil || len(slot.Active) == 0 {
			return version == 0
		}
		return slot.Version == version
	})
	return slot
}

// last is the rotation that was reported last.
func (s *scene) last() Rotation {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range slices.Backward(s.built) {
		for _, x := range slices.Backward(r.Rotations) {
			if x.Kind == "certificate" {
				return x
			}
		}
	}
	return Rotation{}
}

func (s *scene) gone() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.revoked)
}

// twoVersions is a node on which version 2 took the place of version 1.
func twoVersions(t *testing.T) (s *scene, cert2, key2 string) {
	s = newScene(t)
	s.offerNew(1)
	s.start()
	s.serves(1)
	cert2, key2 = s.ca.leaf("one.test", "two.test")
	s.offer(2, cert2, key2)
	s.serves(2)
	return s, cert2, key2
}

// offerNew makes the source have another pair.
func (s *scene) offerNew(n int) {
	cert, key := s.ca.leaf("one.test", "two.test")
	s.offer(n, cert, key)
}

func TestRevokeSwapsThenServesNothing(t *testing.T) {
	s, cert2, key2 := twoVersions(t)
	bad := s.serves(2).Fingerprint()
	g, err := s.p.RevokeCertificate(t.Context(), Wish{Certificate: "two.test", Reason: "the key was seen", Actor: "user root"})
	if err != nil || g.Old != 2 || g.New != 1 || g.OldFingerprint != bad || g.Certificate != s.id || g.Warning != "" || len(g.Unserved) != 0 {
		t.Fatalf("granted %+v, %v", g, err)
	}
	if s.p.Current().Slot(s.id).Version != 1 || s.p.Current().Generation != g.Generation {
		t.Fatal("not in force when the call returns")
	}
	if x := s.last(); x.Result != "revoked" || x.Actor != "user root" || x.Old != 2 || x.New != 1 || !strings.Contains(x.Reason, "the key was seen") {
		t.Errorf("reported %+v", x)
	}
	if got := s.gone(); !slices.Equal(got, []string{bad}) {
		t.Errorf("connections of %v have to go", got)
	}
	s.offer(3, cert2, key2) // the source still has it
	time.Sleep(20 * time.Millisecond)
	s.serves(1)

	g, err = s.p.RevokeCertificate(t.Context(), Wish{Certificate: s.id, Actor: "user root"})
	if err != nil || g.New != 0 || !slices.Equal(g.Unserved, []string{"one.test", "two.test"}) {
		t.Fatalf("granted %+v, %v", g, err)
	}
	if c, _, err := s.serves(0).Certificate(nil); c != nil || err != nil {
		t.Error("names without a good version must have no certificate")
	}
	if _, err := s.p.RollbackCertificate(t.Context(), Wish{Certificate: s.id, Version: 2, Actor: "user root"}); err == nil {
		t.Error("a rollback brought back what was revoked")
	}

	s.stop() // the source still offers what was revoked
	s.start()
	s.serves(0)
	s.offerNew(4)
	poll(t, "a new pair is taken", func() bool { return len(s.p.Current().Slot(s.id).Active) > 0 })
	if got := len(s.gone()); got != 2 {
		t.Errorf("told of %d, the restart told again", got)
	}
}

func TestRevokeWhatServedBefore(t *testing.T) {
	s, _, _ := twoVersions(t)
	old := s.p.Current().Slot(s.id).History(time.Now())[1].Fingerprint
	g, err := s.p.RevokeCertificate(t.Context(), Wish{Certificate: "one.test", Version: 1, Actor: "user root"})
	if err != nil || !slices.Equal(g.Revoked, []string{old}) || g.New != 2 {
		t.Fatalf("granted %+v, %v", g, err)
	}
	if x := s.last(); x.Result != "revoked" || x.Old != 1 || x.New != 2 {
		t.Errorf("reported %+v", x)
	}
	if got := s.gone(); !slices.Equal(got, []string{old}) {
		t.Errorf("connections of %v have to go", got)
	}
	if _, err := s.p.RollbackCertificate(t.Context(), Wish{Certificate: "one.test", Version: 1}); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("error %v", err)
	}
	for _, w := range []Wish{{Certificate: "one.test", Version: 9}, {Certificate: "nobody"}} {
		if _, err := s.p.RevokeCertificate(t.Context(), w); err == nil {
			t.Errorf("%+v: no error", w)
		}
	}
}

// TestRevokeTakesBothPairs revokes an earlier version of an ECDSA and an RSA pair: each
// of them may be offered again, and has connections.
func TestRevokeTakesBothPairs(t *testing.T) {
	s := newScene(t)
	s.doc = load(t, "certificates: [{id: "+s.id+", cert: \"{vault://env/p/c}\", key: \"{vault://env/p/k}\", cert_alt: \"{vault://env/p/ca}\", key_alt: \"{vault://env/p/ka}\", snis: [one.test]}]")
	ca := certtest.NewCA(t, "both")
	offer := func(n int) {
		a, b := ca.Issue(certtest.Leaf{Names: []string{"one.test"}}), ca.Issue(certtest.Leaf{Names: []string{"one.test"}, KeyType: "rsa-2048"})
		one := func(name string, v secrets.Value) *secrets.Credential {
			return credential(t, "{vault://env/p/"+name+"}", string(v.Reveal()), n)
		}
		s.mu.Lock()
		s.set = secrets.NewSet(uint64(n), one("c", a.Cert), one("k", a.Key), one("ca", b.Cert), one("ka", b.Key))
		s.mu.Unlock()
		if s.p != nil {
			s.setHint <- struct{}{}
		}
	}
	offer(1)
	s.start()
	var both []string
	for _, b := range s.serves(1).Active {
		both = append(both, b.Fingerprint)
	}
	offer(2)
	s.serves(2)
	g, err := s.p.RevokeCertificate(t.Context(), Wish{Certificate: "one.test", Version: 1, Actor: "user root"})
	if err != nil || len(both) != 2 || !slices.Equal(g.Revoked, both) {
		t.Errorf("granted %+v, %v; expected both of %v", g, err, both)
	}
}

func TestRevokeWithTheSourceAway(t *testing.T) {
	s, _, _ := twoVersions(t)
	s.offer(3, "", "")
	time.Sleep(20 * time.Millisecond)
	s.serves(2)
	g, err := s.p.RevokeCertificate(t.Context(), Wish{Certificate: "one.test", Actor: "user root"})
	if err != nil || g.New != 1 {
		t.Fatalf("granted %+v, %v", g, err)
	}
}

func TestRollbackHoldsOverRestarts(t *testing.T) {
	s, cert2, key2 := twoVersions(t)
	bad := s.serves(2).Fingerprint()
	if _, err := s.p.RollbackCertificate(t.Context(), Wish{Certificate: "one.test", Version: 7}); err == nil {
		t.Error("a version that never was")
	}
	g, err := s.p.RollbackCertificate(t.Context(), Wish{Certificate: "one.test", Reason: "clients complain", Actor: "user root"})
	if err != nil || g.Old != 2 || g.New != 1 {
		t.Fatalf("granted %+v, %v", g, err)
	}
	if x := s.last(); x.Result != "rolled_back" || x.Actor != "user root" || x.Old != 2 || x.New != 1 || !strings.Contains(x.Reason, "clients complain") {
		t.Errorf("reported %+v", x)
	}
	if len(s.gone()) != 0 {
		t.Error("a rollback closes no connections")
	}
	list := s.store.List()
	if len(list) != 1 || list[0].Fingerprint != bad || list[0].Actor != "user root" || list[0].NotAfter.IsZero() {
		t.Fatalf("kept %+v", list)
	}

	s.stop()
	s.offerNew(1)
	s.start()
	s.serves(1)
	s.offer(2, cert2, key2)
	poll(t, "what was rolled back is refused", func() bool {
		r := s.p.Current().Slot(s.id).Refused
		return r != nil && r.Check == certs.CheckRolledBack
	})
	s.offerNew(3)
	s.serves(2)
	poll(t, "another version ends the hold", func() bool { return len(s.store.List()) == 0 })
}

func TestRollbackNamesWhatIsHeld(t *testing.T) {
	s, _, _ := twoVersions(t)
	for _, version := range []int{1, 2, 1} {
		g, err := s.p.RollbackCertificate(t.Context(), Wish{Certificate: "one.test", Version: version, Actor: "user root"})
		if err != nil || g.New != version {
			t.Fatalf("granted %+v, %v", g, err)
		}
		s.serves(version)
		if list := s.store.List(); len(list) != 1 || list[0].Fingerprint == g.NewFingerprint {
			t.Errorf("kept %+v", list)
		}
	}
}

func TestTheIssuersWordIsHeeded(t *testing.T) {
	s, cert2, key2 := twoVersions(t)
	bad := s.serves(2).Fingerprint()
	s.issuer.revoke(bad)
	s.serves(1)
	poll(t, "its connections have to go", func() bool { return slices.Equal(s.gone(), []string{bad}) })
	poll(t, "it is reported", func() bool { return s.last().Result == "revoked" })
	s.offer(3, cert2, key2) // and the source still offers it
	time.Sleep(20 * time.Millisecond)
	s.serves(1)
	if x := s.last(); x.Result != "revoked" || x.Actor != "" || !strings.Contains(x.Reason, "issuer") {
		t.Errorf("reported %+v", x)
	}
	// Nothing else is left: the issuer's word alone takes no name down.
	s.issuer.revoke(s.serves(1).Fingerprint())
	poll(t, "it is told", func() bool { return len(s.gone()) == 2 })
	s.serves(1)
	s.issuer.mu.Lock()
	defer s.issuer.mu.Unlock()
	if len(s.issuer.wanted) == 0 {
		t.Error("the issuers are not asked")
	}
}

func TestAVersionThatClientsRefuseIsLeft(t *testing.T) {
	s, cert2, key2 := twoVersions(t)
	facts := &tlsFacts{slot: s.serves(2)}
	facts.bundle = facts.slot.Active[0]
	client := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, n}) }
	refusal := error(&net.OpError{Op: "remote error", Err: errors.New("tls: unknown certificate authority")})
	for range 5 { // nobody's fault, or not the certificate's
		facts.tried(client(1), nil, io.EOF)
		facts.tried(client(1), nil, &net.OpError{Op: "remote error", Err: errors.New("tls: protocol version not supported")})
	}
	facts.tried(client(1), &tls.ConnectionState{}, nil)
	for range 20 { // one stranger alone, and another
		facts.tried(client(1), nil, refusal)
		facts.tried(client(2), nil, refusal)
	}
	time.Sleep(20 * time.Millisecond)
	s.serves(2)
	facts.tried(client(3), nil, refusal)
	s.serves(1)
	poll(t, "it is reported", func() bool { return s.last().Result == "rolled_back" })
	if x := s.last(); !strings.Contains(x.Reason, "handshakes failed") {
		t.Errorf("reported %+v", x)
	}
	poll(t, "it is kept", func() bool { return len(s.store.List()) == 1 })
	s.offer(3, cert2, key2)
	time.Sleep(20 * time.Millisecond)
	s.serves(1)
}

func TestServerLeavesRevokedCertificates(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("one.test")
	cert2, key2 := ca.leaf("two.test")
	h := serve(t, "certificates: [{cert: "+quoted(cert)+", key: "+quoted(key)+", snis: [one.test]}, {cert: "+quoted(cert2)+", key: "+quoted(key2)+", snis: [two.test]}]", nil)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	sessions := tls.NewLRUClientSessionCache(4)
	connect := func(name string) *tls.Conn {
		c := tls.Client(dial(t, h.secure), &tls.Config{ServerName: name, RootCAs: roots, NextProtos: []string{"http/1.1"}, ClientSessionCache: sessions})
		if got := line(c, "hello"); got != "ok" {
			t.Fatalf("%s: no answer: %v", name, c.Handshake())
		}
		return c
	}
	one, two, resumed := connect("one.test"), connect("two.test"), connect("one.test")
	if !resumed.ConnectionState().DidResume || h.h1.info(2).Policy.(*connInfo).tls.bundle != nil {
		t.Fatal("the session was not resumed; the test shows nothing")
	}
	infos := []bool{}
	bad := h.h1.info(0).Policy.(*connInfo).tls.bundle.Fingerprint
	h.server.Leave(t.Context(), []string{bad})
	for i := range 3 {
		infos = append(infos, h.server.revoked.has(h.h1.info(i).Policy.(*connInfo).tls))
	}
	if !slices.Equal(infos, []bool{true, false, true}) {
		t.Errorf("chosen %v; expected the ones of one.test, resumed ones too", infos)
	}
	poll(t, "the engine was not told", h.h1.draining)
	if line(one, "last") != "ok" || line(resumed, "last") != "ok" {
		t.Error("a request in flight was cut")
	}
	if line(one, "more") != "" {
		t.Error("the connection stays open")
	}
	_ = two.Close()
	late := tls.Client(dial(t, h.secure), &tls.Config{ServerName: "one.test", RootCAs: roots, NextProtos: []string{"http/1.1"}})
	if got := line(late, "hello"); got != "ok" || !h.h1.info(3).Last {
		t.Error("a connection whose handshake ended in that moment must be answered once, and end")
	}
	if err := h.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
}
