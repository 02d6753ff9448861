package kube

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// full is an address at which nobody answers: its queue is full, and the kernel drops what
// asks to connect, as a firewall does.
func full(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(os.NewSyscallError("socket", err))
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(os.NewSyscallError("getsockname", err))
	}
	in, ok := at.(*syscall.SockaddrInet4)
	if !ok {
		t.Fatalf("the address is %v", at)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(in.Port))
	for range 20 {
		c, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Fatal("the queue is not full")
	return ""
}

// TestAServerThatDropsWhatComes: who tries it gives up soon, as the one of all who wait that
// has the turn, or they would go on minutes after it is back.
func TestAServerThatDropsWhatComes(t *testing.T) {
	base, client, _, err := Config{Server: "http://" + full(t)}.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 4*dialPatient)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	resp, err := client.Do(r)
	if err == nil {
		_ = resp.Body.Close()
		t.Fatal("it answered")
	}
	if took := time.Since(began); ctx.Err() != nil || took < dialPatient/2 {
		t.Errorf("given up after %s: %v", took, err)
	}
}
