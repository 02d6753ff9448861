package edge

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
)

// freeAddress is one of loopback on which nobody listens, and that is given to nobody else
// until the test ends. Its port is below those that systems give to clients and to whoever
// asks for any.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		syscall.CloseOnExec(fd)
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(10_000+rand.IntN(20_000)))
		if syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}) != nil {
			_ = syscall.Close(fd)
			continue
		}
		if runtime.GOOS != "linux" { // elsewhere nobody could listen beside it
			_ = syscall.Close(fd)
			return at.String()
		}
		// A socket that has the address and does not listen is in the way of all that ask for
		// one, but not of who names it and lets others use it too, as listeners of Go do.
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Close(fd) })
		return at.String()
	}
	t.Fatal("no port is free")
	return ""
}

// TestFreeAddress: what is free stays so for the test, also after somebody listened there.
func TestFreeAddress(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("addresses are not kept here")
	}
	at := netip.MustParseAddrPort(freeAddress(t))
	for range 3 {
		if !refused(at.String()) {
			t.Fatal("somebody listens")
		}
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("it is free for another freeAddress: %v", err)
		}
		_ = syscall.Close(fd)
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	}
}
