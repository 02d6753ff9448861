package edge

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// TestAClientAuthorityThatIsGoneClosesItsNames is case C-12: an authority that was
// good is deleted, emptied, garbage or another kind of thing; its names take no client
// then, by no session either, and others are served on. Each is told.
func TestAClientAuthorityThatIsGoneClosesItsNames(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.leaf("open.test", "closed.test")
	mine, mineKey := ca.leaf("client.test")
	client, err := tls.X509KeyPair([]byte(mine), []byte(mineKey))
	if err != nil {
		t.Fatal(err)
	}
	document := strings.NewReplacer("%CA", `"{vault://env/ca}"`, "%CERT", quoted(cert), "%KEY", quoted(key)).Replace(partners)
	version := 0
	set := func(value string) *secrets.Set {
		version++
		return secrets.NewSet(uint64(version), credential(t, "{vault://env/ca}", value, version))
	}
	h := serve(t, document, nil)
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	sessions := oneKey{tls.NewLRUClientSessionCache(8)}
	f := func(what string, good bool, shake *tls.Config) {
		t.Helper()
		if _, err := h.shake(shake); (err == nil) != good {
			t.Errorf("%s: %v, want let in %v", what, err, good)
		}
		if _, err := h.shake(&tls.Config{ServerName: "open.test", RootCAs: roots}); err != nil {
			t.Errorf("%s: a name of another policy: %v", what, err)
		}
	}
	with := func(version uint16) *tls.Config {
		return &tls.Config{ServerName: "closed.test", RootCAs: roots, Certificates: []tls.Certificate{client}, ClientSessionCache: sessions, MaxVersion: version}
	}
	for what, bad := range map[string]string{
		"deleted": "", "garbage": strings.Repeat("\x00\xffgarbage", 1<<17), "a key": key, "cut off": ca.pem[:len(ca.pem)/2], "a leaf alone": mine, "an empty bundle": "\n",
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			h.use(document, set(ca.pem))
			for range 2 {
				f("good", true, with(version))
			}
			snap := h.use(document, set(bad))
			if len(snap.Problems) != 1 || snap.Problems[0].Name != "partners" || strings.Contains(snap.Problems.Error(), "PRIVATE") || len(snap.Problems.Error()) > 2000 {
				t.Errorf("%s: problems %.300q", what, snap.Problems.Error())
			}
			f(what, false, with(version))
			h.use(document, set(ca.pem))
			f("good again", true, with(version))
		}
	}
}

// TestALookUpAmongTenThousandNames is the figure of case C-08: a name is found within
// 5 µs, and no slower among many. The best of some rounds counts, the machine not being
// this test's alone.
func TestALookUpAmongTenThousandNames(t *testing.T) {
	const n = 10000
	ca := newAuthority(t)
	cert, key := ca.leaf("many.test")
	var doc strings.Builder
	fmt.Fprintf(&doc, "certificates:\n- {cert: %s, key: %s, snis: [", quoted(cert), quoted(key))
	for i := range n {
		fmt.Fprintf(&doc, "n%d.many.test, \"*.n%d.many.test\", ", i, i)
	}
	doc.WriteString("last.test]}\n")
	s, _ := construct(newBuilder(t, &Config{}), nil, load(t, doc.String()), nil)
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("x.n%d.many.test", i)
	}
	best := time.Hour
	for range 20 {
		began := time.Now()
		for _, name := range names {
			if s.Certs.Find(name).Pattern == "" {
				t.Fatalf("%s is not found", name)
			}
		}
		best = min(best, time.Since(began)/n)
	}
	if best > 5*time.Microsecond && !raced {
		t.Errorf("a look-up among %d names takes %s, at most 5µs", 2*n, best)
	}
}
