package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	wsConns = 32  // WebSockets at a time
	wsBytes = 128 // of a message
)

// echo is the origin of WebSockets and of uploads. It upgrades whoever asks and sends
// back the bytes that arrive, without a look at frames: what is measured is the way
// there and back. A body is read to its end before it is answered.
func echo(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accepting: %w", err)
		}
		go func() {
			defer func() { _ = c.Close() }()
			r := bufio.NewReaderSize(c, 64<<10)
			for {
				q, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				if q.Header.Get("Upgrade") != "" {
					break
				}
				if _, err := io.Copy(io.Discard, q.Body); err != nil {
					return
				}
				if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
					return
				}
			}
			// The client does not prove the key: any accept will do for it.
			if _, err := io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"); err != nil {
				return
			}
			_, _ = io.Copy(c, r)
		}()
	}
}

// websockets has n messages go to and fro on a few WebSockets over TLS, one at a time
// on each, and answers how many of them were lost.
func websockets(address string, n int) run {
	began := time.Now()
	var lost, left atomic.Int64
	var agreed atomic.Value
	left.Store(int64(n))
	var once sync.Once
	var wg sync.WaitGroup
	for range wsConns {
		wg.Go(func() {
			err := chat(address, &left, &agreed)
			if err != nil {
				once.Do(func() { fmt.Fprintln(os.Stderr, err) })
				lost.Add(1)
			}
		})
	}
	wg.Wait()
	r := run{Requests: n, Failed: int(lost.Load() + max(left.Load(), 0)), Rate: float64(n) / time.Since(began).Seconds()}
	r.TLS, _ = agreed.Load().(string)
	return r
}

// chat sends messages on one WebSocket until none are left, and stores what TLS was
// agreed on.
func chat(address string, left *atomic.Int64, agreed *atomic.Value) error {
	raw, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	c := tls.Client(raw, clientConfig(false))
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	if _, err := io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: bench.example.com\r\nApikey: bench-key\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"); err != nil {
		return fmt.Errorf("asking for the upgrade: %w", err)
	}
	agreed.Store(suite(c.ConnectionState()))
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		return errors.Join(errors.New("no upgrade"), err)
	}
	// A masked binary frame with an extended length (RFC 6455, section 5.2); the mask is 0.
	message := make([]byte, 8+wsBytes)
	message[0], message[1] = 0x82, 0xfe
	binary.BigEndian.PutUint16(message[2:], wsBytes)
	answer := make([]byte, len(message))
	for i := byte(0); left.Add(-1) >= 0; i++ {
		message[len(message)-1] = i
		if _, err := c.Write(message); err != nil {
			return fmt.Errorf("sending a message: %w", err)
		}
		if _, err := io.ReadFull(r, answer); err != nil {
			return fmt.Errorf("reading a message: %w", err)
		}
		if answer[len(answer)-1] != i {
			return errors.New("another message came back")
		}
	}
	return nil
}
