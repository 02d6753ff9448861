package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

// Facts are what metrics tell of a source.
type Facts struct {
	Kind, Namespace string
	Objects         int
	Synced          time.Time // when the server last told something of it, zero for never
	Failing         time.Time // since when it cannot be followed, zero while it can
	Lists, Watches  Outcomes
}

// Outcomes are how often something was tried, and how often in vain.
type Outcomes struct{ Done, Failed uint64 }

// Plus adds those of another source.
func (o Outcomes) Plus(more Outcomes) Outcomes {
	return Outcomes{o.Done + more.Done, o.Failed + more.Failed}
}

func (o *Outcomes) count(err error) {
	if o.Done++; err != nil {
		o.Failed++
	}
}

// Facts answers them.
func (s *Source) Facts() Facts {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.facts
	f.Kind, f.Namespace = s.Kind, s.Namespace
	return f
}

// note changes the facts.
func (s *Source) note(change func(*Facts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.facts)
}

// heard notes that the server told something, and how many objects more there are.
func (s *Source) heard(more int) {
	s.note(func(f *Facts) { f.Synced, f.Objects = time.Now(), f.Objects+more })
}

// outcome notes and tells how a call went: the first failure, and the end of failures.
// A list does not end those of watches.
func (s *Source) outcome(err error, watch bool) {
	s.mu.Lock()
	before := s.failed
	if err == nil && before != nil && s.watching && !watch {
		s.mu.Unlock()
		return
	}
	s.failed, s.watching = err, watch
	switch {
	case err == nil:
		s.facts.Failing = time.Time{}
	case before == nil:
		s.facts.Failing = time.Now()
	}
	never := s.facts.Synced.IsZero()
	s.mu.Unlock()
	if err != nil && s.Failed != nil {
		s.Failed()
	}
	at := []any{slog.String("kind", s.Kind), slog.String("namespace", s.Namespace)}
	switch {
	case err != nil && before == nil && never:
		s.Log.Error("objects of the cluster cannot be read, and never were", append(at, slog.Any("error", err))...)
	case err != nil && before == nil:
		s.Log.Error("objects of the cluster cannot be read; what was read last stays", append(at, slog.Any("error", err))...)
	case err == nil && before != nil:
		s.Log.Info("objects of the cluster can be read again", at...)
	}
}

// Failure is why nothing can be read, nil while it can.
func (s *Source) Failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Remark says what cannot be read now, "" for nothing.
func (s *Source) Remark() string {
	s.mu.Lock()
	err, never := s.failed, s.facts.Synced.IsZero()
	s.mu.Unlock()
	if err == nil {
		return ""
	}
	where, what := s.Namespace, "what was read last is served"
	if where == "" {
		where = "all namespaces"
	}
	if never {
		what = "none was read yet"
	}
	return fmt.Sprintf("%s of %s cannot be read from the API server: %v; %s", s.Plural, where, err, what)
}

// patience waits until an account that was refused is tried again, and until the server
// may be tried at all. leave is told what came of it.
func (s *Source) patience(ctx context.Context, watch bool) (leave func(error), err error) {
	if s.denied > 0 && !watch { // a watch follows a list
		if err := sleep(ctx, denial(s.denied)); err != nil {
			return nil, err
		}
	}
	pass, err := s.API.gate.enter(ctx, func(err error) { s.outcome(err, watch) })
	if err != nil {
		return nil, err
	}
	return func(err error) {
		pass(err)
		if Denied(err) {
			s.denied++
		} else if err == nil && watch {
			s.denied = 0
		}
	}, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// undefined says whether the server does not have the kind, as far as it tells an account
// that may not list it: what is refused comes before what is not there.
func (s *Source) undefined(ctx context.Context) bool {
	version, _, _ := strings.Cut(s.Path, "/namespaces/")
	answer, err := s.API.open(ctx, http.MethodGet, strings.TrimSuffix(version, "/"+s.Plural), nil, "", nil)
	if err != nil {
		return Absent(err)
	}
	defer answer.Close()
	var read struct{ Resources []struct{ Name string } }
	if json.NewDecoder(io.LimitReader(answer, most)).Decode(&read) != nil {
		return false
	}
	return !slices.ContainsFunc(read.Resources, func(r struct{ Name string }) bool { return r.Name == path.Base(s.Path) })
}
