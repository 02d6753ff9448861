package secrettest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/secrets"
	"github.com/keyway-edge/keyway/secrets/secrettest"
)

const faultVariable = "KEYWAY_TEST_FAULT"

// remote is a small source of the kind that can be away, hang and refuse. fault
// breaks one promise of the contract.
type remote struct {
	fault   string
	changed chan struct{}

	mu     sync.Mutex // guards the group below
	values map[string]secrets.Value
	denied map[string]bool
	broken bool
	hung   chan struct{} // nil when it answers
}

func (r *remote) Fetch(ctx context.Context, q secrets.Request) (secrets.Lease, error) {
	if len(q.Options) > 0 {
		return secrets.Lease{}, errors.New("unknown option")
	}
	if err := ctx.Err(); err != nil && r.fault != "deaf" {
		return secrets.Lease{}, fmt.Errorf("reading %s: %w", q.Resource, err)
	} else if err != nil {
		return secrets.Lease{}, fmt.Errorf("reading %s: %w", q.Resource, secrets.ErrNotFound)
	}
	r.mu.Lock()
	value, ok := r.values[q.Resource]
	denied, broken, hung := r.denied[q.Resource], r.broken, r.hung
	r.mu.Unlock()
	switch {
	case hung != nil && r.fault == "stuck":
		<-hung
	case hung != nil:
		select {
		case <-hung:
		case <-ctx.Done():
			return secrets.Lease{}, fmt.Errorf("reading %s: %w", q.Resource, ctx.Err())
		}
	case broken && r.fault == "gone":
		return secrets.Lease{}, secrets.ErrNotFound
	case broken:
		return secrets.Lease{}, fmt.Errorf("reading %s: %w", q.Resource, secrets.ErrUnavailable)
	case denied:
		return secrets.Lease{}, secrets.ErrDenied
	case ok && q.Version > 1 && r.fault == "telltale":
		return secrets.Lease{}, fmt.Errorf("no version %d beside %s: %w", q.Version, value.Reveal(), secrets.ErrNotFound)
	case !ok || q.Version > 1:
		return secrets.Lease{}, secrets.ErrRemoved
	}
	lease := secrets.Lease{Value: value, ID: "lease", TTL: time.Hour, Renewable: true}
	if r.fault == "printed" {
		lease.Remark = string(value.Reveal())
	}
	return lease, nil
}

func (r *remote) Renew(_ context.Context, l secrets.Lease) (secrets.Lease, error) {
	if r.fault == "other" {
		l.ID = "another"
	}
	return l, nil
}

func (r *remote) Revoke(context.Context, secrets.Lease) error { return nil }

func (r *remote) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (r *remote) Changed() <-chan struct{} { return r.changed }

// set changes the source and says so.
func (r *remote) set(f func()) {
	r.mu.Lock()
	f()
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *remote) subject() secrettest.Subject {
	return secrettest.Subject{
		Source: r,
		Put: func(_ *testing.T, name, value string) {
			r.set(func() { r.values[name] = secrets.NewValue([]byte(value)); delete(r.denied, name) })
		},
		Remove: func(_ *testing.T, name string) { r.set(func() { delete(r.values, name) }) },
		Deny:   func(_ *testing.T, name string) { r.set(func() { r.denied[name] = true }) },
		Break: func(*testing.T) func() {
			r.set(func() { r.broken = true })
			return func() { r.set(func() { r.broken = false }) }
		},
		Hang: func(t *testing.T) func() {
			hung := make(chan struct{})
			mend := sync.OnceFunc(func() {
				r.set(func() { r.hung = nil })
				close(hung)
			})
			if r.fault == "stuck" {
				time.AfterFunc(4*time.Second, mend)
			}
			r.set(func() { r.hung = hung })
			return mend
		},
		Purposeful: true,
	}
}

// TestContract shows every part at work, on a source that can do all there is.
// With a fault in the environment it is the child of the test below.
func TestContract(t *testing.T) {
	secrettest.Contract(t, func(*testing.T) secrettest.Subject {
		return (&remote{
			fault: os.Getenv(faultVariable), changed: make(chan struct{}, 1),
			values: make(map[string]secrets.Value), denied: make(map[string]bool),
		}).subject()
	})
}

// A suite that every source passes is worth what it finds in those that break it.
func TestTheContractFindsFaults(t *testing.T) {
	for fault, part := range map[string]string{
		"deaf":     "keeps to its context",
		"stuck":    "a source that hangs is left in time",
		"gone":     "an outage is no absence",
		"telltale": "errors tell no value",
		"printed":  "values never print",
		"other":    "leases are renewed and given back",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			run := "^TestContract$/^" + strings.ReplaceAll(part, " ", "_") + "$"
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+run)
			cmd.Env = append(os.Environ(), faultVariable+"="+fault)
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "--- FAIL: TestContract") {
				t.Errorf("the part %q did not find it: %v\n%s", part, err, out)
			}
		})
	}
}
