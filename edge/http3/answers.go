package http3

import (
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"
)

const (
	// retries and refusals are how many answers to first packets the transport keeps
	// until they are sent. It drops what is more, and says so to nobody.
	retries, refusals = 8, 4
	// overdue is when an answer is taken for one that is not sent any more.
	overdue = 100 * time.Millisecond
)

// answers holds back first packets until the transport has room for the answer: the
// request to prove an address, or the refusal. A client whose answer is dropped waits for
// a timer that doubles each time. Of some hundred that come at once most would have to,
// again and again, and the last would be answered when they have given up. Only other
// first packets wait here, which the transport keeps a thousand of.
type answers struct{ retry, refusal chan struct{} }

func newAnswers() *answers {
	return &answers{make(chan struct{}, retries), make(chan struct{}, refusals)}
}

// await waits for room. Only the transport's goroutine that looks at first packets calls it.
func await(room chan struct{}) {
	select {
	case room <- struct{}{}:
		return
	default:
	}
	late := time.NewTimer(overdue)
	defer late.Stop()
	select {
	case room <- struct{}{}:
	case <-late.C:
	}
}

// RecordEvent hears what the transport sends and drops outside of connections.
func (a *answers) RecordEvent(e qlogwriter.Event) {
	sent, ok := e.(qlog.PacketSent)
	if !ok {
		return
	}
	room := a.retry
	if sent.Header.PacketType != qlog.PacketTypeRetry {
		if !refuses(sent.Frames) {
			return
		}
		room = a.refusal
	}
	select {
	case <-room:
	default:
	}
}

// refuses says whether a packet tells a client that it is refused.
func refuses(frames []qlog.Frame) bool {
	if len(frames) != 1 {
		return false
	}
	end, ok := frames[0].Frame.(*qlog.ConnectionCloseFrame)
	return ok && end.ErrorCode == uint64(quic.ConnectionRefused)
}

// Close does nothing: it belongs to a qlogwriter.Recorder.
func (*answers) Close() error { return nil }
