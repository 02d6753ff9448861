package ocsp_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
	"github.com/keyway-edge/keyway/certs/ocsp"
)

const url = "http://ocsp.test/"

var errRefused = errors.New("connection refused")

// office is a CA, its responder, and a stapler that asks it. Everything runs in
// virtual time.
type office struct {
	t         *testing.T
	ca        *certtest.CA
	responder *certtest.Responder
	stapler   *ocsp.Stapler
}

func newOffice(t *testing.T) *office { return newOfficeWith(t, nil) }

func newOfficeWith(t *testing.T, state certs.SharedState) *office {
	ca := certtest.NewCA(t, "root").Intermediate("middle")
	r := &certtest.Responder{CA: ca}
	o := &office{t, ca, r, ocsp.New(r, state)}
	o.run()
	return o
}

// run starts the stapler.
func (o *office) run() {
	t := o.t
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- o.stapler.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// again is another node, or the same one after a restart.
func (o *office) again(state certs.SharedState) *office {
	next := &office{o.t, o.ca, o.responder, ocsp.New(o.responder, state)}
	next.run()
	return next
}

func (o *office) bundle(l certtest.Leaf) *certs.Bundle {
	o.t.Helper()
	if l.NotBefore.IsZero() {
		l.Names, l.OCSP, l.NotAfter = []string{"a.test"}, url, time.Now().Add(90*24*time.Hour)
	}
	b, refusal := certs.ParseBundle(o.ca.Issue(l))
	if refusal != nil {
		o.t.Fatal(refusal)
	}
	return b
}

func (o *office) revoke(b *certs.Bundle) {
	leaf, _, err := b.Parents()
	if err != nil {
		o.t.Fatal(err)
	}
	o.ca.Revoke(leaf, 1)
}

// pass lets time go by and waits until nothing is under way.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func shown(t *testing.T, b *certs.Bundle) []byte {
	t.Helper()
	c, err := b.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return c.OCSPStaple
}

func TestAStapleIsFetchedShownAndKeptFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		b := o.bundle(certtest.Leaf{})
		o.responder.Set(certtest.Answers{To: time.Now().Add(8 * time.Hour)})
		o.stapler.Want([]*certs.Bundle{b})
		synctest.Wait()
		first := shown(t, b)
		if first == nil || !bytes.Equal(first, o.stapler.Staple(b.Fingerprint)) || o.responder.Asked() != 1 {
			t.Fatalf("a staple of %d bytes after %d requests", len(first), o.responder.Asked())
		}
		st, ok := o.stapler.Status(b.Fingerprint)
		if left := time.Until(st.NextLook); !ok || st.State != "good" || left < 3*time.Hour+30*time.Minute || left > 4*time.Hour+30*time.Minute {
			t.Errorf("%+v", st)
		}
		o.stapler.Want([]*certs.Bundle{b})
		pass(3 * time.Hour)
		if o.responder.Asked() != 1 {
			t.Error("asked before half of the answer's time has passed")
		}
		o.responder.Set(certtest.Answers{To: time.Now().Add(24 * time.Hour)})
		pass(90 * time.Minute)
		if o.responder.Asked() != 2 || bytes.Equal(shown(t, b), first) {
			t.Errorf("%d requests; the staple is not a new one", o.responder.Asked())
		}
		// Another bundle of the same leaf needs no request of its own.
		pair := o.ca.Issue(certtest.Leaf{Names: []string{"b.test"}, OCSP: url})
		var twins []*certs.Bundle
		for range 2 {
			twin, refusal := certs.ParseBundle(pair)
			if refusal != nil {
				t.Fatal(refusal)
			}
			twins = append(twins, twin)
		}
		o.stapler.Want(twins)
		synctest.Wait()
		if o.responder.Asked() != 3 || shown(t, twins[0]) == nil || shown(t, twins[1]) == nil {
			t.Errorf("%d requests for two bundles of one leaf", o.responder.Asked()-2)
		}
		if _, ok := o.stapler.Status(b.Fingerprint); ok || len(o.stapler.All()) != 1 {
			t.Error("what is not wanted any more is remembered")
		}
	})
}

// T-15: no responder is named, nothing happens.
func TestWithoutAResponderThereIsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		now := time.Now()
		plain := o.bundle(certtest.Leaf{Names: []string{"a.test"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)})
		odd := o.bundle(certtest.Leaf{Names: []string{"a.test"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), OCSP: "ldap://ocsp.test/x"})
		alone := o.bundle(certtest.Leaf{Names: []string{"a.test"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), OCSP: url, SelfSigned: true})
		o.stapler.Want([]*certs.Bundle{plain, odd, alone})
		pass(100 * 24 * time.Hour)
		if o.responder.Asked() != 0 || len(o.stapler.All()) != 0 || shown(t, plain) != nil {
			t.Errorf("%d requests, %+v", o.responder.Asked(), o.stapler.All())
		}
	})
}

func TestADeadResponderIsSpared(t *testing.T) {
	for what, how := range map[string]certtest.Answers{
		"network": {Err: errRefused}, "503": {Status: 503}, "garbage": {Body: []byte("<html>")}, "try later": {Body: xocsp.TryLaterErrorResponse},
		"a flood": {Body: make([]byte, 1<<20)}, "empty": {Body: []byte{}},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOffice(t)
				var all []*certs.Bundle
				for range 20 {
					all = append(all, o.bundle(certtest.Leaf{}))
				}
				o.responder.Set(certtest.Answers{To: time.Now().Add(10 * time.Hour)})
				o.stapler.Want(all)
				synctest.Wait()
				good := o.responder.Asked()
				if good != 20 {
					t.Fatalf("%d requests", good)
				}
				o.responder.Set(how)
				pass(9 * time.Hour)
				if shown(t, all[0]) == nil {
					t.Error("the last good staple is gone before its end")
				}
				// From 4.5 h on: 1, 2, 4, ... 60 minutes, less a quarter at most.
				if n := o.responder.Asked() - good; n < 8 || n > 20 {
					t.Errorf("%d requests in 4.5 h to a responder that is dead, for 20 certificates", n)
				}
				if st, _ := o.stapler.Status(all[0].Fingerprint); st.State != "good" {
					t.Errorf("%+v", st)
				}
				pass(time.Hour)
				if shown(t, all[0]) != nil || o.stapler.Staple(all[0].Fingerprint) != nil {
					t.Error("a staple is shown after its end")
				}
				o.responder.Set(certtest.Answers{})
				pass(time.Hour)
				for _, b := range all {
					if shown(t, b) == nil {
						t.Fatal("the responder is back, and a certificate has no staple")
					}
				}
			})
		})
	}
}

func TestWhatIsNoWordOfTheIssuerIsNotTaken(t *testing.T) {
	other := certtest.NewCA(t, "other")
	f := func(what string, good bool, how func(o *office) certtest.Answers) {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOffice(t)
				b := o.bundle(certtest.Leaf{})
				o.responder.Set(how(o))
				o.stapler.Want([]*certs.Bundle{b})
				synctest.Wait()
				st, _ := o.stapler.Status(b.Fingerprint)
				if (shown(t, b) != nil) != good || good != (st.Error == "") {
					t.Errorf("staple %v, want %v: %+v", shown(t, b) != nil, good, st)
				}
				if !good && o.responder.Asked() != 1 {
					t.Errorf("asked %d times at once", o.responder.Asked())
				}
			})
		})
	}
	f("the issuer's", true, func(*office) certtest.Answers { return certtest.Answers{} })
	f("the issuer's, who sends itself along", true, func(*office) certtest.Answers { return certtest.Answers{EmbedCA: true} })
	f("without an end", true, func(*office) certtest.Answers { return certtest.Answers{NoEnd: true} })
	f("a delegate's", true, func(o *office) certtest.Answers {
		return certtest.Answers{Delegate: o.ca.Delegate(time.Now().Add(time.Hour), x509.ExtKeyUsageOCSPSigning)}
	})
	f("a leaf's of the issuer", false, func(o *office) certtest.Answers {
		return certtest.Answers{Delegate: o.ca.Delegate(time.Now().Add(time.Hour), x509.ExtKeyUsageServerAuth)}
	})
	f("a delegate's that has ended", false, func(o *office) certtest.Answers {
		return certtest.Answers{Delegate: o.ca.Delegate(time.Now().Add(-time.Minute), x509.ExtKeyUsageOCSPSigning)}
	})
	f("another CA's delegate", false, func(*office) certtest.Answers {
		return certtest.Answers{Delegate: other.Delegate(time.Now().Add(time.Hour), x509.ExtKeyUsageOCSPSigning)}
	})
	f("another CA's", false, func(*office) certtest.Answers { return certtest.Answers{Signer: other} })
	f("another CA's, who sends itself along", false, func(*office) certtest.Answers { return certtest.Answers{Signer: other, EmbedCA: true} })
	f("of yesterday", false, func(*office) certtest.Answers {
		return certtest.Answers{From: time.Now().Add(-2 * time.Hour), To: time.Now().Add(-time.Hour)}
	})
	f("of tomorrow", false, func(*office) certtest.Answers {
		return certtest.Answers{From: time.Now().Add(time.Hour), To: time.Now().Add(2 * time.Hour)}
	})
	f("a flipped bit", false, func(*office) certtest.Answers {
		return certtest.Answers{Change: func(der []byte) []byte { der[len(der)-5] ^= 1; return der }}
	})
	f("unauthorized", false, func(*office) certtest.Answers { return certtest.Answers{Body: xocsp.UnauthorizedErrorResponse} })
}

func TestARevokedCertificateIsReportedAndHasNoStaple(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		b := o.bundle(certtest.Leaf{})
		o.stapler.Want([]*certs.Bundle{b})
		synctest.Wait()
		select {
		case <-o.stapler.Changed():
			t.Error("a good word is no news")
		default:
		}
		o.revoke(b)
		pass(time.Hour)
		select {
		case <-o.stapler.Changed():
		default:
			t.Error("nobody is told of the revocation")
		}
		r, ok := o.stapler.Ruling(b.Fingerprint)
		if !ok || r.Check != certs.CheckRevoked || r.Stop || !strings.Contains(r.Reason, "key compromise") || shown(t, b) != nil {
			t.Errorf("%+v %v", r, ok)
		}
		// It stays revoked while the responder is away, for longer than its word lasts.
		o.responder.Set(certtest.Answers{Err: errRefused})
		pass(50 * 24 * time.Hour)
		if _, ok := o.stapler.Ruling(b.Fingerprint); !ok {
			t.Error("a revocation is forgotten")
		}
		// A responder that knows nothing any more takes nothing back; one that says so does.
		o.responder.Set(certtest.Answers{SayStatus: func(int) int { return xocsp.Unknown }})
		pass(3 * time.Hour)
		if _, ok := o.stapler.Ruling(b.Fingerprint); !ok {
			t.Error("a revocation is forgotten for an answer that says nothing")
		}
		o.responder.Set(certtest.Answers{SayStatus: func(int) int { return xocsp.Good }})
		pass(3 * time.Hour)
		if _, ok := o.stapler.Ruling(b.Fingerprint); ok || shown(t, b) == nil {
			t.Error("a certificate hold that was lifted still holds")
		}
	})
}

func TestAnUnknownCertificateHasNoStapleAndNoRuling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		b := o.bundle(certtest.Leaf{})
		o.responder.Set(certtest.Answers{SayStatus: func(int) int { return xocsp.Unknown }})
		o.stapler.Want([]*certs.Bundle{b})
		pass(24 * time.Hour)
		st, _ := o.stapler.Status(b.Fingerprint)
		if _, ok := o.stapler.Ruling(b.Fingerprint); ok || st.State != "unknown" || shown(t, b) != nil {
			t.Errorf("%+v", st)
		}
		if n := o.responder.Asked(); n > 60 {
			t.Errorf("asked %d times in a day", n)
		}
	})
}

func TestACacheThatLagsBehindChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		b := o.bundle(certtest.Leaf{})
		began := time.Now()
		o.revoke(b)
		o.stapler.Want([]*certs.Bundle{b})
		synctest.Wait()
		o.responder.Set(certtest.Answers{From: began.Add(-time.Hour), To: began.Add(48 * time.Hour), SayStatus: func(int) int { return xocsp.Good }})
		pass(3 * time.Hour)
		if _, ok := o.stapler.Ruling(b.Fingerprint); !ok {
			t.Error("an older answer took a newer one's place")
		}
	})
}

func TestAnswersOutliveTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := certtest.NewState()
		o := newOfficeWith(t, state)
		pair := o.ca.Issue(certtest.Leaf{Names: []string{"a.test"}, OCSP: url, NotAfter: time.Now().Add(90 * 24 * time.Hour)})
		bundle := func() *certs.Bundle {
			b, refusal := certs.ParseBundle(pair)
			if refusal != nil {
				t.Fatal(refusal)
			}
			return b
		}
		o.responder.Set(certtest.Answers{To: time.Now().Add(10 * time.Hour)})
		o.stapler.Want([]*certs.Bundle{bundle()})
		pass(time.Second)
		node := o.again(state)
		b := bundle()
		node.stapler.Want([]*certs.Bundle{b})
		pass(time.Second)
		if shown(t, b) == nil || o.responder.Asked() != 1 {
			t.Errorf("another node asks anew: %d requests", o.responder.Asked())
		}
		o.stapler.Want(nil)
		node.stapler.Want(nil)
		// Past its half and with the responder away it is still shown, to its end.
		o.responder.Set(certtest.Answers{Err: errRefused})
		pass(8 * time.Hour)
		node, b = o.again(state), bundle()
		node.stapler.Want([]*certs.Bundle{b})
		pass(time.Second)
		if shown(t, b) == nil {
			t.Error("a node that starts while the responder is away shows nothing")
		}
		pass(2 * time.Hour)
		if shown(t, b) != nil {
			t.Error("what was kept is shown after its end")
		}
		// What is kept is not believed, and a state that is away is no hindrance.
		o.responder.Set(certtest.Answers{})
		key := state.Keys()[0]
		_, version, err := state.Load(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := state.Swap(t.Context(), key, version, []byte("null")); err != nil {
			t.Fatal(err)
		}
		node, b = o.again(state), bundle()
		node.stapler.Want([]*certs.Bundle{b})
		pass(time.Second)
		if shown(t, b) == nil {
			t.Error("garbage in the state is in the way")
		}
		state.Fail(errRefused)
		node, b = o.again(state), bundle()
		node.stapler.Want([]*certs.Bundle{b})
		pass(time.Second)
		if shown(t, b) == nil {
			t.Error("a state that is away is in the way")
		}
		// What has ended goes when its group is written.
		state.Fail(nil)
		pass(80 * 24 * time.Hour)
		if value, _, err := state.Load(t.Context(), key); err != nil || len(value) > 4096 {
			t.Errorf("%d bytes are kept for one certificate, %v", len(value), err)
		}
	})
}

func TestRunEndsWithARequestUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := certtest.NewCA(t, "root")
		b, refusal := certs.ParseBundle(ca.Issue(certtest.Leaf{Names: []string{"a.test"}, OCSP: url, NotAfter: time.Now().Add(time.Hour)}))
		if refusal != nil {
			t.Fatal(refusal)
		}
		s := ocsp.New(hole{}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		s.Want([]*certs.Bundle{b})
		synctest.Wait()
		pass(5 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		began := time.Now()
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		go func() { done <- s.Run(ctx) }()
		pass(20 * time.Minute)
		if st, _ := s.Status(b.Fingerprint); st.Failures < 2 {
			t.Errorf("a black hole is waited for: %+v after %v", st, time.Since(began))
		}
		cancel()
		<-done
	})
}

// hole swallows requests.
type hole struct{}

func (hole) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func FuzzAnswers(f *testing.F) {
	ca := certtest.NewCA(f, "root")
	pair := ca.Issue(certtest.Leaf{Names: []string{"a.test"}, OCSP: url})
	b, refusal := certs.ParseBundle(pair)
	if refusal != nil {
		f.Fatal(refusal)
	}
	leaf, issuer, err := b.Parents()
	if err != nil {
		f.Fatal(err)
	}
	query, err := xocsp.CreateRequest(leaf, issuer, nil)
	if err != nil {
		f.Fatal(err)
	}
	r := &certtest.Responder{CA: ca}
	for _, how := range []certtest.Answers{{}, {EmbedCA: true}, {Delegate: ca.Delegate(time.Now().Add(time.Hour), x509.ExtKeyUsageOCSPSigning)}} {
		r.Set(how)
		_, der, err := r.Answer(query)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der, uint16(20), byte(1))
	}
	f.Fuzz(func(t *testing.T, der []byte, at uint16, flip byte) {
		genuine := bytes.Clone(der)
		if len(der) > 0 {
			der[int(at)%len(der)] ^= flip
		}
		status, ok := ocsp.Read(der, leaf, issuer, time.Now())
		if ok && status != "good" {
			t.Fatalf("a signature of the issuer was found on %q", status)
		}
		if ok && bytes.Equal(genuine, der) != (flip == 0 || len(der) == 0) {
			t.Log("the changed part is not signed: the certificate that is sent along, or the form of a length")
		}
	})
}

// BenchmarkWant is what each snapshot costs with ten thousand certificates that name
// a responder.
func BenchmarkWant(b *testing.B) {
	ca := certtest.NewCA(b, "root")
	all := make([]*certs.Bundle, 10_000)
	for i := range all {
		bundle, refusal := certs.ParseBundle(ca.Issue(certtest.Leaf{Names: []string{"a.test"}, OCSP: url}))
		if refusal != nil {
			b.Fatal(refusal)
		}
		all[i] = bundle
	}
	s := ocsp.New(hole{}, nil)
	for b.Loop() {
		s.Want(all)
	}
}
