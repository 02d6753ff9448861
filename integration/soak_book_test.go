package integration

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// deed is one thing that a client of the soak does: a request, a session, a datagram.
type deed struct {
	kind   string // of client
	what   string // it asks for
	number string // that targets can tell it by; "" where they cannot
	pool   string // of the targets that may have it
	safe   bool   // the node may send it twice
	bare   bool   // bytes without a status: there is no answer that could say 502
	began  time.Time
	status int    // of the answer, 0 before there is one
	target string // that has it, once its answer has begun; anyTarget where targets do not say who they are
	bytes  int64
}

// anyTarget stands for a target that does not say its name.
const anyTarget = "*"

// death is a target that was killed with all that it held.
type death struct {
	pool, target string
	began, ended time.Time // ended: nothing of it is left
	back         time.Time // it listens again
}

// sum is what became of the deeds of one kind.
type sum struct {
	Done        int64            `json:"done"` // as it should be
	Bytes       int64            `json:"bytes"`
	Explained   map[string]int64 `json:"explained,omitempty"`
	Unexplained int64            `json:"unexplained"`
}

// errWrong marks answers that are not what was asked for: no death of a target
// explains those.
var errWrong = errors.New("wrong")

// wrong says what is.
func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errWrong, fmt.Sprintf(format, args...))
}

// book is the judgement of a soak: what was done, what happened meanwhile, and which
// errors that explains.
type book struct {
	ledger ledger
	// waited is how long the node may have had to wait for a processor, and so to
	// notice what had happened. nil for not at all.
	waited func(from, to time.Time) time.Duration
	// told is called for each error that nothing explains, at once. nil for nobody.
	told func(fault string)

	mu      sync.Mutex // guards what follows
	kinds   map[string]*sum
	deaths  []*death
	events  []event          // the latest
	happens map[string]int64 // events of each kind
	errands map[string]int64 // requests that were answered, by what they were for
	leaving time.Time        // of SIGTERM
	faults  []string         // what nothing explains, the first in full
	lost    int64            // how many
}

// event is something that was done to the node or around it.
type event struct {
	at   time.Time
	text string
}

const (
	keptEvents = 600
	keptDeaths = 100
	keptFaults = 20
	// notListening excuses who comes after SIGTERM.
	notListening = "the node had been told to stop, and did not take it"
	// noticed is how long a client may take to learn that its target is gone.
	noticed = 15 * time.Second
)

func newBook() *book {
	return &book{ledger: ledger{seen: map[string][]*visit{}}, kinds: map[string]*sum{}, happens: map[string]int64{}, errands: map[string]int64{}}
}

// happened notes an event and counts its kind.
func (b *book) happened(kind, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.happens[kind]++
	b.events = append(b.events, event{time.Now(), kind + " " + fmt.Sprintf(format, args...)})
	if len(b.events) > 2*keptEvents {
		b.events = slices.Delete(b.events, 0, keptEvents)
	}
}

// dies notes that a target is being killed; what it answers is told when it is gone
// and when it is back.
func (b *book) dies(pool, target string) (gone, back func()) {
	b.happened("kill", "%s", target)
	x := &death{pool: pool, target: target, began: time.Now()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deaths = append(b.deaths, x)
	if len(b.deaths) > 2*keptDeaths {
		b.deaths = slices.Delete(b.deaths, 0, keptDeaths)
	}
	set := func(to *time.Time) {
		b.mu.Lock()
		defer b.mu.Unlock()
		*to = time.Now()
	}
	return func() { set(&x.ended) }, func() { set(&x.back); b.happened("return", "%s", target) }
}

// done counts a deed and judges how it ended.
func (b *book) done(d *deed, err error) {
	at := time.Now()
	visits := b.ledger.forget(d.number)
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.count(d.kind)
	c.Bytes += d.bytes
	if !d.safe && len(visits) > 1 {
		err = wrong("it may not be sent twice and was (its own end: %v)", err)
	}
	if !b.leaving.IsZero() && d.began.Before(b.leaving) {
		b.happens["under way at the stop"]++
	}
	if err == nil {
		c.Done++
		return
	}
	if why := b.explain(d, visits, at, err); why != "" {
		c.excuse(why)
		return
	}
	c.Unexplained++
	var seen strings.Builder
	for _, v := range visits {
		fmt.Fprintf(&seen, " %s from %s to %s;", v.target, clock(v.began), clock(v.ended))
	}
	b.fault(d.began, at, "%s: %s: %v (number %q, status %d, answered by %q, began %s, took %s, seen by:%s)",
		d.kind, d.what, err, d.number, d.status, d.target, clock(d.began), at.Sub(d.began).Round(time.Millisecond), seen.String())
}

// wrongly notes what is no deed's: a certificate that is too old, a change that the node
// does not take.
func (b *book) wrongly(kind, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(kind).Unexplained++
	b.fault(time.Now(), time.Now(), "%s: %s", kind, fmt.Sprintf(format, args...))
}

// excuse counts what is explained by itself: a client broke off what it had begun.
func (b *book) excuse(kind, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count(kind).excuse(why)
}

// tell counts a request by what it was for.
func (b *book) tell(what string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		b.errands[what]++
	}
}

func (c *sum) excuse(why string) {
	if c.Explained == nil {
		c.Explained = map[string]int64{}
	}
	c.Explained[why]++
}

func (b *book) count(kind string) *sum {
	if b.kinds[kind] == nil {
		b.kinds[kind] = &sum{}
	}
	return b.kinds[kind]
}

// fault keeps what nothing explains, with what happened around it.
func (b *book) fault(from, to time.Time, format string, args ...any) {
	b.lost++
	if len(b.faults) >= keptFaults {
		return
	}
	var text strings.Builder
	fmt.Fprintf(&text, format, args...)
	for _, e := range b.events {
		if e.at.After(from.Add(-3*time.Second)) && !e.at.After(to.Add(time.Millisecond)) {
			fmt.Fprintf(&text, "\n    %s %s", clock(e.at), e.text)
		}
	}
	b.faults = append(b.faults, text.String())
	if b.told != nil {
		b.told(text.String())
	}
}

// explain says what excuses the end of a deed, "" for nothing.
func (b *book) explain(d *deed, visits []visit, at time.Time, err error) string {
	if errors.Is(err, errWrong) {
		return ""
	}
	if !b.leaving.IsZero() && d.status == 0 && d.target == "" && len(visits) == 0 && notTaken(err) {
		return notListening
	}
	if !b.leaving.IsZero() && d.began.After(b.leaving) && d.status == 0 && !d.safe && len(visits) == 0 && strings.HasPrefix(d.kind, "HTTP/1.1") && brokenOff(err) {
		return "it came on an idle connection as the stopping node closed it, and nobody had it"
	}
	for _, x := range b.deaths {
		if x.pool != d.pool || !x.ended.IsZero() && d.began.Sub(x.ended) > b.unseen(x.ended, d.began) {
			continue
		}
		switch {
		case d.target != "":
			if (d.target == x.target || d.target == anyTarget) && (x.ended.IsZero() || at.Sub(x.ended) < noticed) {
				return "its answer had begun at a target that was killed"
			}
		case overtaken(d, visits, x, err) && (x.ended.IsZero() || at.Sub(x.ended) < noticed):
			return "its answer had begun at a target that was killed, and was overtaken by the reset of its stream"
		case d.safe, d.status != 502 && !d.bare:
		case len(visits) == 0, visits[len(visits)-1].target == x.target:
			return "it was under way to a target that was killed, and may not be sent twice"
		}
	}
	return ""
}

// overtaken says whether a request over HTTP/3 ended by a reset after a target that died
// had answered it. A reset of QUIC takes along what its receiver had not read (RFC 9000,
// section 3.2), so that the client may never have seen the status.
func overtaken(d *deed, visits []visit, x *death, err error) bool {
	if err == nil || d.status != 0 || len(visits) == 0 || !strings.HasPrefix(d.kind, "HTTP/3") || !strings.Contains(err.Error(), "H3_INTERNAL_ERROR") {
		return false
	}
	last := visits[len(visits)-1]
	return last.target == x.target && !last.ended.IsZero()
}

// unseen is how long after a death the node may not have known of it.
func (b *book) unseen(death, now time.Time) time.Duration {
	if b.waited == nil || !now.After(death) {
		return 0
	}
	return b.waited(death, now)
}

// notTaken says whether an error means that nobody took a connection or a request, which
// may go elsewhere then whatever it is. Clients do not repeat what they have no copy of.
func notTaken(err error) bool {
	var t *quic.TransportError
	if errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &t) && t.Remote && t.ErrorCode == quic.ConnectionRefused {
		return true
	}
	return err != nil && (strings.Contains(err.Error(), "H3_REQUEST_REJECTED") || strings.Contains(err.Error(), "REFUSED_STREAM"))
}

// brokenOff says whether an error is the end of a connection. A client of HTTP/1.1 cannot
// tell whether a request that it had just sent was seen.
func brokenOff(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
}

// missed says whether a datagram could be lost: the target of its session, or one that
// a new session may have been given, was dead between the last answer and now.
func (b *book) missed(pool, target string, since time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.deaths, func(x *death) bool {
		return x.pool == pool && (target == "" || x.target == target) && (x.back.IsZero() || x.back.After(since))
	})
}

// stopped says whether the node was told to stop.
func (b *book) stopped() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.leaving.IsZero()
}

// leaves notes that the node was told to stop.
func (b *book) leaves() {
	b.happened("stop", "SIGTERM")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leaving = time.Now()
}

// troubles is how many errors nothing explains.
func (b *book) troubles() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lost
}

func clock(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return at.Format("15:04:05.000")
}

// ledger is what targets have seen of numbered requests.
type ledger struct {
	mu   sync.Mutex // guards seen
	seen map[string][]*visit
}

// visit is a request at a target.
type visit struct {
	target       string
	began, ended time.Time
}

// begin notes a request at a target until the function that it answers is called.
func (l *ledger) begin(number, target string) (end func()) {
	if number == "" {
		return func() {}
	}
	v := &visit{target: target, began: time.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[number] = append(l.seen[number], v)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		v.ended = time.Now()
	}
}

// forget answers what was seen of a number.
func (l *ledger) forget(number string) []visit {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []visit
	for _, v := range l.seen[number] {
		out = append(out, *v)
	}
	delete(l.seen, number)
	return out
}

// sweep drops what came after its client had gone.
func (l *ledger) sweep(age time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for number, list := range l.seen {
		if time.Since(list[0].began) > age {
			delete(l.seen, number)
		}
	}
}

// TestSoakJudgement puts to the soak's judge what it may excuse, and what it may not.
func TestSoakJudgement(t *testing.T) {
	gone, refused, reset := io.EOF, fmt.Errorf("dial: %w", syscall.ECONNREFUSED), errors.New("http3: parsing frame failed: H3_INTERNAL_ERROR")
	for name, c := range map[string]struct {
		d       deed
		err     error
		visits  []string // targets
		late    bool     // it began when the target was dead already
		slow    bool     // it was noticed too late
		stopped bool
		told    bool // the targets that had it answered
		want    bool // that it is explained
	}{
		"a POST under way to the dead":              {d: deed{status: 502}, err: gone, visits: []string{"p1"}, want: true},
		"a POST that the dead had not read":         {d: deed{status: 502}, err: gone, want: true},
		"a POST at another target":                  {d: deed{status: 502}, err: gone, visits: []string{"p2"}},
		"a POST sent on after the dead had it":      {d: deed{status: 502}, err: gone, visits: []string{"p1", "p2"}},
		"a POST sent twice that was answered":       {d: deed{status: 200, target: "p2"}, visits: []string{"p1", "p2"}},
		"a POST answered 503":                       {d: deed{status: 503}, err: gone, visits: []string{"p1"}},
		"a POST whose connection broke":             {d: deed{}, err: gone, visits: []string{"p1"}},
		"a POST of another pool":                    {d: deed{status: 502, pool: "q"}, err: gone},
		"a POST after the death":                    {d: deed{status: 502}, err: gone, late: true},
		"a GET answered 502":                        {d: deed{status: 502, safe: true}, err: gone, visits: []string{"p1"}},
		"a GET sent twice":                          {d: deed{status: 200, safe: true, target: "p2"}, visits: []string{"p1", "p2"}, want: true},
		"an answer of the dead, broken":             {d: deed{status: 200, safe: true, target: "p1"}, err: gone, visits: []string{"p1"}, want: true},
		"an answer of the living, broken":           {d: deed{status: 200, safe: true, target: "p2"}, err: gone, visits: []string{"p2"}},
		"an answer of the dead, broken much later":  {d: deed{status: 200, safe: true, target: "p1"}, err: gone, visits: []string{"p1"}, slow: true},
		"an answer of the dead with a wrong body":   {d: deed{status: 200, safe: true, target: "p1"}, err: wrong("body"), visits: []string{"p1"}},
		"a stream under way to the dead":            {d: deed{bare: true}, err: gone, want: true},
		"a stream that the living broke":            {d: deed{bare: true, target: "p2"}, err: gone},
		"a connection refused":                      {d: deed{}, err: refused},
		"a connection refused by a node that stops": {d: deed{}, err: refused, stopped: true, want: true},
		"a request that a node that stops refuses":  {d: deed{}, err: errors.New("H3_REQUEST_REJECTED"), stopped: true, want: true},
		"a request refused so, and seen":            {d: deed{}, err: errors.New("H3_REQUEST_REJECTED"), visits: []string{"q1"}, stopped: true},
		"a request refused without a stop":          {d: deed{}, err: errors.New("H3_REQUEST_REJECTED")},
		"a broken connection of a node that stops":  {d: deed{}, err: gone, stopped: true},
		"a POST that came as a connection closed":   {d: deed{kind: "HTTP/1.1", pool: "q"}, err: gone, stopped: true, late: true, want: true},
		"a GET that came as a connection closed":    {d: deed{kind: "HTTP/1.1", pool: "q", safe: true}, err: gone, stopped: true, late: true},
		"a reset that overtook an answer":           {d: deed{kind: "HTTP/3", safe: true}, err: reset, visits: []string{"p1"}, told: true, want: true},
		"a reset without an answer":                 {d: deed{kind: "HTTP/3", safe: true}, err: reset, visits: []string{"p1"}},
		"a reset that overtook one of the living":   {d: deed{kind: "HTTP/3", safe: true}, err: reset, visits: []string{"p2"}, told: true},
		"a reset in place of an answer of HTTP/2":   {d: deed{kind: "HTTP/2", safe: true}, err: reset, visits: []string{"p1"}, told: true},
		"a reset long after the answer":             {d: deed{kind: "HTTP/3", safe: true}, err: reset, visits: []string{"p1"}, told: true, slow: true},
		"a POST that came so, and was seen":         {d: deed{kind: "HTTP/1.1", pool: "q"}, err: gone, visits: []string{"q1"}, stopped: true, late: true},
	} {
		b := newBook()
		c.d.kind, c.d.number, c.d.began = cmp.Or(c.d.kind, "test"), "1", time.Now()
		if c.d.pool == "" {
			c.d.pool = "p"
		}
		for _, target := range c.visits {
			if end := b.ledger.begin("1", target); c.told {
				end()
			}
		}
		killed, _ := b.dies("p", "p1")
		killed()
		switch {
		case c.late:
			c.d.began = time.Now().Add(time.Second)
		case c.slow:
			b.deaths[0].ended = time.Now().Add(-2 * noticed)
			c.d.began = b.deaths[0].ended.Add(-time.Second)
		}
		if c.stopped {
			b.leaves()
		}
		b.done(&c.d, c.err)
		if got := b.troubles() == 0; got != c.want {
			t.Errorf("%s: explained %v, want %v: %q", name, got, c.want, b.faults)
		}
		if !c.want && (len(b.faults) != 1 || !strings.Contains(b.faults[0], "kill p1") && !c.late && !c.slow) {
			t.Errorf("%s: it is not told what happened around it: %q", name, b.faults)
		}
	}
}
