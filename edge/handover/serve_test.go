package handover

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestWhoCameIsAnswered has one client that has connected and not yet asked when the
// serving ends, one whose request is half read, one that waits for its answer, and one that
// is idle: the first three are answered, with word that the connection ends.
func TestWhoCameIsAnswered(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked, answer := make(chan struct{}), make(chan struct{})
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(asked)
			<-answer
		}
		_, _ = io.WriteString(w, "hello")
	})}
	ended := make(chan error, 1)
	go func() { ended <- ServeHTTP(ctx, srv, l, time.Minute) }()
	client := func() (say func(string), hear func() (*http.Response, error)) {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		r := bufio.NewReader(c)
		say = func(s string) {
			if _, err := io.WriteString(c, s); err != nil {
				t.Errorf("asking: %v", err)
			}
		}
		return say, func() (*http.Response, error) { return http.ReadResponse(r, nil) }
	}
	const head = " HTTP/1.1\r\nHost: x\r\n\r\n"
	sayIdle, hearIdle := client()
	sayIdle("GET /" + head)
	if resp, err := hearIdle(); err != nil || resp.Close {
		t.Fatal(resp, err)
	}
	saySlow, hearSlow := client()
	saySlow("GET /slow" + head)
	<-asked
	sayHalf, hearHalf := client()
	sayHalf("GET / HT")
	sayLate, hearLate := client()
	// Taken in turn: whoever comes after the late one shows that the late one was.
	sayAfter, hearAfter := client()
	sayAfter("GET /" + head)
	if _, err := hearAfter(); err != nil {
		t.Fatal(err)
	}
	cancel()
	for until := time.Now().Add(10 * time.Second); ; {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			break
		}
		_ = c.Close()
		if time.Now().After(until) {
			t.Fatal("it still accepts")
		}
	}
	if _, err := hearIdle(); err == nil || strings.Contains(err.Error(), "reset") {
		t.Errorf("the idle one hears %v", err)
	}
	select {
	case err := <-ended:
		t.Fatalf("it ended with %v while three wait", err)
	default:
	}
	sayHalf("TP/1.1\r\nHost: x\r\n\r\n")
	sayLate("GET /" + head)
	close(answer)
	for name, hear := range map[string]func() (*http.Response, error){"waiting": hearSlow, "half": hearHalf, "late": hearLate} {
		resp, err := hear()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "hello" || !resp.Close {
			t.Errorf("%s: %q, %v, last %v", name, text, err, resp.Close)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestServingThatFails says why.
func TestServingThatFails(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	err = ServeHTTP(t.Context(), &http.Server{ReadHeaderTimeout: time.Second}, l, time.Second)
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("%v", err)
	}
}
