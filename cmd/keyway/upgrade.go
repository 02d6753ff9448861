package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyway-edge/keyway/edge/control"
	"github.com/keyway-edge/keyway/edge/handover"
	"github.com/keyway-edge/keyway/secrets"
)

// serveWithin is how long a new process may take for the node's files once it is prepared.
// Nobody reads datagrams meanwhile.
const serveWithin = 5 * time.Second

// endWithin is how long a new process that fails may take to end by itself.
const endWithin = 2 * time.Second

// upgraded is what an upgrade came to.
type upgraded struct {
	Pid        int           `json:"pid"`
	Version    string        `json:"version"`
	OldPid     int           `json:"old_pid"`
	OldVersion string        `json:"old_version"`
	Took       time.Duration `json:"took_ns"`
}

// program is the path that an upgrade starts: where this program was found, and not what
// links there led to by then, for it may be the link that is changed.
func program() string {
	self, err := os.Executable() // read at the start; says nothing of what is there now
	if err != nil {
		self = ""
	}
	called, err := exec.LookPath(os.Args[0])
	if err != nil {
		return self
	}
	if called, err = filepath.Abs(called); err != nil {
		return self
	}
	a, errA := os.Stat(self)
	b, errB := os.Stat(called)
	if self == "" || errA == nil && errB == nil && os.SameFile(a, b) {
		return called
	}
	return self
}

// upgrade has a new process take this one's place, and returns when it has, or when it
// will not.
func (n *node) upgrade(actor string) (upgraded, error) {
	s := &n.succession
	s.mu.Lock()
	ctx, err := s.life, s.refuse()
	if err == nil {
		s.busy = time.Now()
		s.wg.Add(1)
	} else {
		s.tallies["refused"]++
	}
	s.mu.Unlock()
	if err != nil {
		n.log.Warn("upgrade refused", slog.String("actor", actor), slog.Any("error", err))
		n.event(secrets.Event{Kind: "upgrade", Subject: version, Result: "refused", Reason: err.Error(), Actor: actor})
		return upgraded{}, err
	}
	defer s.wg.Done()
	began := time.Now()
	n.log.Info("upgrade asked for", slog.String("actor", actor), slog.String("program", s.path))
	n.event(secrets.Event{Kind: "upgrade", Subject: version, Result: "asked", Actor: actor})
	n.notify(n.notifier.Reloading(ctx, "upgrading"))
	done, err := n.replaceMe(ctx, actor)
	if err != nil {
		s.count("failed")
		n.log.Error("upgrade failed: this process serves on", slog.String("actor", actor), slog.Any("error", err))
		n.event(secrets.Event{Kind: "upgrade", Subject: version, Result: "failed", Reason: err.Error(), Actor: actor, Took: time.Since(began)})
		n.notify(n.notifier.Ready(ctx, false))
	}
	s.mu.Lock()
	s.busy = time.Time{}
	s.mu.Unlock()
	done.Took = time.Since(began)
	return done, err
}

// refuse says why no upgrade can begin now. s.mu is held.
func (s *succession) refuse() error {
	switch {
	case s.over != "":
		return errors.New(s.over)
	case !s.busy.IsZero():
		return fmt.Errorf("an upgrade is under way for %s: wait for its end", time.Since(s.busy).Truncate(time.Millisecond))
	case s.leave == nil:
		return errors.New("the node is still starting: wait until it is ready")
	}
	return nil
}

// finish has no upgrade begin any more, and waits for the end of one that is under way.
func (s *succession) finish(why string) {
	s.mu.Lock()
	if s.over == "" {
		s.over = why
	}
	s.mu.Unlock()
	s.wg.Wait()
	for _, e := range s.settle() {
		_ = e.link.Close()
	}
}

// attempt is one try to have a new process take over.
type attempt struct {
	n    *node
	p    *os.Process
	pid  int
	link *handover.Link
	prepared
	taken     map[handover.Socket]bool
	lacks     []lack
	values    map[string]bool
	datagrams *handover.Datagrams
	elders    []*elderProcess
	held      bool // the files are free
	stays     bool
	ending    bool // the new process said that it fails
}

func (n *node) replaceMe(ctx context.Context, actor string) (upgraded, error) {
	s := &n.succession
	if n.lastGood != nil { // what is newest is what the new process begins with
		n.lastGood.Flush(ctx)
	}
	p, link, err := handover.Start(s.path, s.args)
	if err != nil {
		return upgraded{}, fmt.Errorf("%s: %w", s.path, err)
	}
	a := &attempt{n: n, p: p, pid: p.Pid, link: link, taken: map[handover.Socket]bool{}, values: map[string]bool{}, stays: n.staysAsParent()}
	wait, cancel := context.WithTimeoutCause(ctx, n.settings.UpgradeTimeout, fmt.Errorf("the new process was not prepared within %s (setting upgrade_timeout)", n.settings.UpgradeTimeout))
	defer cancel()
	n.declared.Hold() // what is handed over stays what it is
	if err = a.present(); err == nil {
		err = a.await(wait, tellPrepared)
	}
	if err == nil {
		err = n.better(a.lacks)
	}
	if err != nil {
		return upgraded{}, a.undo(err)
	}
	n.log.Info("the new process is prepared", slog.Int("pid", a.pid), slog.String("version", a.Version))
	n.event(secrets.Event{Kind: "upgrade", Subject: a.Version, Source: version, Result: "ready", Reason: fmt.Sprintf("process %d", a.pid), Actor: actor})
	quick, cancel := context.WithTimeoutCause(ctx, serveWithin, fmt.Errorf("the new process did not take the node's files within %s", serveWithin))
	defer cancel()
	if err = a.entrust(quick); err == nil {
		err = a.await(quick, tellServing)
	}
	if err != nil {
		return upgraded{}, a.undo(err)
	}
	if !a.complete(ctx) {
		return upgraded{}, a.undo(errors.New("the node began to stop meanwhile"))
	}
	return upgraded{Pid: a.pid, Version: a.Version, OldPid: os.Getpid(), OldVersion: version}, nil
}

// present tells the new process what this one is, and gives it the sockets.
func (a *attempt) present() error {
	s := &a.n.succession
	s.mu.Lock()
	b := beginning{Pid: os.Getpid(), Version: version, Values: a.n.settings.RevokeAtStop, Stays: a.stays, Tallies: s.tallies}
	err := a.link.Send(tellBegin, b, nil)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return a.n.sockets.SendTo(a.link)
}

// await waits until the new process says what is expected.
func (a *attempt) await(ctx context.Context, kind string) error {
	for {
		m, err := a.link.Receive(ctx)
		if err != nil {
			return err
		}
		switch m.Kind {
		case kind:
			if kind == tellPrepared {
				return m.Into(&a.prepared)
			}
			return nil
		case tellTaken:
			var list []handover.Socket
			if err := m.Into(&list); err != nil {
				return err
			}
			for _, s := range list {
				a.taken[s] = true
			}
		case tellLacks:
			var list []lack
			if err := m.Into(&list); err != nil {
				return err
			}
			a.lacks = append(a.lacks, list...)
		case tellValues:
			var list []string
			if err := m.Into(&list); err != nil {
				return err
			}
			for _, v := range list {
				a.values[v] = true
			}
		case tellFailed:
			var f told
			if err := m.Into(&f); err != nil {
				return err
			}
			a.ending = true
			return fmt.Errorf("the new process says: %s", f.Reason)
		default:
			return fmt.Errorf("the new process says %q; expected %q", m.Kind, kind)
		}
	}
}

// entrust leaves the node's files and datagrams to the new process. This one accepts on.
func (a *attempt) entrust(ctx context.Context) error {
	n := a.n
	a.held = true
	if n.lastGood != nil {
		n.lastGood.Release(ctx)
	}
	n.rulings.Release()
	var err error
	if a.datagrams, err = n.sockets.Entrust(a.link, a.taken); err != nil {
		return err
	}
	a.elders = n.succession.settle()
	for _, e := range a.elders {
		if err := a.link.Send(tellElder, elderFacts{e.pid, e.stays, e.done}, e.link); err != nil {
			return err
		}
	}
	if err := n.ledger.Hold(); err != nil {
		return fmt.Errorf("closing the ledger: %w", err)
	}
	return a.link.Send(tellGo, nil, nil)
}

// undo ends the new process and has everything as it was before.
func (a *attempt) undo(cause error) error {
	n := a.n
	defer n.declared.Resume()
	_ = a.link.Close()
	ended := make(chan *os.ProcessState, 1)
	go func() {
		state, _ := a.p.Wait()
		ended <- state
	}()
	patience := time.Duration(0)
	if a.ending || errors.Is(cause, handover.ErrClosed) { // its status says more than a signal
		patience = endWithin
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var state *os.ProcessState
	select {
	case state = <-ended:
	case <-timer.C:
		_ = a.p.Kill()
		state = <-ended
	}
	if state != nil && state.ExitCode() > 0 {
		cause = fmt.Errorf("%w (it ended with status %d)", cause, state.ExitCode())
	}
	if !a.held {
		return cause
	}
	if a.elders == nil {
		a.elders = n.succession.settle()
	}
	if a.datagrams != nil {
		a.datagrams.Undo()
	}
	n.follow(a.elders)
	if err := resumeLedger(n.ledger); err != nil {
		cause = errors.Join(cause, err)
	}
	if err := n.rulings.Reclaim(time.Now()); err != nil {
		cause = errors.Join(cause, err)
	}
	if n.lastGood != nil {
		n.lastGood.Reclaim(context.Background())
	}
	return cause
}

// complete makes this process the older one: what it has is finished, nothing new begins.
// It answers false, and does nothing, where the node is ending for another reason.
func (a *attempt) complete(ctx context.Context) bool {
	n, s := a.n, &a.n.succession
	if len(a.values) > 0 {
		if err := n.broker.Spare(ctx, a.values); err != nil {
			n.log.Warn("leases that the new process uses may be given back", slog.Any("error", err))
		}
	}
	first := s.leave(&handover.Given{Pid: a.pid, Taken: a.taken}, func() {
		a.datagrams.Keep()
		n.shareLog(true)
		a.follow()
		go n.listenToSuccessor(context.WithoutCancel(ctx), a.link) // its owner is the process
		if err := n.ledger.Divert(func(e secrets.Event) error { return a.link.Send(tellEvent, e, nil) }); err != nil {
			n.log.Error("events could not be given to the new process", slog.Any("error", err))
		}
		n.log.Info("a new process has taken over: this one finishes what it has", slog.Int("pid", a.pid), slog.String("version", a.Version), slog.Duration("grace", n.settings.Grace))
	})
	if first && a.taken[n.control.Socket()] {
		n.control.Leave() // who hears of the upgrade and asks again, asks the new process
	}
	return first
}

// follow makes this process one that has a successor, and waits for that one's end.
func (a *attempt) follow() {
	s := &a.n.succession
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = fmt.Sprintf("process %d has taken this one's place, which finishes what it has: ask that one", a.pid)
	s.elders, s.to = nil, a.link
	for _, e := range a.elders {
		_ = e.link.Close()
	}
	if a.stays {
		s.steward = newSteward(a.pid, a.n.log)
		_ = a.p.Release() // the steward waits for all
		return
	}
	go func() { // the new one may end first
		state, err := a.p.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if err == nil {
			s.outlived = state
		}
	}()
}

// listenToSuccessor hears the process that is the node now, until both have ended.
func (n *node) listenToSuccessor(ctx context.Context, link *handover.Link) {
	st := n.succession.steward
	for {
		m, err := link.Receive(ctx)
		if err != nil {
			break
		}
		switch m.Kind {
		case tellReopen:
			n.reopen()
		case tellNode:
			var p prepared
			if st != nil && m.Into(&p) == nil {
				st.follow(p.Pid)
			}
		}
	}
	// The node has ended, and nobody writes the ledger: what is left to tell is written here.
	if err := resumeLedger(n.ledger); err == nil {
		n.log.Warn("the process that took over has ended before this one has finished")
	}
}

// upgradeCommand asks a running node to upgrade itself.
func (c *cli) upgradeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "upgrade", Short: "Have the program that is installed now take the place of the running one", Args: cobra.NoArgs,
		Long: "Have the program that is installed now, at the path that the running one was started from, take its place\n" +
			"without losing a connection: see docs/upgrade.md. Returns when the new process serves, or says why it does not;\n" +
			"then the running one serves on as before.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := c.node()
			if err != nil {
				return err
			}
			n.Patient(0)
			var u upgraded
			if err := n.Act(cmd.Context(), control.Action{Do: "upgrade"}, &u); err != nil {
				return err
			}
			if c.asJSON {
				return c.print(u, "", nil)
			}
			_, err = fmt.Fprintf(c.out, "process %d (version %s) has taken the place of process %d (version %s) after %s\n", u.Pid, u.Version, u.OldPid, u.OldVersion, u.Took.Truncate(time.Millisecond))
			return err
		},
	}
	c.settingFlags(cmd, "data_dir")
	return cmd
}
