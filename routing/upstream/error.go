package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// Error is why a request got no response from its cluster. Status and Message
// are what the client is told (502, 503 or 504, and 499 when it has gone
// itself); Err is for the operator and never leaves the node.
type Error struct {
	Status  int
	Message string
	Err     error
}

// Error tells the operator's side.
func (e *Error) Error() string { return "asking the upstream: " + e.Err.Error() }

// Unwrap answers the cause.
func (e *Error) Unwrap() error { return e.Err }

// What clients are told.
const (
	messageInvalid  = "An invalid response was received from the upstream server"
	messageTimeout  = "The upstream server is timing out"
	messageNoPeer   = "failure to get a peer from the ring-balancer"
	messageNoName   = "name resolution failed"
	messageClosed   = "The upstream server is currently unavailable"
	messageClient   = "The client closed the request"
	messageInternal = "An unexpected error occurred"
)

// StatusClientGone is the status of an Error when the client left first. It is
// for logs: nobody is there to receive it.
const StatusClientGone = 499

// ErrShort says that this node, and no target, is why a connection did not come to be.
var ErrShort = errors.New("this node has no room for another connection; raise its limit of open files, or set max_connections below it")

// Causes that the code here branches on.
var (
	errNoPeer      = errors.New("no healthy target is left; check the health of the upstream's targets and their weights")
	errTimeout     = errors.New("the target did not answer in time")
	errUnwanted    = errors.New("every try was answered with a status of on_statuses")
	errClosedEarly = errors.New("the target closed the connection before its response head was complete")
)

// fault is a failed try, with what decides about another one.
type fault struct {
	err     error
	kind    faultKind
	sent    bool // bytes of the request may have reached the target
	stale   bool // on a pooled connection, before any byte of a response
	timeout bool
}

type faultKind uint8

const (
	faultConnect faultKind = iota // no usable connection came to be
	faultBroken                   // the connection broke before the response head
	faultInvalid                  // the target answered something that is not HTTP
	faultClient                   // the client's doing: its body or its leaving
	faultHere                     // this node's doing: a spool file, a field that can't be sent
)

// answer turns the last fault of a request into what its client is told.
func (f *fault) answer() error {
	switch {
	case f.kind == faultClient:
		if _, ok := errors.AsType[*exchange.BodyError](f.err); ok {
			return f.err
		}
		return &Error{StatusClientGone, messageClient, f.err}
	case f.kind == faultHere && errors.Is(f.err, ErrShort):
		return &Error{503, messageClosed, f.err}
	case f.kind == faultHere:
		return &Error{500, messageInternal, f.err}
	case f.timeout:
		return &Error{504, messageTimeout, f.err}
	default:
		return &Error{502, messageInvalid, f.err}
	}
}

// unconnected is the fault of a connection that did not come to be. Where this node is
// short of descriptors or memory its targets are as well as before.
func unconnected(err error) *fault {
	for _, short := range [...]syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, short) {
			return &fault{kind: faultHere, err: fmt.Errorf("%w: %w", ErrShort, err)}
		}
	}
	return &fault{kind: faultConnect, err: err, timeout: isTimeout(err)}
}

// isTimeout says that an error of a socket or a dial is a deadline of ours.
func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
