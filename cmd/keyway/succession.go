package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/keyway-edge/keyway/edge/handover"
	"github.com/keyway-edge/keyway/edge/telemetry"
	"github.com/keyway-edge/keyway/secrets"
)

// What two processes tell each other while one takes the other's place, in this order.
// The older one begins; "serving" is the moment from which the newer one is the node.
const (
	tellBegin    = "begin"    // older: a beginning, then the sockets
	tellTaken    = "taken"    // newer: some of the sockets that it took
	tellLacks    = "lacks"    // newer: some of the credentials that it has not got
	tellValues   = "values"   // newer: fingerprints of some values, where leases are given back at the end
	tellPrepared = "prepared" // newer: it could serve; a prepared
	tellFailed   = "failed"   // newer: it cannot, and why
	tellElder    = "elder"    // older, after whose datagrams are whose: the link to one that is older still
	tellGo       = "go"       // older: the files are free
	tellServing  = "serving"  // newer: it has them

	// From then on, until the older one ends.
	tellEvent  = "event"  // older: for the ledger
	tellDone   = "done"   // older: it has finished, and stays as the parent
	tellReopen = "reopen" // newer: open the access log anew
	tellNode   = "node"   // newer, to all that are older: which process is the node
)

// beginning is what a process says of itself to the one that is to take its place.
type beginning struct {
	Pid     int               `json:"pid"`
	Version string            `json:"version"`
	Values  bool              `json:"values"`  // it gives leases back at its end, but for what the other has
	Stays   bool              `json:"stays"`   // it stays as the parent when it has finished
	Tallies map[string]uint64 `json:"tallies"` // upgrades until now, by result
}

// prepared is what a process says of itself before it takes another's place.
type prepared struct {
	Pid     int    `json:"pid"`
	Version string `json:"version"`
}

// told is a failure that the other process told of.
type told struct {
	Reason string `json:"reason"`
}

// predecessor is the process whose place this one is to take.
type predecessor struct {
	link *handover.Link
	beginning
	given *handover.Sockets
}

// inherit hears from the process that started this one to take its place; nil when none did.
func inherit(ctx context.Context) (*predecessor, error) {
	link, err := handover.Inherited()
	if err != nil || link == nil {
		return nil, err
	}
	p := &predecessor{link: link}
	m, err := link.Receive(ctx)
	if err == nil && m.Kind != tellBegin {
		err = fmt.Errorf("the message %q came; expected %q", m.Kind, tellBegin)
	}
	if err == nil {
		err = m.Into(&p.beginning)
	}
	if err == nil {
		p.given, err = handover.ReceiveSockets(ctx, link)
	}
	if err != nil {
		return nil, p.failed(fmt.Errorf("taking the place of the process that started this one: %w", err))
	}
	return p, nil
}

// failed tells the other process why this one cannot take its place.
func (p *predecessor) failed(err error) error {
	if p != nil && err != nil {
		reason := err.Error()
		if len(reason) > 8<<10 {
			reason = reason[:8<<10] + "..."
		}
		_ = p.link.Send(tellFailed, told{reason}, nil) // it sees the end in any case
	}
	return err
}

// sockets are those that the node opens or takes.
func (p *predecessor) sockets() *handover.Sockets {
	if p == nil {
		return &handover.Sockets{}
	}
	return p.given
}

// succession is what a node knows of the processes before it and after it.
type succession struct {
	from *predecessor // nil for an ordinary start
	path string       // of the program that an upgrade starts
	args []string

	life context.Context //nolint:containedctx // of the node: an upgrade outlives whoever asks for it
	wg   sync.WaitGroup  // of upgrades

	mu      sync.Mutex // guards the group below
	busy    time.Time  // since when an upgrade is under way, zero for none
	over    string     // why no upgrade can begin any more
	tallies map[string]uint64
	elders  []*elderProcess
	leave   func(cause error, before func()) bool // see open

	// These are set once, before leave is called.
	to       *handover.Link   // to the process that has taken this one's place
	steward  *steward         // where this one stays as the parent
	outlived *os.ProcessState // of that process, when it has ended first; of mu
}

// begin sets a succession up.
func (s *succession) begin(from *predecessor) {
	s.from, s.tallies = from, map[string]uint64{}
	if from != nil {
		for k, v := range from.Tallies {
			s.tallies[k] = v
		}
	}
	s.path, s.args = program(), slices.Clone(os.Args)
}

// open lets upgrades begin. life is the node's; leave begins the end of its front, with
// what is to be done before anything of that is seen, unless it is ending already.
func (s *succession) open(life context.Context, leave func(cause error, before func()) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life, s.leave = life, leave
}

// endedAs is the end of this process after its place was taken: well, unless the process
// that took it has ended before, and ended badly.
func (s *succession) endedAs() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outlived == nil || s.outlived.Success() {
		return nil
	}
	status := s.outlived.ExitCode()
	if status < 0 {
		status = exitFailed
	}
	return &exitError{status, fmt.Errorf("the process that took over ended first: %s", s.outlived)}
}

// count counts an upgrade.
func (s *succession) count(result string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tallies[result]++
}

// elderProcess is an older process that has not finished yet, or stays as the parent.
type elderProcess struct {
	link  *handover.Link
	pid   int
	stays bool
	done  bool // it has finished, and stays; of succession.mu

	quiet context.CancelFunc
	ended chan struct{} // closed when nobody hears it any more
}

// elderFacts is what one process tells another of an older one.
type elderFacts struct {
	Pid   int  `json:"pid"`
	Stays bool `json:"stays"`
	Done  bool `json:"done"`
}

// takeOver is the newer process's part: when a snapshot is in force it says that it is
// prepared, and returns when the node's files are its own and it may accept. Without a
// predecessor it does nothing.
func (n *node) takeOver(ctx context.Context) error {
	p := n.succession.from
	if p == nil {
		return nil
	}
	if err := n.prepare(ctx, p); err != nil {
		return p.failed(err)
	}
	elders, err := n.hear(ctx, p)
	if err != nil {
		return p.failed(err)
	}
	if err := resumeLedger(n.ledger); err != nil {
		return p.failed(err)
	}
	if err := n.rulings.Reclaim(time.Now()); err != nil {
		return p.failed(errors.Join(err, n.ledger.Hold()))
	}
	if n.lastGood != nil {
		n.lastGood.Reclaim(ctx)
	}
	n.event(secrets.Event{Kind: "upgrade", Subject: version, Source: p.Version, Result: "handed_over", Reason: fmt.Sprintf("process %d has taken the place of process %d", os.Getpid(), p.Pid), Actor: "node"})
	n.succession.count("handed_over")
	// The oldest learns who the node is before the one in between can have ended.
	announce(elders)
	if err := p.link.Send(tellServing, nil, nil); err != nil {
		return err
	}
	n.succession.from = nil
	n.follow(append(elders, &elderProcess{link: p.link, pid: p.Pid, stays: p.Stays}))
	return nil
}

// announce tells older processes that this one is the node.
func announce(elders []*elderProcess) {
	for _, e := range elders {
		_ = e.link.Send(tellNode, prepared{os.Getpid(), version}, nil)
	}
}

// prepare waits for a snapshot and says that this process could serve.
func (n *node) prepare(ctx context.Context, p *predecessor) error {
	select {
	case <-n.publisher.Ready():
	case <-ctx.Done():
		return fmt.Errorf("waiting for the first snapshot: %w", context.Cause(ctx))
	}
	n.declared.Apply(ctx) // what documents want open was handed over too
	n.sockets.Close()     // what was handed over and is listened on no more
	if err := tellAll(p.link, tellTaken, n.sockets.Taken(), 100); err != nil {
		return err
	}
	if err := tellAll(p.link, tellLacks, n.lacks(), 50); err != nil {
		return err
	}
	if p.Values {
		values, err := n.broker.Fingerprints(ctx)
		if err == nil {
			err = tellAll(p.link, tellValues, values, 1000)
		}
		if err != nil {
			return err
		}
	}
	return p.link.Send(tellPrepared, prepared{os.Getpid(), version}, nil)
}

// tellAll sends a list in pieces.
func tellAll[T any](l *handover.Link, kind string, list []T, atOnce int) error {
	for piece := range slices.Chunk(list, atOnce) {
		if err := l.Send(kind, piece, nil); err != nil {
			return err
		}
	}
	return nil
}

// hear takes what the older process tells before it lets the files go.
func (n *node) hear(ctx context.Context, p *predecessor) ([]*elderProcess, error) {
	if err := n.sockets.ReceiveElders(ctx, p.link); err != nil {
		return nil, err
	}
	var elders []*elderProcess
	for {
		m, err := p.link.Receive(ctx)
		if err != nil {
			return nil, err
		}
		switch m.Kind {
		case tellGo:
			return elders, nil
		case tellElder:
			var f elderFacts
			link, err := handover.LinkOf(m)
			if err == nil {
				err = m.Into(&f)
			}
			if err != nil {
				return nil, err
			}
			elders = append(elders, &elderProcess{link: link, pid: f.Pid, stays: f.Stays, done: f.Done})
		default:
			return nil, fmt.Errorf("the message %q came; expected %q", m.Kind, tellGo)
		}
	}
}

// follow hears the older processes until each has ended, and tells them who the node is.
func (n *node) follow(elders []*elderProcess) {
	s := &n.succession
	s.mu.Lock()
	s.elders = slices.Clone(elders) // which forget changes while others are attended to
	s.mu.Unlock()
	n.shareLog(len(elders) > 0)
	announce(elders)
	for _, e := range elders {
		n.attend(e)
	}
}

// attend hears one older process.
func (n *node) attend(e *elderProcess) {
	ctx, quiet := context.WithCancel(context.Background()) // until settle
	e.quiet, e.ended = quiet, make(chan struct{})
	go func() { // its owner is e
		defer close(e.ended)
		for {
			m, err := e.link.Receive(ctx)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				n.forget(e)
				return
			}
			n.heard(e, m)
		}
	}()
}

func (n *node) heard(e *elderProcess, m *handover.Message) {
	switch m.Kind {
	case tellEvent:
		var event secrets.Event
		if m.Into(&event) == nil {
			n.record(event)
		}
	case tellDone:
		n.succession.mu.Lock()
		e.done = true
		n.succession.mu.Unlock()
	}
}

// forget lets go of an older process that has ended.
func (n *node) forget(e *elderProcess) {
	s := &n.succession
	s.mu.Lock()
	defer s.mu.Unlock()
	s.elders = slices.DeleteFunc(s.elders, func(o *elderProcess) bool { return o == e })
	_ = e.link.Close()
	n.shareLog(slices.ContainsFunc(s.elders, func(o *elderProcess) bool { return !o.done }))
}

// shareLog says whether other processes write to the access log too.
func (n *node) shareLog(on bool) {
	if n.access != nil {
		n.access.Share(on)
	}
}

// settle stops hearing the older processes and answers those that are left.
func (s *succession) settle() []*elderProcess {
	s.mu.Lock()
	list := slices.Clone(s.elders)
	s.mu.Unlock()
	for _, e := range list {
		e.quiet()
		<-e.ended
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.elders)
}

// staysAsParent says whether this process stays as the parent of all when another takes its
// place: one that nobody may see end, and of which there is only one.
func (n *node) staysAsParent() bool {
	s := &n.succession
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := n.settings.UpgradeStay == "on" || n.settings.UpgradeStay == "auto" && os.Getpid() == 1
	return wanted && !s.parent()
}

// hasParent says that an older process stays as the parent of this one.
func (s *succession) hasParent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parent()
}

// parent is hasParent with s.mu held.
func (s *succession) parent() bool {
	return slices.ContainsFunc(s.elders, func(e *elderProcess) bool { return e.stays })
}

// tellElders tells all older processes something.
func (s *succession) tellElders(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.elders {
		_ = e.link.Send(kind, nil, nil)
	}
}

// upgradeFacts is what metrics tell.
func (n *node) upgradeFacts() telemetry.Upgrades {
	s := &n.succession
	s.mu.Lock()
	defer s.mu.Unlock()
	f := telemetry.Upgrades{Results: map[string]uint64{"handed_over": 0, "failed": 0, "refused": 0}, Running: !s.busy.IsZero()}
	for k, v := range s.tallies {
		f.Results[k] = v
	}
	for _, e := range s.elders {
		if !e.done {
			f.Draining++
		}
	}
	f.Forwarded, f.Lost = n.sockets.Forwarded()
	return f
}
