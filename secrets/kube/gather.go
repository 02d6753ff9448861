package kube

import (
	"context"
	"errors"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

const (
	many    = 200             // Secrets that are expected together, from which on they are read together
	waiting = 3 * time.Second // for that; who waited longer reads alone
	kind    = "kubernetes.io/tls"
)

// Expect says that these Secrets will be asked for. Where they are many, as certificates
// are when a node starts, the watch that is about to tell of them begins with reading them
// together.
func (s *Source) Expect(resources []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lacking := make(map[*watch]int)
	for _, resource := range resources {
		k, err := place(resource, s.own, s.cfg.Namespaces)
		if err != nil {
			continue // whoever asks for it is told
		}
		if f := s.want(k); !f.fresh && !f.watch.live {
			lacking[f.watch]++
		}
	}
	for w, n := range lacking {
		if n >= many && w.coming == nil && w.of.name == "" {
			w.coming = make(chan struct{})
		}
	}
}

// want notes that a Secret is wanted. mu is held.
func (s *Source) want(k key) *followed {
	f := s.known[k]
	if f == nil {
		f = &followed{watch: s.over(k)}
		s.known[k] = f
	}
	f.used, f.doomed = true, false
	return f
}

// arrived lets those go on who wait for what is read together. mu is held.
func (w *watch) arrived() {
	if w.coming != nil {
		close(w.coming)
		w.coming = nil
	}
}

// await waits until what is read together is there.
func (s *Source) await(ctx context.Context, k key) {
	s.mu.Lock()
	coming := s.want(k).watch.coming
	s.mu.Unlock()
	if coming == nil {
		return
	}
	late := time.NewTimer(waiting)
	defer late.Stop()
	select {
	case <-coming:
	case <-late.C:
	case <-ctx.Done():
	}
}

// gather reads the certificates of a scope of which many are wanted. No more of it than
// one part is in memory, and of that what is wanted stays. What it does not bring is
// read one by one.
func (s *Source) gather(ctx context.Context, w *watch) error {
	s.mu.Lock()
	wanted := w.coming != nil
	changes := make(map[key]int)
	for k, f := range s.known {
		if w.of.covers(k) && !f.fresh {
			changes[k] = f.changes
		}
	}
	s.mu.Unlock()
	if !wanted {
		return nil
	}
	err := s.api.contents(ctx, w.of, kind, func(o *object) {
		if n, is := changes[o.key()]; is {
			if l, err := o.lease(); err == nil {
				s.take(o.key(), n, l)
			}
		}
	})
	if errors.Is(err, secrets.ErrDenied) || ctx.Err() != nil {
		return err
	}
	return nil // whatever it is, each Secret is read by itself
}
