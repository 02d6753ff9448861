package main

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/handover"
	"github.com/keyway-edge/keyway/routing/upstream"
)

// run runs every part until a signal, a failure or another process that takes this one's
// place ends the front, drains, and says why it ended.
func (n *node) run(ctx context.Context) error {
	stop, forced, release := signals(ctx)
	defer release()
	defer runtime.KeepAlive(spare(n.overload.Memory))
	// The parts that requests in flight need outlive the listeners.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	support := n.begin(background, n.supportTasks())
	if err := n.takeOver(stop); err != nil {
		end()
		return &exitError{exitFailed, errors.Join(err, support.wait(), n.ledger.Close())}
	}
	e := newEnding(ctx, background)
	defer e.release()
	defer context.AfterFunc(stop, func() { e.leave(context.Cause(stop), nil) })()
	n.succession.open(stop, e.leave)
	aside := n.begin(e.doors, n.doorTasks())
	err := runTasks(e.front, append(n.frontTasks(forced), support.watch("support"), aside.watch("doors")))
	if err != nil {
		e.leave(err, nil)
	}
	given := handover.GivenBy(e.front)
	if given == nil {
		n.log.Info("stopping", slog.Any("cause", context.Cause(e.front)))
	}
	n.succession.finish("the node is stopping")
	e.shut(nil)
	err = errors.Join(err, aside.wait())
	end()
	err = errors.Join(err, support.wait())
	if n.access != nil {
		err = errors.Join(err, n.access.Flush())
	}
	err = errors.Join(err, n.ledger.Close())
	if err := n.ended(err, forced); err != nil {
		return err
	}
	if given != nil {
		n.log.Info("stopped after another process took over, nothing was lost", slog.Int("pid", given.Pid))
		return n.succession.endedAs()
	}
	n.log.Info("stopped, nothing was lost")
	return nil
}

// ending is how the parts of a node end that do not wait for requests in flight. Whoever
// comes first decides why.
type ending struct {
	front, doors context.Context //nolint:containedctx // it is what makes them
	end, shut    context.CancelCauseFunc
	once         sync.Once
}

func newEnding(ctx, background context.Context) *ending {
	e := &ending{}
	e.front, e.end = context.WithCancelCause(context.WithoutCancel(ctx))
	e.doors, e.shut = context.WithCancelCause(background)
	return e
}

// leave ends the front, and where another process has their listeners the doors too. It
// does nothing, and answers false, when the front is ending already.
func (e *ending) leave(cause error, before func()) (first bool) {
	e.once.Do(func() {
		first = true
		if before != nil {
			before()
		}
		var given *handover.Given
		if errors.As(cause, &given) {
			e.shut(cause)
		}
		e.end(cause)
	})
	return first
}

func (e *ending) release() {
	e.end(nil)
	e.shut(nil)
}

// ended gives an end its exit status.
func (n *node) ended(err error, forced <-chan struct{}) error {
	select {
	case <-forced:
		return &exitError{exitForced, errors.New("stopped at once by a second signal")}
	default:
	}
	switch {
	case errors.Is(err, edge.ErrCut):
		return &exitError{exitCut, err}
	case err != nil:
		return &exitError{exitFailed, err}
	}
	return nil
}

// stay is what a process does after run where it is the parent of the one that took its
// place: nothing but that.
func stay(s *steward, link *handover.Link, err error, log *slog.Logger) error {
	if err != nil {
		log.Error("not all was finished", slog.Any("error", err))
	}
	log.Info("this process stays as the parent of the one that took over")
	_ = link.Send(tellDone, nil, nil)
	debug.FreeOSMemory()
	return s.wait()
}

// running is a group of tasks.
type running struct{ done chan error }

func (n *node) begin(ctx context.Context, tasks []task) running {
	r := running{make(chan error, 1)}
	go func() { r.done <- runTasks(ctx, tasks) }()
	return r
}

// watch is a task that fails when the group does.
func (r running) watch(name string) task {
	return task{name, func(ctx context.Context) error {
		select {
		case err := <-r.done:
			r.done <- nil
			return err
		case <-ctx.Done():
			return nil
		}
	}}
}

// wait waits for the end of the group.
func (r running) wait() error { return <-r.done }

// supportTasks are what requests in flight rely on; they end last.
func (n *node) supportTasks() []task {
	tasks := []task{
		{"certificates that end", n.telemetry.Run},
		{"credential broker", n.broker.Run},
		{"documents", n.documents.Run},
		{"publisher", n.publisher.Run},
		{"upstream pools", n.pools.Run},
		{"health checks", upstream.NewChecker(n.upstreams, n.log).Run},
		{"ledger", n.ledger.Run},
		{"memory", n.overload.Run},
		{"session ticket keys", n.tickets.Run},
		{"ACME challenges", n.challenges.Run},
		{"revocations of replicas", func(ctx context.Context) error { return n.rulings.Run(ctx, n.shared, n.publisher.Rebuild, n.log) }},
		{"successors of what was revoked", n.reissuer().Run},
		{"names on demand", n.demand.Run},
		{"documents with names on demand", n.desired.Run},
	}
	tasks = append(tasks, n.kubeTasks()...)
	if n.stapler != nil {
		tasks = append(tasks, task{"certificate status", n.stapler.Run})
	}
	if n.hcv != nil {
		tasks = append(tasks, task{"login of the node's own Vault", n.hcv.Run})
	}
	if n.ech != nil {
		tasks = append(tasks, task{"ECH keys", n.ech.Run})
	}
	if n.access != nil {
		tasks = append(tasks, task{"access log", n.access.Run})
	}
	return tasks
}

// doorTasks are what listens beside the proxy. They tell of a drain until it is over, but
// end at once where another process has their listeners.
func (n *node) doorTasks() []task {
	tasks := []task{{"control socket", n.control.Run}}
	for _, x := range n.sides {
		tasks = append(tasks, task{x.name + " " + x.address, func(ctx context.Context) error { return n.side(ctx, x) }})
	}
	return tasks
}

// upstreams are those of the snapshot in force, nil before the first.
func (n *node) upstreams() *upstream.Set {
	if s := n.publisher.Current(); s != nil {
		return s.Upstreams
	}
	return nil
}

// frontTasks are what a signal ends first.
func (n *node) frontTasks(forced <-chan struct{}) []task {
	tasks := []task{
		{"listeners", func(ctx context.Context) error { return n.server.Run(ctx, forced) }},
		{"listeners of documents", n.declared.Run},
		{"datagrams", func(ctx context.Context) error { return n.packets.Run(ctx, forced) }},
		{"readiness", n.ready},
		{"SIGHUP", onSignal(syscall.SIGHUP, func(ctx context.Context) {
			n.log.Info("reloading")
			n.notify(n.notifier.Reloading(ctx, "reloading"))
			n.documents.Refresh()
			n.broker.Refresh()
			n.notify(n.notifier.Ready(ctx, false))
		})},
		{"SIGUSR1", onSignal(syscall.SIGUSR1, func(context.Context) {
			n.reopen()
			n.succession.tellElders(tellReopen)
		})},
		{"SIGUSR2", onSignal(syscall.SIGUSR2, func(context.Context) {
			go func() { _, _ = n.upgrade("SIGUSR2") }() // waited for at the end; it logs how it went
		})},
	}
	if n.lastGood != nil { // its last write needs the broker, which ends later
		tasks = append(tasks, task{"last known good state", n.lastGood.Run})
	}
	return tasks
}

// ready tells when the node serves, and when it does not any more.
func (n *node) ready(ctx context.Context) error {
	if waitFor(ctx, n.declared.First(), time.Minute) {
		n.banner()
		// Where an older process stays as the parent, that one is what the manager watches.
		n.notify(n.notifier.Ready(ctx, !n.succession.hasParent()))
	}
	<-ctx.Done()
	n.draining.Store(true)
	if handover.GivenBy(ctx) == nil {
		n.notify(n.notifier.Stopping(context.WithoutCancel(ctx)))
	}
	return nil
}

// notify logs what kept a service manager from being told.
func (n *node) notify(err error) {
	if err != nil {
		n.log.Warn("the service manager was not told", slog.Any("error", err))
	}
}

// reopen opens the access log anew.
func (n *node) reopen() {
	if n.access == nil {
		return
	}
	if err := n.access.Reopen(); err != nil {
		n.log.Error("reopening the access log failed", slog.Any("error", err))
	}
}
