package secrets

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Sentinels that a Source wraps and that the broker branches on.
var (
	// ErrNotFound: the source answered, and there is no such resource. It is
	// cached for the negative ttl.
	ErrNotFound = errors.New("no such secret")
	// ErrRemoved is an ErrNotFound of a source that cannot be mistaken: the secret
	// was taken away on purpose. The last good value is not used any longer, where
	// it otherwise would be for as long as resurrect_ttl.
	ErrRemoved = fmt.Errorf("%w any more", ErrNotFound)
	// ErrUnavailable: the source did not answer, or could not: it is away, sealed,
	// overloaded. The whole source is left alone for a while, not one secret.
	ErrUnavailable = errors.New("the source is not available")
	// ErrDenied: the source answered, and this node may not read it.
	ErrDenied = errors.New("access to the secret was refused")
)

// Request asks a source for one resource.
type Request struct {
	Resource string            // path of the resource in the source, slashes decoded
	Version  int               // 0 current, 1 the current one, 2 the one before, ...
	Options  map[string]string // the reference's query: overrides of the source's configuration
	Force    bool              // ask the true source, whatever the Source remembers: the value in use was refused somewhere
}

// Lease is one fetched version of one resource: its value and the rules of its
// life. Several fields of one resource come from one lease, always together.
type Lease struct {
	Value     Value         // the whole secret: text, or a JSON object whose top-level strings are fields
	Version   string        // the source's own name of this version, "" if it has none
	Modified  time.Time     // when this version came to be in the source; zero if unknown
	ID        string        // the source's handle for Renew and Revoke, "" for none
	TTL       time.Duration // how long the value may be used without asking again; 0: the broker's ttl setting
	Renewable bool          // Renew may extend it
	NotAfter  time.Time     // hard end of the value; zero for none

	Origin string // the source's id of the read that brought it, as its own audit log has it; "" for none
	Remark string // trouble with the successor while this version is good: why a renewal fails, since when
}

// Source is where secrets come from. Fetch must honour ctx, must be safe for
// concurrent use, and returns an error that wraps ErrNotFound or ErrDenied where
// one applies and never contains a secret value. It owns no goroutine.
type Source interface {
	Fetch(ctx context.Context, r Request) (Lease, error)
}

// Renewer is a Source whose leases can be extended. The answered lease replaces
// the old one; its Value may be zero for "unchanged".
type Renewer interface {
	Renew(ctx context.Context, l Lease) (Lease, error)
}

// Revoker is a Source whose leases should be given back when unused.
type Revoker interface {
	Revoke(ctx context.Context, l Lease) error
}

// Condemner is a Source that can tell whoever made a lease that it was compromised,
// as an authority is told of a key that was lost.
type Condemner interface {
	Condemn(ctx context.Context, l Lease) error
}

// Timed is a Source whose looks need another timeout than the broker's own.
type Timed interface {
	Timeout() time.Duration
}

// Wide is a Source that takes more looks at a time than the broker's own bound.
type Wide interface {
	Parallel() int
}

// Forewarned is a Source that is told which resources are about to be looked at, before the
// looks begin, so that it can read many together. Expect does not wait.
type Forewarned interface {
	Expect(resources []string)
}

// Notifier is a Source that can tell when to look again. Run works until ctx
// ends and sends on the channel that Changed answers, which has capacity one and
// never blocks the sender: a hint is a level trigger ("look again"), never a value.
type Notifier interface {
	Run(ctx context.Context) error
	Changed() <-chan struct{}
}

// Pointer is a Notifier that knows what its hints are about. Touched answers, for a
// resource as in a Request, whether it may have changed since Touched was called
// last. A Notifier that is none hints at all that it gave.
type Pointer interface {
	Notifier
	Touched() func(resource string) bool
}
