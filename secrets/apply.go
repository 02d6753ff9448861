package secrets

import (
	"container/heap"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// apply makes the entries those of a plan. What stays wanted keeps its lease; a
// vault that changed keeps its last good values until the new one answers.
func (l *loop) apply(plan Plan, now time.Time) {
	vaults := make(map[string]Vault)
	for _, v := range slices.Concat(l.cfg.Vaults, plan.Vaults) {
		vaults[v.Name] = v
	}
	refs := make(map[entryKey]map[string]Ref)
	for _, r := range plan.Refs {
		if r.IsZero() {
			continue
		}
		if refs[keyOf(r)] == nil {
			refs[keyOf(r)] = make(map[string]Ref)
		}
		refs[keyOf(r)][r.String()] = r
	}
	for key, e := range l.entries {
		if refs[key] == nil {
			l.drop(e, now)
		}
	}
	used, news := make(map[string]bool), make(map[*mount][]string)
	for key, byText := range refs {
		used[key.vault] = true
		m := l.mount(key.vault, vaults)
		e := l.entries[key]
		if e == nil {
			e = &entry{key: key, wanted: make(map[string]*wanted), index: -1, looked: true}
			l.entries[key] = e
		}
		l.wantRefs(e, byText, now)
		if e.mount != m {
			l.remount(e, m, byText, now)
			news[m] = append(news[m], e.request.Resource)
		}
		for _, w := range e.wanted {
			l.prime(e, w, now)
		}
		l.judge(e, now)
		l.reschedule(e, now)
	}
	for m, resources := range news {
		if f, ok := m.source.(Forewarned); ok {
			f.Expect(resources)
		}
	}
	for name, m := range l.mounts {
		if !used[name] {
			l.unmount(m)
		}
	}
}

// wantRefs makes the references to an entry the given ones.
func (l *loop) wantRefs(e *entry, byText map[string]Ref, now time.Time) {
	for text := range e.wanted {
		if _, ok := byText[text]; !ok {
			delete(e.wanted, text)
			l.changedAt = earliest(l.changedAt, now)
		}
	}
	for text, r := range byText {
		if e.wanted[text] == nil {
			e.adopt(r, l.moment(now))
		}
	}
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// remount gives an entry another source and looks at it at once. A look that is in
// flight with the old source is ignored when it ends.
func (l *loop) remount(e *entry, m *mount, byText map[string]Ref, now time.Time) {
	if e.mount != nil && e.lease.ID != "" {
		// It cannot be renewed where it was not made, and is in use until a successor is there.
		e.orphans = append(e.orphans, revoke{mount: e.mount, lease: e.lease})
		e.lease.ID, e.lease.Renewable = "", false
	}
	e.mount, e.inFlight, e.queued, e.again, e.parked = m, false, false, false, false
	e.failures, e.err, e.refusal, e.after = 0, nil, "", 0
	e.life, e.broken = m.life.withDefaults(), m.err
	for _, r := range byText { // all have the same query
		life, options, err := r.overrides(m.life)
		if err != nil && e.broken == nil {
			e.broken = err
		}
		e.life = life.withDefaults()
		e.request = Request{Resource: r.Resource, Version: r.Version, Options: options}
	}
	l.await(e, e.broken == nil)
	if e.broken != nil {
		e.dismiss(e.broken)
	}
	if !e.looked {
		e.nextLook = now
	}
}

// mount answers the open source of a vault, opened anew if its configuration changed.
func (l *loop) mount(name string, vaults map[string]Vault) *mount {
	v, known := vaults[name]
	identity := v.identity()
	if m := l.mounts[name]; m != nil {
		if m.identity == identity {
			return m
		}
		l.unmount(m)
	}
	var m *mount
	if known {
		m = l.open(v)
	} else {
		m = &mount{name: name, identity: identity, err: fmt.Errorf("there is no vault named %q; expected the prefix of a vault entity or a kind of source", name)}
	}
	if m.err != nil {
		l.cfg.Log.Warn("vault cannot be used", slog.String("source", name), slog.String("reason", plain(m.err)))
	}
	m.listen(l.ctx, &l.wg, l.hints, l.cfg.Log)
	l.mounts[name] = m
	return m
}

// unmount closes a vault: its hints end.
func (l *loop) unmount(m *mount) {
	m.close()
	delete(l.mounts, m.name)
	l.mu.Lock()
	m.gone = true
	delete(l.sources, m.name)
	l.mu.Unlock()
	delete(l.nextMention, m.name)
}

// drop forgets an entry.
func (l *loop) drop(e *entry, now time.Time) {
	e.dropped = true
	e.dismiss(ErrUnknownRef)
	l.await(e, false)
	if e.index >= 0 {
		heap.Remove(&l.agenda, e.index)
	}
	delete(l.entries, e.key)
	if e.mount != nil {
		l.giveBack(e.mount, e.lease, now.Add(e.life.Overlap))
		l.giveOrphansBack(e, now.Add(e.life.Overlap))
	}
	l.changedAt = earliest(l.changedAt, now)
}

// revoke is a lease to give back once no request can use it any more.
type revoke struct {
	at    time.Time
	mount *mount
	lease Lease
}

// giveBack plans the revocation of a lease that was replaced or is unwanted.
func (l *loop) giveBack(m *mount, lease Lease, at time.Time) {
	planned := func(r revoke) bool { return r.mount == m && r.lease.ID == lease.ID }
	if lease.ID != "" && !l.spared[lease.ID] && m.revoker != nil && !slices.ContainsFunc(l.revokes, planned) {
		l.revokes = append(l.revokes, revoke{at, m, lease})
		l.revokeAt = earliest(l.revokeAt, at)
	}
}

// giveOrphansBack plans that of the leases that an entry has from sources before.
func (l *loop) giveOrphansBack(e *entry, at time.Time) {
	for _, o := range e.orphans {
		l.giveBack(o.mount, o.lease, at)
	}
	e.orphans = nil
}

// revokeDue gives back the leases whose overlap is over. A source that is away is
// not asked to: that can wait, or the lease ends by itself.
func (l *loop) revokeDue(now time.Time) {
	if l.revokeAt.IsZero() || now.Before(l.revokeAt) {
		return
	}
	l.revokeAt = time.Time{}
	held := l.heldLeases()
	l.revokes = slices.DeleteFunc(l.revokes, func(r revoke) bool {
		switch {
		case now.Before(r.at):
			l.revokeAt = earliest(l.revokeAt, r.at)
			return false
		case held[heldLease{r.mount, r.lease.ID}]:
			return true // wanted again since, and the source answered it once more; its end plans anew
		case r.mount.away.failures > 0 && !r.mount.gone:
			l.revokeAt = earliest(l.revokeAt, now.Add(backoffFirst))
			return !r.lease.NotAfter.IsZero() && now.After(r.lease.NotAfter)
		}
		l.wg.Go(func() { l.revoke(l.ctx, r) })
		return true
	})
}

// heldLease is a lease by its name.
type heldLease struct {
	mount *mount
	id    string
}

// heldLeases are the leases in use.
func (l *loop) heldLeases() map[heldLease]bool {
	held := make(map[heldLease]bool)
	for _, e := range l.entries {
		if e.lease.ID != "" {
			held[heldLease{e.mount, e.lease.ID}] = true
		}
	}
	return held
}

// revoke gives one lease back, a few of a source at a time. It is not tried again:
// what is not revoked ends by itself.
func (l *loop) revoke(ctx context.Context, r revoke) {
	ended := func(err error) {
		l.cfg.Log.Warn("revoking a lease failed; it ends by itself", slog.String("source", r.mount.name), slog.String("reason", plain(err)))
	}
	select {
	case r.mount.revoking <- struct{}{}:
		defer func() { <-r.mount.revoking }()
	case <-ctx.Done():
		ended(ctx.Err())
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.mount.timeout)
	defer cancel()
	if err := r.mount.revoker.Revoke(ctx, r.lease); err != nil {
		ended(err)
		return
	}
	l.count(r.mount, func(s *SourceStats) { s.Revoked++ })
	l.tell(Event{Kind: "source", Subject: r.mount.name, Source: r.mount.name, Result: "revoked", Origin: r.lease.Origin})
}

// revokeAll gives back, when that is asked for, every lease at the end of Run.
func (l *loop) revokeAll(ctx context.Context) {
	if !l.cfg.RevokeAtStop {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*l.cfg.FetchTimeout) // of all together: the end must come
	defer cancel()
	for _, e := range l.entries {
		l.giveBack(e.mount, e.lease, time.Time{})
		l.giveOrphansBack(e, time.Time{})
	}
	for _, r := range l.revokes {
		l.wg.Go(func() { l.revoke(ctx, r) })
	}
	l.wg.Wait()
}
