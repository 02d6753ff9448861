package integration

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// throughName is asked for by clients whose TLS is the target's own.
const throughName = "through.test"

// stream carries bytes to a target and back: over TCP, over TLS that ends here, or over
// TLS that is passed on.
func (k *soak) stream(how, pool string, words int) {
	d := &deed{kind: "stream, " + how, what: fmt.Sprintf("%d pieces", words), pool: pool, bare: true, began: time.Now()}
	k.book.done(d, k.carry(d, how, words))
}

func (k *soak) carry(d *deed, how string, words int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := k.dialStream(ctx, how)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(3*patience + 4*time.Duration(words)*wordEvery))
	r := bufio.NewReader(c)
	name, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	d.target = strings.TrimSpace(name)
	for range words {
		piece := k.block[:1+mathrand.IntN(32<<10)]
		if _, err := c.Write(piece); err != nil {
			return err
		}
		got := make([]byte, len(piece))
		if _, err := io.ReadFull(r, got); err != nil {
			return err
		}
		d.bytes += int64(2 * len(got))
		if err := same(got, piece); err != nil {
			return err
		}
		if !k.running() {
			break
		}
		if words > 1 {
			k.rest(wordEvery)
		}
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	if rest, err := io.ReadAll(r); err != nil {
		return err
	} else if len(rest) > 0 {
		return wrong("%d bytes too many", len(rest))
	}
	return nil
}

func (k *soak) dialStream(ctx context.Context, how string) (net.Conn, error) {
	switch how {
	case "TLS that ends here":
		return k.shake(ctx, k.tls, k.fleet.name(mathrand.IntN(anyNames)), "mqtt")
	case "TLS passed on":
		return k.shake(ctx, k.tls, throughName, "mqtt")
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", k.tcp)
}

// questions is a session of questions, each of which has to be answered unless its
// target died; those that find nobody are asked again.
func (k *soak) questions(n int) {
	d := &deed{kind: "stream, UDP", what: fmt.Sprintf("%d questions", n), pool: "udp", bare: true, began: time.Now()}
	err := k.interview(d, n)
	k.book.done(d, err)
}

func (k *soak) interview(d *deed, n int) error {
	c, err := net.Dial("udp", k.udp)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	buf := make([]byte, 65535)
	target, last := "", time.Now()
	var before []byte // a question that was asked more than once: an answer may still come
	for range n {
		question := append(fmt.Appendf(nil, "%s ", k.next()), k.block[:mathrand.IntN(1200)]...)
		twice := false
		for try := 0; ; try++ {
			asked := time.Now()
			if _, err := c.Write(question); err != nil {
				return err
			}
			n, err := k.answer(c, buf, before, func() bool { return k.book.missed("udp", target, last) })
			if err == nil {
				name, text, _ := bytes.Cut(buf[:n], []byte("\n"))
				if !bytes.Equal(text, question) {
					return wrong("%.40q came back for %.40q", text, question)
				}
				d.bytes += int64(2 * len(question))
				target, last = string(name), time.Now()
				break
			}
			if k.book.stopped() && (target == "" || asked.Sub(last) > 900*time.Millisecond) {
				// A node that stops begins no session, and ends those that are silent for a second.
				return fmt.Errorf("no session: %w", syscall.ECONNREFUSED)
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) || try == 9 || !k.book.missed("udp", target, last) {
				return fmt.Errorf("question %d to %q, last answered %s: %w", try+1, target, clock(last), err)
			}
			k.book.excuse(d.kind, "a datagram was lost with its target")
			target, twice = "", true
		}
		if !k.running() {
			break
		}
		if twice {
			before = question
		}
		k.rest(wordEvery)
	}
	return nil
}

// answer waits for a datagram that does not answer the question before: two seconds
// where one may be lost, else for as long as a client has patience.
func (k *soak) answer(c net.Conn, buf, before []byte, missed func() bool) (int, error) {
	for at := time.Now(); ; {
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := c.Read(buf)
		switch {
		case err == nil && before != nil && bytes.HasSuffix(buf[:n], before):
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Since(at) < patience && !missed() && !k.book.stopped():
		default:
			return n, err
		}
	}
}
