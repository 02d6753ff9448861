package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
)

// elsewhere skips what Linux alone has; there its failure is one.
func elsewhere(t *testing.T, err error) {
	t.Helper()
	if runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// ends are the two ends of a conversation.
func ends(t *testing.T) (older, newer *Link) {
	t.Helper()
	older, f, err := Pair()
	if err != nil {
		elsewhere(t, err)
	}
	if newer, err = newLink(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = older.Close()
		_ = newer.Close()
	})
	return older, newer
}

func listen(t *testing.T, s *Sockets, purpose, address string) net.Listener {
	t.Helper()
	l, err := s.Listen(t.Context(), purpose, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// given hands the sockets of one over to another.
func given(t *testing.T, from *Sockets) *Sockets {
	t.Helper()
	a, b := ends(t)
	if err := from.SendTo(a); err != nil {
		t.Fatal(err)
	}
	s, err := ReceiveSockets(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// A listener goes over with whoever waits in its queue, and the older process's end of it
// changes nothing.
func TestQueueGoesOver(t *testing.T) {
	var old Sockets
	l := listen(t, &old, "proxy", "127.0.0.1:0")
	address := l.Addr().String()
	waits, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = waits.Close() }()
	fresh := given(t, &old)
	taken := listen(t, fresh, "proxy", "127.0.0.1:0")
	if taken.Addr().String() != address {
		t.Fatalf("the listener is at %s, want %s", taken.Addr(), address)
	}
	if got := fresh.Taken(); len(got) != 1 || got[0] != (Socket{"tcp", "127.0.0.1:0", "proxy"}) {
		t.Errorf("taken: %v", got)
	}
	_ = l.Close()
	c, err := taken.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "hello")
	_ = c.Close()
	if text, err := io.ReadAll(waits); err != nil || string(text) != "hello" {
		t.Errorf("%q, %v", text, err)
	}
}

// Sockets are found by their names, or by where they are bound; what nobody claims is closed.
func TestSocketsAreFoundByName(t *testing.T) {
	var old Sockets
	a, b := listen(t, &old, "proxy", "127.0.0.1:0"), listen(t, &old, "status", "127.0.0.1:0")
	gone := listen(t, &old, "admin", "127.0.0.1:0")
	_ = gone.Close() // not handed over
	fresh := given(t, &old)
	if len(fresh.Given()) != 2 {
		t.Errorf("given: %v", fresh.Given())
	}
	// The same purpose and address, then the address as it is bound, for something else.
	if got := listen(t, fresh, "status", "127.0.0.1:0"); got.Addr().String() != b.Addr().String() {
		t.Errorf("status is at %s, want %s", got.Addr(), b.Addr())
	}
	if got := listen(t, fresh, "proxy-tls", a.Addr().String()); got.Addr().String() != a.Addr().String() {
		t.Errorf("it is at %s, want %s", got.Addr(), a.Addr())
	}
	third := listen(t, fresh, "proxy", "127.0.0.1:0")
	if third.Addr().String() == a.Addr().String() || third.Addr().String() == b.Addr().String() {
		t.Error("a socket was given twice")
	}
	for _, c := range []struct {
		bound, address string
		same           bool
	}{
		{"[::]:8443", ":8443", true},
		{"[::]:8443", "[::]:8443", true},
		{"127.0.0.1:80", "127.0.0.1:80", true},
		{"127.0.0.1:80", "127.0.0.1:0", false},
		{"0.0.0.0:80", ":80", false},
		{"127.0.0.1:80", "localhost:80", false},
		{"[::1]:80", "[0:0::1]:80", true},
		{"127.0.0.1:80", "127.0.0.1:81", false},
		{"/a/b.sock", "/a/b.sock", true},
	} {
		if got := sameAddress(c.bound, c.address); got != c.same {
			t.Errorf("%s and %s: %v", c.bound, c.address, got)
		}
	}
}

// A manifest that is not true is refused, with what is wrong.
func TestManifestIsHeldAgainstSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	at := l.Addr().String()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, x := range []struct {
		name string
		send func(l *Link) error
		want string
	}{
		{"nothing", func(k *Link) error { return k.Send(kindSocket, entry{Socket{"tcp", at, "proxy"}, at}, nil) }, "no descriptor came with it"},
		{"a file", func(k *Link) error { return k.Send(kindSocket, entry{Socket{"tcp", at, "proxy"}, at}, f) }, "what came is no such socket"},
		{"another address", func(k *Link) error {
			return k.Send(kindSocket, entry{Socket{"tcp", "127.0.0.1:1", "proxy"}, "127.0.0.1:1"}, l.(*net.TCPListener))
		}, "expected tcp 127.0.0.1:1"},
		{"a connection", func(k *Link) error {
			return k.Send(kindSocket, entry{Socket{"tcp", at, "proxy"}, c.LocalAddr().String()}, c.(*net.TCPConn))
		}, "nobody listens on it"},
		{"another network", func(k *Link) error {
			return k.Send(kindSocket, entry{Socket{"udp", at, "proxy"}, at}, l.(*net.TCPListener))
		}, "no such socket"},
		{"an unknown network", func(k *Link) error {
			return k.Send(kindSocket, entry{Socket{"sctp", at, "proxy"}, at}, l.(*net.TCPListener))
		}, "nothing is known of this network"},
		{"too few", func(k *Link) error { return k.Send(kindAll, 2, nil) }, "0 sockets came; the manifest has 2"},
		{"another message", func(k *Link) error { return k.Send("hello", nil, nil) }, `the message "hello" came`},
		{"no end", func(k *Link) error { return k.Close() }, "closed the conversation"},
	} {
		t.Run(x.name, func(t *testing.T) {
			older, newer := ends(t)
			if err := x.send(older); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if s, err := ReceiveSockets(ctx, newer); err == nil || !strings.Contains(err.Error(), x.want) {
				t.Errorf("%v, %v; want an error that says %q", s, err, x.want)
			}
		})
	}
}

// Messages stay whole and in order; one that is too long is refused; a reader that is
// told to stop leaves what comes next to the next one.
func TestLinkKeepsMessages(t *testing.T) {
	a, b := ends(t)
	for i := range 3 {
		if err := a.Send("n", i, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Send("n", strings.Repeat("x", maxMessage), nil); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("a message that is too long: %v", err)
	}
	for i := range 3 {
		m, err := b.Receive(t.Context())
		var n int
		if err != nil || m.Into(&n) != nil || n != i {
			t.Fatalf("message %d: %v %v", i, n, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	if _, err := b.Receive(ctx); !errors.Is(err, why) {
		t.Errorf("%v, want the cause", err)
	}
	_ = a.Send("later", nil, nil)
	if m, err := b.Receive(t.Context()); err != nil || m.Kind != "later" {
		t.Errorf("%v, %v", m, err)
	}
	_ = a.Close()
	if _, err := b.Receive(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
	if err := b.Send("x", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
}

// NOTIFY_SOCKET may be a path, a name without a file, or nothing.
func TestNotify(t *testing.T) {
	dir, err := os.MkdirTemp("", "n")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for _, address := range []string{filepath.Join(dir, "s"), "@keyway-" + filepath.Base(dir)} {
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
		if err != nil {
			elsewhere(t, err)
		}
		n := &Notifier{address, 7}
		if err := errors.Join(n.Ready(t.Context(), true), n.Ready(t.Context(), false), n.Stopping(t.Context()), n.Reloading(t.Context(), "x")); err != nil {
			t.Error(err)
		}
		for _, want := range []string{"READY=1\nMAINPID=7\nSTATUS=serving\n", "READY=1\nSTATUS=serving\n", "STOPPING=1\nSTATUS=finishing what is under way\n", "RELOADING=1\nMONOTONIC_USEC="} {
			buf := make([]byte, 1024)
			k, err := c.Read(buf)
			if err != nil || !strings.HasPrefix(string(buf[:k]), want) {
				t.Errorf("%q, %v; want %q", buf[:k], err, want)
			}
		}
		_ = c.Close()
	}
	if err := (&Notifier{}).Ready(t.Context(), true); err != nil {
		t.Errorf("without a manager: %v", err)
	}
	if err := (&Notifier{address: "relative"}).Ready(t.Context(), true); err == nil || !strings.Contains(err.Error(), "expected a path") {
		t.Errorf("%v", err)
	}
	if err := (&Notifier{address: filepath.Join(dir, "nobody")}).Ready(t.Context(), true); err == nil {
		t.Error("nobody was told, and that is no error")
	}
}

// reading reads a socket of streams until it is closed.
func reading(t *testing.T, u *UDP) <-chan string {
	t.Helper()
	got := make(chan string, 100)
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := u.ReadFromUDPAddrPort(buf)
			if err != nil {
				close(got)
				return
			}
			got <- fmt.Sprintf("%s from %d", buf[:n], from.Port())
		}
	}()
	return got
}

func expect(t *testing.T, got <-chan string, want string) {
	t.Helper()
	select {
	case s := <-got:
		if s != want {
			t.Errorf("%q came, want %q", s, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("%q does not come", want)
	}
}

func packet(t *testing.T, s *Sockets, purpose, address string) *UDP {
	t.Helper()
	u, err := s.ListenPacket(t.Context(), purpose, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	return u
}

// after hands datagrams over from one to the next.
func after(t *testing.T, old, fresh *Sockets) *Datagrams {
	t.Helper()
	a, b := ends(t)
	taken := map[Socket]bool{}
	for _, s := range fresh.Taken() {
		taken[s] = true
	}
	failed := make(chan error, 1)
	go func() { failed <- fresh.ReceiveElders(t.Context(), b) }()
	d, err := old.Entrust(a, taken)
	if err = errors.Join(err, <-failed); err != nil {
		t.Fatal(err)
	}
	return d
}

// Datagrams of an older process's clients reach it through those that came after it, also
// when the one in between has ended; those of others stay; a client that is forgotten is
// for who reads the socket.
func TestDatagramsOfClients(t *testing.T) {
	var first Sockets
	u1 := packet(t, &first, "stream-udp", "127.0.0.1:0")
	at := u1.LocalAddr().String()
	dial := func() (net.Conn, int) {
		c, err := net.Dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c, c.LocalAddr().(*net.UDPAddr).Port
	}
	a, portA := dial()
	b, portB := dial()
	say := func(c net.Conn, text string) {
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	addr := func(port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))
	}
	u1.Clients = func() []netip.AddrPort { return []netip.AddrPort{addr(portA)} }
	got1 := reading(t, u1)
	say(a, "one")
	expect(t, got1, fmt.Sprintf("one from %d", portA))

	second := given(t, &first)
	u2 := packet(t, second, "stream-udp", "127.0.0.1:0")
	d := after(t, &first, second)
	say(a, "waits") // nobody reads now
	d.Keep()
	got2 := reading(t, u2)
	expect(t, got1, fmt.Sprintf("waits from %d", portA))
	say(b, "new")
	expect(t, got2, fmt.Sprintf("new from %d", portB))
	u2.Clients = func() []netip.AddrPort { return []netip.AddrPort{addr(portB)} }

	third := given(t, second)
	u3 := packet(t, third, "stream-udp", "127.0.0.1:0")
	d = after(t, second, third)
	d.Keep()
	got3 := reading(t, u3)
	say(a, "still")
	expect(t, got1, fmt.Sprintf("still from %d", portA))
	say(b, "mine")
	expect(t, got2, fmt.Sprintf("mine from %d", portB))
	_ = u2.Close()
	for range got2 {
	}
	say(a, "and on")
	expect(t, got1, fmt.Sprintf("and on from %d", portA))
	// Of the process that has ended, clients are for who reads.
	for until := time.Now().Add(5 * time.Second); ; {
		say(b, "again")
		select {
		case s := <-got3:
			if s != fmt.Sprintf("again from %d", portB) {
				t.Fatal(s)
			}
		case <-time.After(20 * time.Millisecond):
			if time.Now().Before(until) {
				continue
			}
			t.Fatal("datagrams of a process that has ended are lost")
		}
		break
	}
	u1.Forget(addr(portA))
	for until := time.Now().Add(5 * time.Second); ; {
		say(a, "moved")
		select {
		case <-got1:
			if time.Now().After(until) {
				t.Fatal("a client that was forgotten stays")
			}
			continue
		case <-got3:
		}
		break
	}
	if passed, lost := third.Forwarded(); passed < 2 || lost > 0 {
		t.Errorf("%d passed on, %d lost", passed, lost)
	}
	// Who passes them on ends, and nobody comes after it: the socket is read again.
	_ = u3.Close()
	for range got3 {
	}
	say(b, "who is there")
	for s := range got1 {
		if s == fmt.Sprintf("who is there from %d", portB) {
			break
		}
	}
}

// What Undo undoes is as it was, also for those that are older still.
func TestDatagramsUndone(t *testing.T) {
	var first Sockets
	u1 := packet(t, &first, "stream-udp", "127.0.0.1:0")
	c, err := net.Dial("udp", u1.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	port := c.LocalAddr().(*net.UDPAddr).Port
	u1.Clients = func() []netip.AddrPort { return []netip.AddrPort{c.LocalAddr().(*net.UDPAddr).AddrPort()} }
	got1 := reading(t, u1)
	second := given(t, &first)
	u2 := packet(t, second, "stream-udp", "127.0.0.1:0")
	after(t, &first, second).Keep()
	got2 := reading(t, u2)
	third := given(t, second)
	u3 := packet(t, third, "stream-udp", "127.0.0.1:0")
	d := after(t, second, third)
	_ = u3.Close() // it fails
	_, _ = io.WriteString(c, "meanwhile")
	d.Undo()
	expect(t, got1, fmt.Sprintf("meanwhile from %d", port))
	u1.Forget(c.LocalAddr().(*net.UDPAddr).AddrPort())
	for until := time.Now().Add(5 * time.Second); ; {
		_, _ = io.WriteString(c, "moved")
		select {
		case <-got1:
			if time.Now().After(until) {
				t.Fatal("what an older process says is not heard any more")
			}
			continue
		case <-got2:
		}
		break
	}
}

// QUIC packets are told apart by the ids that processes give their connections.
func TestTags(t *testing.T) {
	tag := []byte{1, 2, 3, 4}
	id := append(append([]byte{}, tag...), make([]byte, ConnectionIDLength-TagLength)...)
	short := append(append([]byte{0x40}, id...), 9, 9, 9)
	long := append(append([]byte{0xc0, 0, 0, 0, 1, ConnectionIDLength}, id...), 0, 0, 0)
	for _, c := range []struct {
		name string
		b    []byte
		want bool
	}{
		{"short", short, true},
		{"long", long, true},
		{"nothing", nil, false},
		{"cut", short[:5], false},
		{"long, cut", long[:10], false},
		{"another process", append([]byte{0x40, 9}, short[2:]...), false},
		{"long, another length", append([]byte{0xc0, 0, 0, 0, 1, 8}, long[6:]...), false},
		{"long, another process", append([]byte{0xc0, 0, 0, 0, 1, ConnectionIDLength, 9}, long[7:]...), false},
	} {
		if got := tagged(c.b, tag); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// A batch keeps what is this process's, in order and in the buffers of their places, and
// passes the rest on with what the system said beside.
func TestBatchIsSifted(t *testing.T) {
	var first Sockets
	u1 := packet(t, &first, PurposeHTTP3, "127.0.0.1:0")
	second := given(t, &first)
	u2 := packet(t, second, PurposeHTTP3, "127.0.0.1:0")
	after(t, &first, second).Keep()
	from := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7}
	message := func(tag []byte, text string) ipv4.Message {
		b := append([]byte{0x40}, tag...)
		b = append(append(b, make([]byte, ConnectionIDLength-TagLength)...), text...)
		m := ipv4.Message{Buffers: [][]byte{make([]byte, 100)}, OOB: make([]byte, 16), Addr: from}
		m.N, m.NN = copy(m.Buffers[0], b), copy(m.OOB, "beside "+text)
		return m
	}
	ms := []ipv4.Message{message(u1.Tag(), "old 1"), message(u2.Tag(), "new 1"), message(u1.Tag(), "old 2"), message(u2.Tag(), "new 2")}
	place := &ms[1].Buffers[0][0]
	if n := u2.sift(*u2.elders.Load(), ms); n != 2 {
		t.Fatalf("%d are kept, want 2", n)
	}
	if &ms[1].Buffers[0][0] != place {
		t.Error("a buffer left its place")
	}
	for i, want := range []string{"new 1", "new 2"} {
		if m := ms[i]; string(m.Buffers[0][1+ConnectionIDLength:m.N]) != want || string(m.OOB[:m.NN]) != "beside "+want {
			t.Errorf("message %d is %q beside %q", i, m.Buffers[0][:m.N], m.OOB[:m.NN])
		}
	}
	for _, want := range []string{"old 1", "old 2"} {
		got := []ipv4.Message{{Buffers: [][]byte{make([]byte, 100)}, OOB: make([]byte, 16)}}
		n, err := u1.ReadBatch(got, 0)
		m := got[0]
		if err != nil || n != 1 || string(m.Buffers[0][1+ConnectionIDLength:m.N]) != want || string(m.OOB[:m.NN]) != "beside "+want || m.Addr.String() != from.String() {
			t.Errorf("%d %v: %q beside %q from %v", n, err, m.Buffers[0][:m.N], m.OOB[:m.NN], m.Addr)
		}
	}
	// A deadline ends reading, as quic-go needs at its end.
	_ = u1.SetReadDeadline(time.Now())
	if _, err := u1.ReadBatch([]ipv4.Message{{Buffers: [][]byte{make([]byte, 100)}, OOB: make([]byte, 16)}}, 0); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want a deadline", err)
	}
}

// Damaged mail is no datagram.
func TestMailIsChecked(t *testing.T) {
	for _, mail := range [][]byte{nil, {'d'}, {'x', 0, 0}, {'d', 200, 1}, {'d', 6, 1, 2, 3, 4, 5, 6, 9}, {'d', 2, 1, 2, 0}} {
		if b, _, _, err := open(mail); err == nil {
			t.Errorf("%v is taken for %v", mail, b)
		}
	}
}

// TestForget: of a socket that was closed, the process that takes over hears nothing.
func TestForget(t *testing.T) {
	s := &Sockets{}
	for range 3 { // the same one again and again
		l, err := s.Listen(t.Context(), "listener", "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		u, err := s.ListenPacket(t.Context(), "listener", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		_ = u.Close()
		s.Forget(Socket{"tcp", "127.0.0.1:0", "listener"})
		s.Forget(u.Name())
	}
	if len(s.open) > 0 || len(s.udp()) > 0 {
		t.Errorf("remembered: %+v", s.open)
	}
}
