package edge

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Opener opens and closes the listeners of documents while it serves. One goroutine calls it.
type Opener interface {
	// Open opens a listener, or has one that is open serve as l says from now on.
	Open(ctx context.Context, l *Listen) error
	// Shut lets go of the listener of an address: nobody new is taken, and who is there
	// has the grace period to finish. It returns at once.
	Shut(address string)
}

// PurposeDeclared is the purpose of the sockets that documents want.
const PurposeDeclared = "listener"

// ErrStopping says that nothing is opened any more.
var ErrStopping = errors.New("the node is stopping")

// How long after a failure a listener is tried again: from, doubled until most.
const (
	againFrom = 250 * time.Millisecond
	againMost = 15 * time.Second
)

// Declared has those listeners open that the document in force declares, whatever was open
// before. It never holds up a publication: it follows the snapshots, and a listener that
// cannot be opened stops no other.
type Declared struct {
	Publisher *Publisher
	TCP, UDP  Opener
	Log       *slog.Logger

	wake  chan struct{} // of Resume
	first chan struct{} // closed after the first pass

	mu       sync.Mutex // held through a pass, and guards the group below
	held     bool
	passed   sync.Once
	open     map[socketID]*socket
	failures uint64
}

// NewDeclared makes a Declared; Run works.
func NewDeclared(p *Publisher, tcp, udp Opener, log *slog.Logger) *Declared {
	return &Declared{Publisher: p, TCP: tcp, UDP: udp, Log: log, wake: make(chan struct{}, 1), first: make(chan struct{}), open: map[socketID]*socket{}}
}

// socketID is what can be listened on once.
type socketID struct{ network, address string }

// socket is one that the document wants, or that it wanted and that is to be closed.
type socket struct {
	listen *Listen // as it was tried last
	open   bool
	since  time.Time // of being open, or of failing
	err    error     // why it is not open
	next   time.Time // of the next try
	wait   time.Duration
}

// ListenerState is how a socket that documents want stands.
type ListenerState struct {
	Name     string    `json:"name"`
	Shared   []string  `json:"shared,omitempty"` // names of others that it serves too
	Protocol string    `json:"protocol"`
	Address  string    `json:"address"`
	State    string    `json:"state"` // open, failing; settings for one that is the settings' own
	Since    time.Time `json:"since,omitzero"`
	Reason   string    `json:"reason,omitempty"`
	Next     time.Time `json:"next_try,omitzero"`
}

// Run follows the snapshots until ctx ends. What is open then is its Opener's to close.
func (d *Declared) Run(ctx context.Context) error {
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		published := d.Publisher.published()
		d.Apply(ctx)
		again.Stop()
		if at := d.next(); !at.IsZero() {
			again.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-published:
		case <-d.wake:
		case <-again.C:
		}
	}
}

// Apply makes one pass: closes what is not wanted any more, then opens what is.
func (d *Declared) Apply(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	snap := d.Publisher.Current()
	if snap == nil || d.held {
		return
	}
	defer d.passed.Do(func() { close(d.first) })
	wanted := map[socketID]*Listen{}
	for _, l := range snap.listens {
		if l.Fixed == nil {
			wanted[socketID{l.Network(), l.Address}] = l
		}
	}
	freed := false
	for id, s := range d.open {
		if wanted[id] != nil {
			continue
		}
		delete(d.open, id)
		if s.open {
			d.opener(id).Shut(id.address)
			freed = true
			d.Log.Info("listener closed, what it has is finished", slog.String("listener", s.listen.Name()), slog.String("protocol", s.listen.Protocol), slog.String("address", id.address))
		}
	}
	now := time.Now()
	for _, l := range snap.listens { // in their order, for the log
		if id := (socketID{l.Network(), l.Address}); wanted[id] == l {
			d.attend(ctx, id, l, freed, now)
		}
	}
}

func (d *Declared) opener(id socketID) Opener {
	if id.network == "udp" {
		return d.UDP
	}
	return d.TCP
}

// attend sees to one socket that is wanted.
func (d *Declared) attend(ctx context.Context, id socketID, l *Listen, freed bool, now time.Time) {
	s := d.open[id]
	if s == nil {
		s = &socket{}
		d.open[id] = s
	}
	same := s.listen != nil && s.listen.same(l)
	s.listen = l // the snapshot before is let go of
	switch {
	case s.open && same:
		return
	case !s.open && same && !freed && now.Before(s.next):
		return
	}
	err := d.opener(id).Open(ctx, l)
	if errors.Is(err, ErrStopping) {
		return
	}
	if err != nil {
		d.failed(id, s, err, now)
		return
	}
	if !s.open {
		s.open, s.since = true, now
		d.Log.Info("listener opened", slog.String("listener", l.Name()), slog.String("protocol", l.Protocol), slog.String("address", id.address))
	}
	s.err, s.wait, s.next = nil, 0, time.Time{}
}

// failed notes that a socket could not be opened, and says so when it is news.
func (d *Declared) failed(id socketID, s *socket, err error, now time.Time) {
	d.failures++
	if s.err == nil || s.err.Error() != err.Error() {
		s.since = now
		d.Log.Error("listener cannot be opened, it is tried again until it can", slog.String("listener", s.listen.Name()), slog.String("protocol", s.listen.Protocol), slog.String("address", id.address), slog.String("reason", reasonOf(err)))
	}
	s.err = err
	s.wait = min(max(2*s.wait, againFrom), againMost)
	s.next = now.Add(s.wait)
}

// reasonOf says why a listener cannot be opened, and what to do where that is known.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return err.Error() + ": another process has the port; stop it, or choose another port"
	case errors.Is(err, syscall.EACCES):
		return err.Error() + ": ports below 1024 need the capability CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return err.Error() + ": this machine does not have the address"
	}
	return err.Error()
}

// same says whether a socket that serves l need not be told of o.
func (l *Listen) same(o *Listen) bool {
	return l.Protocol == o.Protocol && l.Streams == o.Streams && l.Name() == o.Name() && l.policy == o.policy
}

// next is when the next try is due, zero for none.
func (d *Declared) next() (at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.open {
		if !s.open && !d.held && (at.IsZero() || s.next.Before(at)) {
			at = s.next
		}
	}
	return at
}

// Hold leaves what is open as it is, until Resume: while another process is given the
// sockets nothing of them may change.
func (d *Declared) Hold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = true
}

// Resume follows the snapshots again.
func (d *Declared) Resume() {
	d.mu.Lock()
	d.held = false
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// First is closed when what the first snapshot wants was opened, or tried.
func (d *Declared) First() <-chan struct{} { return d.first }

// Passed says whether that is so.
func (d *Declared) Passed() bool {
	select {
	case <-d.first:
		return true
	default:
		return false
	}
}

// Failures is how often a listener could not be opened.
func (d *Declared) Failures() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failures
}

// States is how each socket stands that documents want, in their order.
func (d *Declared) States() []ListenerState {
	snap := d.Publisher.Current()
	if snap == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]ListenerState, 0, len(snap.listens))
	for _, l := range snap.listens {
		st := ListenerState{Name: l.Name(), Protocol: l.Protocol, Address: l.Address, State: "failing"}
		for _, x := range l.Listeners[1:] {
			st.Shared = append(st.Shared, nameOf(x))
		}
		s := d.open[socketID{l.Network(), l.Address}]
		switch {
		case l.Fixed != nil:
			st.State, st.Address = "settings", l.Fixed.Address
		case s == nil:
			st.Reason = "it is about to be opened"
		case s.open:
			st.State, st.Since = "open", s.since
		case s.err != nil:
			st.Since, st.Reason, st.Next = s.since, reasonOf(s.err), s.next
		}
		list = append(list, st)
	}
	return list
}

// Remarks lists the listeners that are not open, for operators.
func (d *Declared) Remarks() []string {
	var list []string
	for _, st := range d.States() {
		if st.State == "failing" && !st.Since.IsZero() {
			names := strings.Join(slices.Concat([]string{st.Name}, st.Shared), ", ")
			list = append(list, "listener "+names+" ("+st.Protocol+" on "+st.Address+") is not open since "+st.Since.Format(time.RFC3339)+": "+st.Reason)
		}
	}
	return list
}
