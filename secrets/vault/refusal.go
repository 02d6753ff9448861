package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// refusal remembers that a login was refused. Vault locks a role out, for everybody who
// logs in with it, when five logins were refused without a quarter of an hour
// between two of them; so the same proof is shown four times, and then once in a
// while. Another proof is shown at once.
type refusal struct {
	proof string // fingerprint of what was shown
	times int
	until time.Time
	err   error
}

// refusalWaits are the times between showing the same proof; the last one for ever on.
var refusalWaits = [...]time.Duration{2 * time.Second, 10 * time.Second, time.Minute, 16 * time.Minute}

// again says whether the proof may be shown now: the error is the last refusal's.
func (r *refusal) again(path string, data map[string]any, now time.Time) error {
	text, err := json.Marshal(data) // in order of keys
	if err != nil {
		return fmt.Errorf("writing to %s: %w", path, err)
	}
	proof := secrets.NewValue(append([]byte(path+" "), text...)).Fingerprint()
	if proof != r.proof {
		*r = refusal{proof: proof}
	}
	if r.err != nil && now.Before(r.until) {
		return fmt.Errorf("%w; the same proof is not shown again before %s, since Vault locks out a role that is refused too often: give another one, or restart the node once the role takes this one", r.err, r.until.UTC().Format(time.RFC3339))
	}
	return nil
}

// note takes notice of how a login went.
func (r *refusal) note(err error, now time.Time) {
	if err == nil {
		r.times, r.err = 0, nil
		return
	}
	if errors.Is(err, secrets.ErrUnavailable) || errors.Is(err, secrets.ErrNotFound) {
		return // nobody has judged the proof
	}
	r.err, r.until = err, now.Add(refusalWaits[min(r.times, len(refusalWaits)-1)])
	r.times++
}
