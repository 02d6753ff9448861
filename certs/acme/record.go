package acme

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/issue"
	"github.com/keyway-edge/keyway/secrets"
)

// record is all that is known of one set of names: what was issued, the order in
// progress, how attempts went. It is one value of the shared state, so that replicas
// see it whole and a killed node finds what it had begun.
type record struct {
	Names   []string `json:"names"`
	KeyType string   `json:"key_type"`

	// What was issued last; Cert is empty before.
	Directory string    `json:"directory,omitempty"` // that issued it
	OrderURL  string    `json:"order_url,omitempty"`
	Cert      string    `json:"cert,omitempty"` // PEM chain
	Key       string    `json:"key,omitempty"`
	Serial    string    `json:"serial,omitempty"`
	CertID    string    `json:"cert_id,omitempty"` // of renewal information
	Issued    time.Time `json:"issued,omitzero"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	RenewAt   time.Time `json:"renew_at,omitzero"`
	Window    *window   `json:"window,omitempty"`
	AskARI    time.Time `json:"ask_ari,omitzero"` // when to ask for the window again

	Order *order `json:"order,omitempty"` // in progress

	// Attempts since the last success.
	Failures int       `json:"failures,omitempty"`
	Refused  int       `json:"refused,omitempty"` // of them, those that an authority answered
	Since    time.Time `json:"since,omitzero"`
	Why      string    `json:"why,omitempty"`
	Next     time.Time `json:"next,omitzero"` // no attempt before

	Setups []string `json:"setups,omitempty"` // prints of the configs that they were made with, oldest first
	// Spared is when a directory that refused these names may be asked for them again.
	Spared map[string]time.Time `json:"spared,omitempty"`

	Tried time.Time `json:"tried,omitzero"` // when the last attempt began
}

// window is when an authority suggests to renew (RFC 9773).
type window struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	Why   string    `json:"why,omitempty"` // URL of an explanation
}

// order is an order that was begun. Its key is kept, so that what was issued while
// the node was killed can still be fetched and used.
type order struct {
	Directory string    `json:"directory"`
	URL       string    `json:"url"`
	Key       string    `json:"key"` // PEM
	Began     time.Time `json:"began"`
}

// orderLife is how long an order is gone on with; authorities keep them for days.
const orderLife = 24 * time.Hour

// recordKey is where a set of names is kept. Names of certificates do not matter:
// two certificates with the same names and type of key share one pair.
func recordKey(issuer string, names []string, keyType string) string {
	sum := sha256.Sum256([]byte(strings.Join(names, ",") + "\x00" + keyType))
	return "acme/" + stateName(issuer) + "/" + hex.EncodeToString(sum[:16])
}

// lockKey is the lock of a set of names, whatever the type of key: two orders for a
// name at a time would take the challenges from each other.
func lockKey(issuer string, names []string) string {
	sum := sha256.Sum256([]byte(strings.Join(names, ",")))
	return "acme/" + stateName(issuer) + "/lock/" + hex.EncodeToString(sum[:16])
}

// stateName makes any name fit for a key of the state.
func stateName(s string) string {
	if certs.CheckStateKey(s) == nil && len(s) < 100 && !strings.Contains(s, "/") {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "x-" + hex.EncodeToString(sum[:16])
}

// loadRecord reads a record; an empty one when there is none.
func loadRecord(ctx context.Context, state certs.SharedState, key string) (record, string, error) {
	value, version, err := state.Load(ctx, key)
	if errors.Is(err, certs.ErrNoState) {
		return record{}, "", nil
	}
	if err != nil {
		return record{}, "", fmt.Errorf("reading what was issued: %w", err)
	}
	var r record
	if json.Unmarshal(value, &r) != nil { // the decoder's message may quote a key
		return record{}, version, nil
	}
	return r, version, nil
}

func saveRecord(ctx context.Context, state certs.SharedState, key, version string, r record) (string, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("keeping what was issued: %w", err)
	}
	if version, err = state.Swap(ctx, key, version, value); err != nil {
		return "", fmt.Errorf("keeping what was issued: %w", err)
	}
	return version, nil
}

// lease is the pair as the broker takes it; it is looked at again soon, so that a
// renewal that fails is told.
func (r *record) lease(now time.Time) (secrets.Lease, error) {
	value, err := issue.Encode(certs.Pair{Cert: secrets.NewValue([]byte(r.Cert)), Key: secrets.NewValue([]byte(r.Key))})
	if err != nil {
		return secrets.Lease{}, err
	}
	l := secrets.Lease{Value: value, Version: r.Serial, Modified: r.Issued, NotAfter: r.NotAfter, Origin: r.OrderURL}
	l.TTL = max(min(leaseTTL, r.NotAfter.Sub(now)), time.Second)
	if r.Failures > 0 {
		l.Remark = fmt.Sprintf("renewal failed %d times since %s: %s", r.Failures, r.Since.UTC().Format(time.RFC3339), r.Why)
	}
	return l, nil
}

// waiting says why there is no pair yet.
func (r *record) waiting(now time.Time) string {
	if r.Failures == 0 {
		return "it is being issued"
	}
	text := fmt.Sprintf("%d attempts failed since %s: %s", r.Failures, r.Since.UTC().Format(time.RFC3339), r.Why)
	if r.Next.After(now) {
		text += "; tried again at " + r.Next.UTC().Format(time.RFC3339)
	}
	return text
}

// mostSetups is how many configs of one issuer replicas may have and still climb one
// ladder together.
const mostSetups = 8

// failed notes an attempt that brought nothing.
func (r *record) failed(o outcome, setup string, now time.Time, rnd float64) {
	if !slices.Contains(r.Setups, setup) {
		r.Setups = append(slices.Clone(r.Setups), setup)
		r.Setups = r.Setups[max(0, len(r.Setups)-mostSetups):]
	}
	if r.Failures++; r.Since.IsZero() {
		r.Since = now
	}
	r.Why = brief(o.err)
	if len(o.refused) > 0 {
		r.Refused++
		wait := ladder(r.Refused, now.Sub(r.Since), rnd)
		r.Spared = maps.Clone(r.Spared) // readers have the one before
		maps.DeleteFunc(r.Spared, func(_ string, until time.Time) bool { return !until.After(now) })
		if r.Spared == nil {
			r.Spared = map[string]time.Time{}
		}
		for url, after := range o.refused {
			until := now.Add(max(wait, after))
			r.Spared[url] = until
			o.spare(until)
		}
	}
	if r.Next = o.until; r.Next.Before(now) {
		r.Next = now.Add(awayWait(r.Failures, rnd))
	}
}

// brief is an error as one line of bounded length.
func brief(err error) string {
	const most = 400
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
