package handover

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// Variable is where a new process finds the descriptor of its Link.
const Variable = "KEYWAY_HANDOVER_FD"

// Pair makes the two ends of a conversation: a Link, and a file for the other process.
func Pair() (*Link, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a pair of sockets: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "conversation")
	l, err := newLink(os.NewFile(uintptr(fds[0]), "conversation"))
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return l, theirs, nil
}

// Start starts a program with one end of a conversation beside the standard streams, and
// nothing else of this process.
func Start(path string, args []string) (*os.Process, *Link, error) {
	l, theirs, err := Pair()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = theirs.Close() }()
	env := append(without(os.Environ()), Variable+"=3")
	p, err := os.StartProcess(path, args, &os.ProcAttr{Env: env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs}})
	if err != nil {
		_ = l.Close()
		return nil, nil, fmt.Errorf("starting the new process: %w", err)
	}
	return p, l, nil
}

func without(env []string) []string {
	var rest []string
	for _, pair := range env {
		if !strings.HasPrefix(pair, Variable+"=") {
			rest = append(rest, pair)
		}
	}
	return rest
}

// Inherited is the Link to the process that started this one to take its place, nil when
// none did. The variable that tells of it is removed, so that nobody inherits it further.
func Inherited() (*Link, error) {
	text, ok := os.LookupEnv(Variable)
	if !ok {
		return nil, nil //nolint:nilnil // an ordinary start
	}
	if err := os.Unsetenv(Variable); err != nil {
		return nil, fmt.Errorf("removing %s: %w", Variable, err)
	}
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s is %q; expected the number of a descriptor: it is set by a node that hands over, never by hand", Variable, text)
	}
	syscall.CloseOnExec(fd)
	l, err := newLink(os.NewFile(uintptr(fd), "conversation"))
	if err != nil {
		return nil, fmt.Errorf("%s is %q: %w; it is set by a node that hands over, never by hand", Variable, text, err)
	}
	if uid, err := l.peer(); err != nil || uid != os.Geteuid() {
		_ = l.Close()
		return nil, fmt.Errorf("%s is %q: the process at the other end belongs to user %d; expected this one's, %d (%w)", Variable, text, uid, os.Geteuid(), errors.Join(err))
	}
	return l, nil
}

// peer is the user of the process that made the pair.
func (l *Link) peer() (int, error) {
	raw, err := l.c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var cred *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil {
		return -1, err
	}
	return int(cred.Uid), nil
}

// AdoptOrphans makes this process the parent of those of its descendants whose parents end.
func AdoptOrphans() error {
	const setChildSubreaper = 36
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0); errno != 0 {
		return fmt.Errorf("becoming the parent of orphans: %w", errno)
	}
	return nil
}

// monotonic is the clock that service managers compare with.
func monotonic() time.Duration {
	var t syscall.Timespec
	const clockMonotonic = 1
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&t)), 0)
	return time.Duration(t.Nano())
}
