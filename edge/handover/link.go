package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// maxMessage is the longest message: a socket's buffer has room for several.
	maxMessage = 60 << 10
	// sendWithin is how long a message may wait for a reader that has stopped to read.
	sendWithin = 5 * time.Second
)

// Link is the conversation of two generations of a node: messages with a kind, each
// whole, in order, some with a descriptor. It ends when one of the two does.
type Link struct {
	c    *net.UnixConn
	mu   sync.Mutex // held while a message is written
	mine sync.Mutex // held while one is read
}

// Message is one message of a Link.
type Message struct {
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body,omitempty"`

	// File came along, nil for none; whoever reads the message closes it.
	File *os.File `json:"-"`
}

// Into reads the message's body.
func (m *Message) Into(v any) error {
	if err := json.Unmarshal(m.Body, v); err != nil {
		return fmt.Errorf("reading the message %q of the other process: %w", m.Kind, err)
	}
	return nil
}

// ErrClosed says that the other process has ended, or closed its end.
var ErrClosed = errors.New("the other process closed the conversation")

// newLink makes a Link of one end of a pair. The file is closed.
func newLink(f *os.File) (*Link, error) {
	defer func() { _ = f.Close() }()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("the descriptor of the conversation: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok || u.LocalAddr().Network() != "unixpacket" {
		_ = c.Close()
		return nil, fmt.Errorf("the descriptor of the conversation is of kind %s; expected one end of a pair of unix sockets that keeps messages apart", c.LocalAddr().Network())
	}
	return &Link{c: u}, nil
}

// Send sends a message, and with it a duplicate of a descriptor if with is not nil.
func (l *Link) Send(kind string, body any, with syscall.Conn) error {
	m := Message{Kind: kind}
	var err error
	if body != nil {
		if m.Body, err = json.Marshal(body); err != nil {
			return fmt.Errorf("writing the message %q: %w", kind, err)
		}
	}
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("writing the message %q: %w", kind, err)
	}
	if len(text) > maxMessage {
		return fmt.Errorf("writing the message %q: it has %d bytes; expected at most %d", kind, len(text), maxMessage)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.c.SetWriteDeadline(time.Now().Add(sendWithin))
	if with == nil {
		_, _, err = l.c.WriteMsgUnix(text, nil, nil)
	} else {
		err = l.sendWith(text, with)
	}
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		err = ErrClosed
	}
	if err != nil {
		return fmt.Errorf("sending %q to the other process: %w", kind, err)
	}
	return nil
}

// sendWith never takes a descriptor out of its owner's hands, and not through an os.File:
// that would make the socket, which the two ends share, a blocking one.
func (l *Link) sendWith(text []byte, with syscall.Conn) error {
	raw, err := with.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		_, _, failed = l.c.WriteMsgUnix(text, syscall.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, failed)
}

// Receive waits for the next message until ctx ends.
func (l *Link) Receive(ctx context.Context) (*Message, error) {
	l.mine.Lock()
	defer l.mine.Unlock()
	_ = l.c.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = l.c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	text, oob := make([]byte, maxMessage), make([]byte, syscall.CmsgSpace(4))
	n, oobn, flags, _, err := l.c.ReadMsgUnix(text, oob)
	file := received(oob[:oobn])
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
		return nil, ErrClosed
	case err != nil:
		return nil, fmt.Errorf("reading from the other process: %w", err)
	}
	m := &Message{File: file}
	if err = json.Unmarshal(text[:n], m); err == nil && flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0 {
		err = errors.New("it was cut off")
	}
	if err != nil {
		m.close()
		return nil, fmt.Errorf("reading a message of the other process: %w", err)
	}
	return m, nil
}

func (m *Message) close() {
	if m.File != nil {
		_ = m.File.Close()
	}
}

// received is the descriptor in what came beside a message, nil for none.
func received(oob []byte) *os.File {
	if len(oob) == 0 {
		return nil
	}
	list, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var file *os.File
	for i := range list {
		fds, err := syscall.ParseUnixRights(&list[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if file != nil {
				_ = syscall.Close(fd)
				continue
			}
			file = os.NewFile(uintptr(fd), "handed over")
		}
	}
	return file
}

// SyscallConn lets a Link be sent over another one.
func (l *Link) SyscallConn() (syscall.RawConn, error) { return l.c.SyscallConn() }

// LinkOf makes a Link of what came with a message, which is closed.
func LinkOf(m *Message) (*Link, error) {
	if m.File == nil {
		return nil, fmt.Errorf("the message %q came without a descriptor", m.Kind)
	}
	return newLink(m.File)
}

// Close ends the conversation.
func (l *Link) Close() error { return l.c.Close() }
