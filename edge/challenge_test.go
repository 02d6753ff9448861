package edge

import (
	"crypto/tls"
	"net/http"
	"testing"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// oneChallenge is one challenge in progress, of each kind.
type oneChallenge struct{ cert tls.Certificate }

func (oneChallenge) HTTP(host, token string) (string, bool) {
	return "token.thumbprint", host == "new.test" && token == "token"
}

func (c oneChallenge) ALPN(name string) (*tls.Certificate, bool) { return &c.cert, name == "new.test" }

// TestChallengeALPN gives the challenge's configuration to hellos that offer acme-tls/1
// alone, for a name in progress.
func TestChallengeALPN(t *testing.T) {
	term := &Terminator{}
	if c := term.challengeConfig(&tls.ClientHelloInfo{ServerName: "new.test", SupportedProtos: []string{challengeALPN}}); c != nil {
		t.Error("a challenge is answered and there are none")
	}
	term.Challenges(oneChallenge{})
	for _, c := range []struct {
		name   string
		protos []string
		want   bool
	}{
		{"new.test", []string{challengeALPN}, true},
		{"old.test", []string{challengeALPN}, false},
		{"new.test", []string{"h2", "http/1.1"}, false},
		{"new.test", []string{challengeALPN, "h2"}, false},
		{"new.test", nil, false},
	} {
		if got := term.challengeConfig(&tls.ClientHelloInfo{ServerName: c.name, SupportedProtos: c.protos}); (got != nil) != c.want {
			t.Errorf("%s %v: answered %v", c.name, c.protos, got != nil)
		}
	}
}

// TestChallengeHTTP answers a token in progress before routes, and nothing else.
func TestChallengeHTTP(t *testing.T) {
	h := &Handler{}
	ask := func(method, host, path string) bool {
		r := &request{x: &exchange.Exchange{Request: exchange.Request{Method: method, Path: path}}, host: host}
		reply := h.challenge(r)
		if reply != nil && (reply.Status != http.StatusOK || string(reply.Body) != "token.thumbprint") {
			t.Errorf("%s: %d %q", path, reply.Status, reply.Body)
		}
		return reply != nil
	}
	if ask("GET", "new.test", challengePath+"token") {
		t.Error("a challenge is answered and there are none")
	}
	h.Challenges(oneChallenge{})
	for _, c := range []struct {
		method, host, path string
		want               bool
	}{
		{"GET", "new.test", challengePath + "token", true},
		{"HEAD", "new.test", challengePath + "token", true},
		{"POST", "new.test", challengePath + "token", false},
		{"GET", "old.test", challengePath + "token", false},
		{"GET", "new.test", challengePath + "other", false},
		{"GET", "new.test", challengePath + "token/..", false},
		{"GET", "new.test", "/x" + challengePath + "token", false},
	} {
		if got := ask(c.method, c.host, c.path); got != c.want {
			t.Errorf("%s %s%s: answered %v", c.method, c.host, c.path, got)
		}
	}
}
