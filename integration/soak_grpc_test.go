package integration

import (
	"bytes"
	"context"
	enc "encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const testService = "/grpc.testing.TestService/"

// framed makes a message of gRPC.
func framed(message []byte) []byte {
	return append(enc.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// field makes a field of a protocol buffer that is itself bytes.
func field(number byte, value []byte) []byte {
	return append(enc.AppendUvarint([]byte{number<<3 | 2}, uint64(len(value))), value...)
}

// number makes one that is a number.
func number(number byte, value int) []byte {
	return enc.AppendUvarint([]byte{number << 3}, uint64(value))
}

// zeroAnswer is what the suite's server sends for a payload of n bytes.
func zeroAnswer(n int) []byte { return framed(field(1, field(2, make([]byte, n)))) }

// call makes a unary call whose request and response have payloads.
func (k *soak) call(v *voice, host int, pool string) {
	tr, end := v.open(k)
	defer end()
	for range 10 {
		in, out := 1+mathrand.IntN(16<<10), 1+mathrand.IntN(64<<10)
		message := framed(append(number(2, out), field(3, field(2, k.block[:in]))...))
		req := request("POST", v.base(k.fleet.name(host))+testService+"UnaryCall", bytes.NewReader(message), "Content-Type", "application/grpc", "TE", "trailers")
		d := &deed{kind: "gRPC, unary, " + v.protocol, what: fmt.Sprintf("%d bytes for %d", in, out), pool: pool, began: time.Now()}
		resp, err := (&http.Client{Transport: tr, Timeout: patience}).Do(req)
		if err == nil {
			err = unary(d, resp, zeroAnswer(out))
		}
		k.book.done(d, err)
		if !k.running() {
			return
		}
		k.rest(wordEvery)
	}
}

// unary reads the answer to a call.
func unary(d *deed, resp *http.Response, want []byte) error {
	defer func() { _ = resp.Body.Close() }()
	d.status = resp.StatusCode
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d, grpc-status %q %q", resp.StatusCode, resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message"))
	}
	d.target = anyTarget
	body, err := io.ReadAll(resp.Body)
	d.bytes = max(resp.Request.ContentLength, 0) + int64(len(body))
	switch status := resp.Trailer.Get("Grpc-Status"); {
	case err != nil:
		return err
	case status != "0":
		return wrong("grpc-status %q %q, in the head %q", status, resp.Trailer.Get("Grpc-Message"), resp.Header.Get("Grpc-Status"))
	}
	return same(body, want)
}

// duplex is a call with messages both ways.
func (k *soak) duplex(v *voice, host int, pool string) {
	d := &deed{kind: "gRPC, both ways, " + v.protocol, what: "FullDuplexCall", pool: pool, began: time.Now()}
	k.book.done(d, k.dialogue(d, v, host))
}

func (k *soak) dialogue(d *deed, v *voice, host int) error {
	tr, end := v.open(k)
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience+4*time.Duration(k.longest)*wordEvery)
	defer cancel()
	pr, pw := io.Pipe()
	defer func() { _ = pw.Close() }()
	req := request("POST", v.base(k.fleet.name(host))+testService+"FullDuplexCall", pr, "Content-Type", "application/grpc", "TE", "trailers").WithContext(ctx)
	// A server may answer with its first message, so it has to be sent one.
	said := make(chan error, 1)
	say := func(n int) {
		_, err := pw.Write(framed(append(field(2, number(1, n)), field(3, field(2, k.block[:n/2]))...)))
		said <- err
	}
	sizes := 1 + mathrand.IntN(8<<10)
	go say(sizes)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if d.status = resp.StatusCode; resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d, grpc-status %q %q", resp.StatusCode, resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message"))
	}
	d.target = anyTarget
	for i := range k.words() {
		if i > 0 {
			sizes = 1 + mathrand.IntN(8<<10)
			go say(sizes)
		}
		want := zeroAnswer(sizes)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil {
			return err
		}
		if err := same(got, want); err != nil {
			return err
		}
		if err := <-said; err != nil {
			return err
		}
		d.bytes += int64(len(got) + sizes/2)
		if !k.running() {
			break
		}
		k.rest(wordEvery)
	}
	_ = pw.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil {
		return err
	} else if status := resp.Trailer.Get("Grpc-Status"); status != "0" || len(rest) > 0 {
		return wrong("the end: grpc-status %q, %d bytes more", status, len(rest))
	}
	return nil
}

// browse calls as browsers do.
func (k *soak) browse(v *voice) {
	tr, end := v.open(k)
	defer end()
	a, b := 1+mathrand.IntN(4<<10), 1+mathrand.IntN(4<<10)
	message := framed(append(field(2, number(1, a)), field(2, number(1, b))...))
	req := request("POST", v.base(k.fleet.name(nameWeb))+testService+"StreamingOutputCall", bytes.NewReader(message), "Content-Type", "application/grpc-web+proto")
	d := &deed{kind: "gRPC-Web, " + v.protocol, what: fmt.Sprintf("%d and %d bytes", a, b), pool: "grpc", began: time.Now()}
	resp, err := (&http.Client{Transport: tr, Timeout: patience}).Do(req)
	if err == nil {
		err = webAnswer(d, resp, append(zeroAnswer(a), zeroAnswer(b)...))
	}
	k.book.done(d, err)
}

func webAnswer(d *deed, resp *http.Response, want []byte) error {
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	d.status, d.bytes = resp.StatusCode, int64(len(body))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d, %.200q", resp.StatusCode, body)
	}
	d.target = anyTarget
	if err != nil {
		return err
	}
	end, ok := bytes.CutPrefix(body, want)
	if !ok || len(end) < 5 || end[0] != 0x80 || int(enc.BigEndian.Uint32(end[1:])) != len(end)-5 {
		return wrong("%d bytes, the last %.200q", len(body), end)
	}
	if !strings.Contains(string(end), "grpc-status:0\r\n") {
		return fmt.Errorf("the trailers say %q", end[5:])
	}
	return nil
}

// interop runs a case of gRPC's interoperability suite by grpc-go's own client.
func (k *soak) interop(i int) {
	list := grpcCases()
	name, host := list[i%len(list)], []int{nameGRPC, nameGRPCS}[i%2]
	pool := map[int]string{nameGRPC: "grpc", nameGRPCS: "grpcs"}[host]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d := &deed{kind: "gRPC, interoperability client", what: name, pool: pool, began: time.Now(), target: anyTarget}
	out, err := exec.CommandContext(ctx, tool(k.t, "grpcdev"), "-dial", k.g.tls, "-server-name", k.fleet.name(host), "-ca", k.ca, "-case", name).CombinedOutput()
	if err == nil && !strings.Contains(string(out), "passed "+name) {
		err = errors.New("it does not say that it passed")
	}
	switch {
	case err != nil && name == "cancel_after_begin" && bytes.Contains(out, []byte("got error code 0, want 1")):
		k.book.excuse(d.kind, "its client chose an answer that was there over its own cancellation, which it does by chance")
		return
	case err != nil && k.book.stopped() && bytes.Contains(out, []byte("connection refused")):
		d.target, err = "", fmt.Errorf("%w: %s", syscall.ECONNREFUSED, out)
	case err != nil:
		err = fmt.Errorf("%w: %s", err, out)
	}
	k.book.done(d, err)
}
