package vault

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// TestRefusal: a proof that is refused is shown four times in the first minutes and then
// so seldom that Vault locks nobody out; another one is shown at once, and a Vault
// that is away is no refusal.
func TestRefusal(t *testing.T) {
	refused := errors.New("invalid secret id")
	var r refusal
	now := time.Now()
	var shown []time.Duration
	one, two := map[string]any{"secret_id": "one"}, map[string]any{"secret_id": "two"}
	for d := time.Duration(0); d < time.Hour; d += time.Second {
		if err := r.again("login", one, now.Add(d)); err != nil {
			if !errors.Is(err, refused) {
				t.Fatalf("the refusal is lost: %v", err)
			}
			continue
		}
		shown = append(shown, d)
		r.note(refused, now.Add(d))
	}
	if len(shown) != 7 || shown[3] != 72*time.Second {
		t.Errorf("shown at %v", shown)
	}
	for i := 4; i < len(shown); i++ {
		if shown[i]-shown[i-1] <= 15*time.Minute {
			t.Errorf("shown again after %v", shown[i]-shown[i-1])
		}
	}
	now = now.Add(time.Hour)
	if err := r.again("login", two, now); err != nil {
		t.Errorf("another proof: %v", err)
	}
	r.note(fmt.Errorf("503: %w", secrets.ErrUnavailable), now)
	if err := r.again("login", two, now); err != nil {
		t.Errorf("after an outage: %v", err)
	}
	r.note(refused, now)
	r.note(nil, now)
	if err := r.again("login", two, now); err != nil {
		t.Errorf("after a login: %v", err)
	}
}
