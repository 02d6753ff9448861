package vaultpki_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/certs/certtest"
	"github.com/keyway-edge/keyway/certs/vaultpki"
	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/vault"
)

// TestACondemnedPairIsNotAnsweredAgain has Vault away while a certificate is condemned:
// what the issuer remembers of it must not come back, whoever asks and how.
func TestACondemnedPairIsNotAnsweredAgain(t *testing.T) {
	ca := certtest.NewCA(t, "root")
	var away atomic.Bool
	var serial atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		answer := map[string]any{"ttl": 0, "renewable": false, "accessor": "acc"}
		switch at := strings.TrimPrefix(q.URL.Path, "/v1/"); {
		case away.Load():
			w.WriteHeader(http.StatusServiceUnavailable)
			answer = nil
		case at == "pki/issue/web":
			p := ca.Issue(certtest.Leaf{Names: []string{"a.test"}})
			answer = map[string]any{
				"certificate": string(p.Cert.Reveal()), "private_key": string(p.Key.Reveal()), "issuing_ca": "",
				"expiration": time.Now().Add(time.Hour).Unix(), "serial_number": fmt.Sprint(serial.Add(1)),
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"request_id": "r", "data": answer})
	}))
	t.Cleanup(server.Close)
	open := vaultpki.Opener(vault.Deps{})
	s, err := open(map[string]any{
		"vault": "v", "role": "web", "mode": "issue",
		vaultpki.Connection: map[string]any{"address": server.URL, "token": "root"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() secrets.Lease {
		t.Helper()
		l, err := s.Fetch(t.Context(), secrets.Request{Resource: "id", Options: map[string]string{"names": "a.test"}})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := ask()
	if ask().ID != first.ID {
		t.Fatal("a young pair is issued anew")
	}
	away.Store(true)
	if s.(secrets.Condemner).Condemn(t.Context(), first) == nil {
		t.Error("Vault is away, and a revocation succeeds")
	}
	away.Store(false)
	if ask().ID == first.ID {
		t.Error("the condemned pair is answered again")
	}
}
