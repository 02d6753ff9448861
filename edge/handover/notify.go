package handover

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// Notifier tells a service manager how a process does (sd_notify(3)). One without a
// manager to tell does nothing.
type Notifier struct {
	address string // of its socket, "" for none; "@..." for one without a file
	pid     int
}

// NewNotifier makes a Notifier for the manager that the environment names.
func NewNotifier() *Notifier { return &Notifier{os.Getenv("NOTIFY_SOCKET"), os.Getpid()} }

// Ready says that the process serves. main makes it the process that the manager watches.
func (n *Notifier) Ready(ctx context.Context, main bool) error {
	if main {
		return n.tell(ctx, "READY=1", fmt.Sprintf("MAINPID=%d", n.pid), "STATUS=serving")
	}
	return n.tell(ctx, "READY=1", "STATUS=serving")
}

// Reloading says that the process reads its configuration again, or is about to be
// replaced; Ready ends that.
func (n *Notifier) Reloading(ctx context.Context, what string) error {
	return n.tell(ctx, "RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", monotonic()/time.Microsecond), "STATUS="+what)
}

// Stopping says that the process ends.
func (n *Notifier) Stopping(ctx context.Context) error {
	return n.tell(ctx, "STOPPING=1", "STATUS=finishing what is under way")
}

func (n *Notifier) tell(ctx context.Context, lines ...string) error {
	if n == nil || n.address == "" {
		return nil
	}
	if n.address[0] != '/' && n.address[0] != '@' {
		return fmt.Errorf("NOTIFY_SOCKET is %q; expected a path, or @ and a name", n.address)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixgram", n.address)
	if err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write([]byte(strings.Join(lines, "\n") + "\n")); err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	return nil
}
