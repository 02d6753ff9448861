package http2

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/keyway-edge/keyway/edge/exchange"
)

// taking is a client that opens windows at its own pace, and what came of it.
type taking struct {
	mu    sync.Mutex
	fr    *http2.Framer // writing is guarded by mu
	bytes map[uint32]int
	ended map[uint32]time.Duration // when a stream was complete
	reset map[uint32]time.Duration // or cut off
	began time.Time
}

// take opens streams that answer with a long body, on a connection in memory. The window of
// the connection is its first 65535 bytes, that of a stream is first.
func take(t *testing.T, streams int, first uint32) *taking {
	t.Helper()
	e := New(&handler{f: func(x *exchange.Exchange) { text(x, 200, strings.Repeat("x", 100_000)) }}, Settings{})
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { e.ServeConn(ctx, far, &exchange.Conn{}) })
	k := &taking{fr: http2.NewFramer(near, near), bytes: map[uint32]int{}, ended: map[uint32]time.Duration{}, reset: map[uint32]time.Duration{}, began: time.Now()}
	wg.Go(k.read)
	t.Cleanup(func() {
		_ = near.Close()
		cancel()
		wg.Wait()
	})
	if _, err := io.WriteString(near, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	_ = k.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: first})
	for i := range streams {
		_ = k.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block(head("GET", "/")...), EndHeaders: true, EndStream: true})
	}
	synctest.Wait()
	return k
}

func (k *taking) read() {
	for {
		f, err := k.fr.ReadFrame()
		if err != nil {
			return
		}
		id := f.Header().StreamID
		k.mu.Lock()
		switch f := f.(type) {
		case *http2.DataFrame:
			k.bytes[id] += len(f.Data())
			if f.StreamEnded() {
				k.ended[id] = time.Since(k.began)
			}
		case *http2.RSTStreamFrame:
			k.reset[id] = time.Since(k.began)
		}
		k.mu.Unlock()
	}
}

// open opens windows, each second for a time: of the connection (0) and of streams.
func (k *taking) open(seconds int, by map[uint32]uint32) {
	for range seconds {
		time.Sleep(time.Second)
		for id, n := range by {
			k.mu.Lock()
			over := k.ended[id] > 0 || k.reset[id] > 0
			k.mu.Unlock()
			if !over {
				_ = k.fr.WriteWindowUpdate(id, n)
			}
		}
	}
	synctest.Wait()
}

// TestCreepingWindows: a client that opens its windows by little and little is cut as one
// that opens none; one that is slow, or has many streams on a slow line, is not.
func TestCreepingWindows(t *testing.T) {
	const never = 0
	for _, c := range []struct {
		name    string
		streams int
		first   uint32
		by      map[uint32]uint32
		reset   map[uint32]time.Duration // at the earliest; the second after is allowed
	}{
		{"not at all", 1, 0, nil, map[uint32]time.Duration{1: 30 * time.Second}},
		{"a stream's by the byte", 1, 10, map[uint32]uint32{1: 1, 0: 1000}, map[uint32]time.Duration{1: 30 * time.Second}},
		{"the connection's by the byte", 2, 1 << 20, map[uint32]uint32{0: 1}, map[uint32]time.Duration{1: 30 * time.Second, 3: 30 * time.Second}},
		{"as slow as one may be", 1, 0, map[uint32]uint32{1: 1200, 0: 1200}, map[uint32]time.Duration{1: never}},
		{"many on a slow line", 10, 0, map[uint32]uint32{0: 2000, 1: 200, 3: 200, 5: 200, 7: 200, 9: 200, 11: 200, 13: 200, 15: 200, 17: 200, 19: 200}, map[uint32]time.Duration{1: never, 19: never}},
		{"one starved beside another", 2, 0, map[uint32]uint32{0: 4000, 1: 3000, 3: 10}, map[uint32]time.Duration{1: never, 3: 30 * time.Second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := take(t, c.streams, c.first)
				k.open(100, c.by)
				k.mu.Lock()
				defer k.mu.Unlock()
				for id, want := range c.reset {
					if got := k.reset[id]; (got > 0) != (want > 0) || got < want || got > want+2*time.Second {
						t.Errorf("stream %d of %d bytes: reset after %v, want %v; complete after %v", id, k.bytes[id], got, want, k.ended[id])
					}
				}
			})
		})
	}
}
