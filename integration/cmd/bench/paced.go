package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// paced is load at a constant rate, whether or not answers come: a request that finds
// no connection free waits, and its time counts from when it was due.
type paced struct {
	address, path  string
	secure, h2     bool
	conns, streams int     // streams at a time on each connection: 1 for HTTP/1.1
	rate           float64 // requests a second; 0 is as many as there are answers
	n              int
	answers        string // where the same thread answers as the origin, "" for nowhere
	unwatched      bool   // every request counts, whether or not a CPU stopped meanwhile
}

// pacedKind finds a form of paced load by the name that a command line gives it.
func pacedKind(kind, address string, rate float64, n int) (paced, bool) {
	g := paced{address: address, path: "/1k", secure: true, conns: 64, streams: 1, rate: rate, n: n}
	switch kind {
	case "h1":
	case "plain":
		g.secure = false
	case "h2":
		g.h2, g.conns, g.streams = true, 10, 16
	default:
		return paced{}, false
	}
	return g, true
}

// due is when request i is to be sent.
func (g paced) due(i int) time.Duration {
	if g.rate == 0 {
		return 0
	}
	return time.Duration(float64(i) / g.rate * float64(time.Second))
}

// wire is what a connection speaks: it writes requests, and reads answers out of the
// bytes that came, saying for each which request it is and whether it is what was asked for.
type wire interface {
	send(w io.Writer, request int) error
	read(w io.Writer, data []byte, answered func(request int, good bool)) error
}

// wire1 is HTTP/1.1, one request at a time.
type wire1 struct {
	head    []byte
	request int
	got     []byte
}

func newWire1(path string) *wire1 {
	return &wire1{head: []byte("GET " + path + " HTTP/1.1\r\nHost: bench.example.com\r\nUser-Agent: bench\r\n\r\n")}
}

func (c *wire1) send(w io.Writer, request int) error {
	c.request, c.got = request, c.got[:0]
	_, err := w.Write(c.head)
	return err
}

func (c *wire1) read(_ io.Writer, data []byte, answered func(int, bool)) error {
	c.got = append(c.got, data...)
	end := bytes.Index(c.got, []byte("\r\n\r\n"))
	if end < 0 {
		if len(c.got) > 16<<10 {
			return errors.New("an answer's head is longer than 16 KiB")
		}
		return nil
	}
	length, err := contentLength(c.got[:end+2])
	if err != nil {
		return err
	}
	if rest := end + 4 + length - len(c.got); rest > 0 {
		return nil
	} else if rest < 0 {
		return fmt.Errorf("an answer is followed by %d bytes that nobody asked for", -rest)
	}
	answered(c.request, bytes.HasPrefix(c.got, []byte("HTTP/1.1 200 ")) && length == 1024)
	return nil
}

// contentLength finds the length of a body in a head; proxies write the name as they like.
func contentLength(head []byte) (int, error) {
	const name = "content-length:"
	for line := range bytes.Lines(head) {
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			n, err := strconv.Atoi(string(bytes.TrimSpace(line[len(name):])))
			if err != nil {
				return 0, fmt.Errorf("reading the length of an answer: %w", err)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("an answer says no length: %q", head)
}

// wire2 is HTTP/2 with a fixed header section, and without a table that would have to be
// kept: it takes 200 for an answer by its first byte.
type wire2 struct {
	section []byte // of each request
	next    uint32
	streams map[uint32]*stream2
	got     []byte
	unread  int // bytes of bodies since the window was last opened
	out     []byte
}

type stream2 struct {
	request, bytes int
	good           bool
}

const (
	frameData         = 0
	frameHeaders      = 1
	frameSettings     = 4
	framePing         = 6
	flagEnd           = 1 // of a stream, or the acknowledgement of settings and pings
	flagHeaders       = 4
	window2           = 1 << 24 // octets that a connection may have in flight
	initialWindow     = 65535
	settingTable      = 1
	settingPush       = 2
	literalNotIndexed = 0x00
)

// newWire2 begins a connection: preface, settings, and a window that bodies never fill.
func newWire2(w io.Writer, path string) (*wire2, error) {
	c := &wire2{next: 1, streams: map[uint32]*stream2{}}
	c.section = []byte{0x82, 0x87} // GET, https
	for _, f := range []struct {
		index byte // in the static table of RFC 7541
		value string
	}{{1, "bench.example.com"}, {4, path}} {
		c.section = append(c.section, literalNotIndexed|f.index, byte(len(f.value)))
		c.section = append(c.section, f.value...)
	}
	settings := []byte{0, settingTable, 0, 0, 0, 0, 0, settingPush, 0, 0, 0, 0}
	out := append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(frameSettings, 0, 0, settings)...)
	out = append(out, windowUpdate(window2-initialWindow)...)
	if _, err := w.Write(out); err != nil {
		return nil, fmt.Errorf("beginning HTTP/2: %w", err)
	}
	return c, nil
}

// frame makes a frame of RFC 9113, section 4.1.
func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	f := []byte{0, byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(f, stream), payload...)
}

func windowUpdate(n uint32) []byte {
	return frame(8, 0, 0, binary.BigEndian.AppendUint32(nil, n))
}

func (c *wire2) send(w io.Writer, request int) error {
	c.streams[c.next] = &stream2{request: request}
	c.out = append(c.out[:0], 0, 0, byte(len(c.section)), frameHeaders, flagHeaders|flagEnd)
	c.out = append(binary.BigEndian.AppendUint32(c.out, c.next), c.section...)
	c.next += 2
	_, err := w.Write(c.out)
	return err
}

func (c *wire2) read(w io.Writer, data []byte, answered func(int, bool)) error {
	c.got = append(c.got, data...)
	rest := c.got
	for len(rest) >= 9 {
		size := int(rest[0])<<16 | int(rest[1])<<8 | int(rest[2])
		if len(rest) < 9+size {
			break
		}
		if err := c.frame(w, rest[3], rest[4], binary.BigEndian.Uint32(rest[5:]), rest[9:9+size], answered); err != nil {
			return err
		}
		rest = rest[9+size:]
	}
	c.got = append(c.got[:0], rest...)
	return nil
}

func (c *wire2) frame(w io.Writer, kind, flags byte, id uint32, payload []byte, answered func(int, bool)) error {
	s := c.streams[id]
	switch {
	case kind == frameData && s != nil:
		s.bytes += len(payload)
		if c.unread += len(payload); c.unread >= window2/2 {
			if _, err := w.Write(windowUpdate(uint32(c.unread))); err != nil {
				return err
			}
			c.unread = 0
		}
	case kind == frameHeaders && s != nil:
		for len(payload) > 0 && payload[0]&0xe0 == 0x20 { // a change of the table's size, to nothing
			payload = payload[1:]
		}
		s.good = len(payload) > 0 && payload[0] == 0x88 // :status 200 of the static table
	case kind == frameSettings || kind == framePing:
		if flags&flagEnd != 0 {
			return nil
		}
		if kind == frameSettings {
			payload = nil
		}
		_, err := w.Write(frame(kind, flagEnd, 0, payload))
		return err
	case kind == 8: // a window that is never in the way
		return nil
	default: // a reset, a goodbye, or something of a stream that is not
		return fmt.Errorf("a frame of type %d for stream %d: %q", kind, id, payload)
	}
	if flags&flagEnd != 0 {
		delete(c.streams, id)
		answered(s.request, s.good && s.bytes == 1024)
	}
	return nil
}

// percentile of a list in order, by nearest rank, in microseconds.
func percentile(sorted []time.Duration, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(float64(len(sorted))*p/100+0.999999) - 1
	return float64(sorted[min(max(rank, 0), len(sorted)-1)]) / float64(time.Microsecond)
}

// took is the summary of a paced run. Late is by how much the generator itself missed
// the time to send.
func took(samples []sample, stops []span, late []time.Duration, wall time.Duration) run {
	counted := calm(samples, stops)
	slices.Sort(late)
	return run{
		Requests: len(samples), Rate: float64(len(samples)) / wall.Seconds(), Counted: float64(len(counted)) / float64(max(len(samples), 1)),
		P50: percentile(counted, 50), P99: percentile(counted, 99), P999: percentile(counted, 99.9),
		Late: percentile(late, 99),
	}
}
