package vault

import (
	"encoding/json"
	"net/http"
	"sync"
	"testing"

	"github.com/keyway-edge/keyway/secrets/secrettest"
)

// kept is a KV version 2 engine with one version of each secret.
type kept struct {
	*server
	mu     sync.Mutex    // guards the group below
	status int           // of every answer, 0 for as it should be
	hung   chan struct{} // nil when it answers
}

func (k *kept) put(t *testing.T, name, value string) {
	var fields data
	if json.Unmarshal([]byte(value), &fields) != nil {
		fields = data{"value": value}
	}
	k.set(t, name, 200, data{"data": map[string]any(fields), "metadata": map[string]any{"version": 1, "created_time": "2026-01-02T03:04:05Z"}})
}

// set scripts the answer for a secret in its current version.
func (k *kept) set(_ *testing.T, name string, status int, answer data) {
	k.script("GET kv/data/"+name, func(q *http.Request, _ map[string]any) (int, any) {
		k.mu.Lock()
		away, hung := k.status, k.hung
		k.mu.Unlock()
		if hung != nil {
			select {
			case <-hung:
			case <-q.Context().Done():
			}
		}
		switch v := q.URL.Query().Get("version"); {
		case away != 0:
			return away, map[string]any{"errors": []string{"Vault is sealed"}}
		case v != "" && v != "1":
			return 404, map[string]any{"errors": []string{}}
		}
		return status, map[string]any{"request_id": "req-1", "data": map[string]any(answer)}
	})
}

func TestContract(t *testing.T) {
	secrettest.Contract(t, func(t *testing.T) secrettest.Subject {
		k := &kept{server: fake(t)}
		k.set(t, "never", 404, nil)
		status := func(n int) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.status = n
		}
		return secrettest.Subject{
			Source: k.open(map[string]any{"kv": "v2", "mount": "kv"}, Deps{}),
			Put:    k.put,
			Remove: func(t *testing.T, name string) {
				k.set(t, name, 404, data{"data": nil, "metadata": map[string]any{"version": 1, "deletion_time": "2026-02-02T00:00:00Z"}})
			},
			Deny: func(t *testing.T, name string) { k.set(t, name, 403, nil) },
			Break: func(*testing.T) func() {
				status(503)
				return func() { status(0) }
			},
			Hang: func(t *testing.T) func() {
				hung := make(chan struct{})
				set := func(c chan struct{}) {
					k.mu.Lock()
					defer k.mu.Unlock()
					k.hung = c
				}
				mend := sync.OnceFunc(func() { set(nil); close(hung) })
				t.Cleanup(mend)
				set(hung)
				return mend
			},
			Purposeful: true,
			Issues:     true, // what is put is a field of what is answered
		}
	})
}
