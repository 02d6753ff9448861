package integration

import (
	"bufio"
	wire "encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// login logs in over TCP with the password that is sent, as an upstream does: the
// start and the clear-text password of PostgreSQL's protocol, version 3.
func (p *postgres) login(name, password string) error {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", p.port), 5*time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	body := wire.BigEndian.AppendUint32(nil, 3<<16)
	body = append(body, "user\x00"+name+"\x00database\x00postgres\x00\x00"...)
	if _, err := c.Write(append(wire.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)); err != nil {
		return err
	}
	r := bufio.NewReader(c)
	for {
		kind, text, err := message(r)
		switch {
		case err != nil:
			return err
		case kind == 'E':
			return fmt.Errorf("refused: %s", strings.ReplaceAll(string(text), "\x00", " "))
		case kind != 'R' || len(text) < 4:
			return fmt.Errorf("unexpected message %q", kind)
		}
		switch wire.BigEndian.Uint32(text) {
		case 0:
			_, _ = c.Write([]byte{'X', 0, 0, 0, 4}) // the end, or the server logs a loss
			return nil
		case 3:
			out := append([]byte{'p'}, wire.BigEndian.AppendUint32(nil, uint32(len(password)+5))...)
			if _, err := c.Write(append(out, password+"\x00"...)); err != nil {
				return err
			}
		default:
			return errors.New("the server wants another kind of login than a clear-text password")
		}
	}
}

// message reads one message of the server.
func message(r *bufio.Reader) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := wire.BigEndian.Uint32(head[1:])
	if n < 4 || n > 1<<16 {
		return 0, nil, fmt.Errorf("a message of %d bytes", n)
	}
	body = make([]byte, n-4)
	_, err = io.ReadFull(r, body)
	return head[0], body, err
}
