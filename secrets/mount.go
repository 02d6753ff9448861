package secrets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Throttled is an error of a source that asks to be left alone for a while, as a
// server does with Retry-After.
type Throttled struct {
	Err   error
	After time.Duration
}

// Error says what happened and for how long to wait.
func (t *Throttled) Error() string { return fmt.Sprintf("%v (asked to wait %v)", t.Err, t.After) }

// Unwrap is the underlying error.
func (t *Throttled) Unwrap() error { return t.Err }

// mount is one open vault. Its companions are asserted once, here.
type mount struct {
	name, identity string
	life           Life
	err            error // why it could not be opened; then source is nil
	source         Source
	renewer        Renewer // nil where the source has none
	revoker        Revoker
	notifier       Notifier
	pointer        Pointer
	timeout        time.Duration      // of one look
	parallel       int                // looks at a time
	stop           context.CancelFunc // ends its hints
	revoking       chan struct{}      // holds one for each revocation under way
	gone           bool               // nobody uses it any more; written by Run with the broker's mu held

	// owned by Run
	inFlight int
	queue    []*entry
	away     away
}

// open makes a mount of a vault. A vault that cannot be opened is a mount with a
// reason, so that what refers to it is closed with that reason.
func (b *Broker) open(v Vault) *mount {
	m := &mount{name: v.Name, identity: v.identity()}
	fail := func(err error) *mount {
		m.err = fmt.Errorf("opening vault %s: %w", v.Name, err)
		return m
	}
	life, rest, err := ParseLife(v.Config)
	if err != nil {
		return fail(err)
	}
	m.life = life
	opener := b.cfg.Openers[v.Kind]
	if opener == nil {
		return fail(fmt.Errorf("there is no source of kind %q", v.Kind))
	}
	if m.source, err = opener(rest); err != nil {
		return fail(err)
	}
	m.renewer, _ = m.source.(Renewer)
	m.revoker, _ = m.source.(Revoker)
	m.notifier, _ = m.source.(Notifier)
	m.pointer, _ = m.source.(Pointer)
	m.timeout, m.revoking = b.cfg.FetchTimeout, make(chan struct{}, b.cfg.Parallel)
	m.parallel = b.cfg.Parallel
	if w, ok := m.source.(Wide); ok {
		m.parallel = max(m.parallel, w.Parallel())
	}
	if t, ok := m.source.(Timed); ok && t.Timeout() > 0 {
		m.timeout = t.Timeout()
	}
	return m
}

// listen runs the source's notifier and forwards its hints, again after a pause
// when it fails, until the mount is closed.
func (m *mount) listen(ctx context.Context, wg *sync.WaitGroup, hints chan<- *mount, log *slog.Logger) {
	ctx, m.stop = context.WithCancel(ctx)
	if m.notifier == nil {
		return
	}
	wg.Go(func() {
		for pause := backoffFirst; ; pause = min(2*pause, backoffMost) {
			err := m.notifier.Run(ctx)
			if ctx.Err() != nil {
				return
			}
			log.Warn("hints of a source ended; it is polled until they are back", slog.String("source", m.name), slog.Any("error", err))
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-m.notifier.Changed():
			}
			select {
			case <-ctx.Done():
				return
			case hints <- m:
			}
		}
	})
}

// look renews or fetches, within a timeout. A source that panics has failed.
func (m *mount) look(ctx context.Context, r Request, held Lease) (o outcome) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			o.err = errors.New("the source panicked") // the panic's text could hold a value
		}
		o.took = time.Since(began)
	}()
	if held.Renewable && held.ID != "" && m.renewer != nil && !r.Force {
		renewed, err := m.renewer.Renew(ctx, held)
		if err == nil {
			if renewed.Value.IsZero() {
				renewed.Value = held.Value
			}
			if renewed.Origin == "" {
				renewed.Origin = held.Origin
			}
			o.lease, o.renewal = renewed, renewedOK
			return o
		}
		o.renewal = renewalFailed
		if ctx.Err() != nil || unanswered(err) {
			o.err = fmt.Errorf("renewing the lease: %w", err)
			return o
		}
		// The lease may be at the end of what it can be extended to: ask for a new one.
	}
	o.lease, o.err = m.source.Fetch(ctx, r)
	if o.err == nil && o.lease.Value.IsZero() {
		o.err = errors.New("the source answered without a value")
	}
	return o
}

// outcome is what one look brought.
type outcome struct {
	lease   Lease
	err     error
	renewal renewal
	took    time.Duration
}

type renewal uint8

const (
	notRenewed renewal = iota
	renewedOK
	renewalFailed
)

// close lets go of what the source holds open, such as idle connections.
func (m *mount) close() {
	m.stop()
	if c, ok := m.source.(io.Closer); ok {
		_ = c.Close() // nothing can be done about it, and nothing is lost
	}
}
