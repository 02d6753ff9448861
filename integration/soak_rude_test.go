package integration

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
)

// rude are clients that break off what they have begun. Nothing is asked of the node
// but that others do not notice, and that it keeps nothing of them.
func (k *soak) rude(list []*voice) {
	v := list[mathrand.IntN(len(list))]
	ways := []struct {
		name string
		do   func(v *voice) error
	}{
		{"in the request's head", k.halfHead},
		{"in a handshake", k.halfHandshake},
		{"in a handshake over UDP", k.halfQUIC},
		{"in a chunk of an upload", k.halfChunk},
		{"an upload", k.halfUpload},
		{"a download", k.halfDownload},
		{"before the answer", k.noAnswer},
	}
	way := ways[mathrand.IntN(len(ways))]
	// That it could begin is asked for: who is refused found nobody listening.
	if err := way.do(v); errors.Is(err, syscall.ECONNREFUSED) && !k.book.stopped() {
		k.book.wrongly("clients that break off", "%s: %v", way.name, err)
	}
	k.book.excuse("clients that break off", "the client broke off "+way.name)
}

func (k *soak) halfHead(*voice) error {
	c, err := net.Dial("tcp", k.g.proxy)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = io.WriteString(c, "GET /plain/block/1024 HTTP/1.1\r\nHost: n0.fleet.te")
	return err
}

// stingy sends so many bytes of what it is given.
type stingy struct {
	net.Conn
	left int
}

func (c *stingy) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.Conn.Write(p[:c.left])
		_ = c.Conn.Close()
		return c.left, io.ErrShortWrite
	}
	c.left -= len(p)
	return c.Conn.Write(p)
}

func (k *soak) halfHandshake(*voice) error {
	addr := []string{k.g.tls, k.tls}[mathrand.IntN(2)]
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	return tls.Client(&stingy{c, mathrand.IntN(1800)}, &tls.Config{ServerName: k.fleet.name(0), RootCAs: k.roots}).Handshake()
}

func (k *soak) halfQUIC(*voice) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+mathrand.IntN(8))*time.Millisecond)
	defer cancel()
	c, err := quic.DialAddr(ctx, k.g.tls, &tls.Config{ServerName: k.fleet.name(0), RootCAs: k.roots, NextProtos: []string{"h3"}}, patient())
	if err == nil {
		err = c.CloseWithError(0x100, "")
	}
	return err
}

func (k *soak) halfChunk(*voice) error {
	c, err := net.Dial("tcp", k.g.proxy)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = fmt.Fprintf(c, "POST /live/take HTTP/1.1\r\nHost: n0.fleet.test\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n%s", k.block[:1000])
	k.rest(50 * time.Millisecond)
	return err
}

// broken is a body that ends with an error.
type broken struct {
	io.Reader
	after time.Duration
}

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil {
		pause(nil, b.after)
		return n, errors.New("the client has had enough")
	}
	return n, nil
}

func (k *soak) halfUpload(v *voice) error {
	return k.brokenOff(v, func(base string) *http.Request {
		return request("POST", base+[]string{"/live", "/plain", "/two"}[mathrand.IntN(3)]+"/take", broken{io.LimitReader(zero{}, int64(mathrand.IntN(200<<10))), 20 * time.Millisecond})
	}, 0)
}

func (k *soak) halfDownload(v *voice) error {
	return k.brokenOff(v, func(base string) *http.Request {
		return request("GET", fmt.Sprintf("%s%s/block/%d", base, []string{"/plain", "/two", "/secure"}[mathrand.IntN(3)], mebi), nil)
	}, int64(mathrand.IntN(500<<10)))
}

func (k *soak) noAnswer(v *voice) error {
	return k.brokenOff(v, func(base string) *http.Request {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(mathrand.IntN(6000))*time.Microsecond)
		context.AfterFunc(ctx, cancel)
		return request("GET", base+"/plain/events/100", nil).WithContext(ctx)
	}, 0)
}

// brokenOff makes a request, reads so much of its answer and leaves.
func (k *soak) brokenOff(v *voice, make func(base string) *http.Request, read int64) error {
	tr, end := v.open(k)
	defer end()
	resp, err := (&http.Client{Transport: tr, Timeout: patience}).Do(make(v.base(k.fleet.name(mathrand.IntN(anyNames)))))
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, resp.Body, read)
	return resp.Body.Close()
}
