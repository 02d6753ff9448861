package secrets_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/secrets"
)

// FuzzBroker lets a script of a source's behaviour and of operators' demands run
// against the broker under virtual time, and checks after each step what must
// always hold. See machine.check.
func FuzzBroker(f *testing.F) {
	rnd := rand.New(rand.NewPCG(4, 7))
	for range 12 {
		script := make([]byte, 30+rnd.IntN(200))
		for i := range script {
			script[i] = byte(rnd.Uint32())
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) { play(t, script) })
	})
}

// machine is a broker on a model, with what the checks remember.
type machine struct {
	bench
	*model
	script   []byte
	wanted   map[string]time.Time      // references, since when
	versions map[string]map[int]string // of a reference: value by number
	down     time.Time                 // since when every call fails, zero for not
	before   int                       // calls until then
	mercy    int                       // calls allowed beside one a second
	trace    []string
}

const resources = 5

func (x *machine) resource(n byte) string {
	return []string{"plain", "end", "lease", "lease-fixed", "other"}[int(n)%resources]
}

func (x *machine) ref(n byte) string {
	return "{vault://v/" + x.resource(n) + "/" + []string{"a", "b"}[int(n/resources)%2] + "}"
}

func (x *machine) byte() byte {
	if len(x.script) == 0 {
		return 0
	}
	b := x.script[0]
	x.script = x.script[1:]
	return b
}

func play(t *testing.T, script []byte) {
	m := &model{
		t: t, epoch: 1, one: make(map[string]int), counter: make(map[string]int), reads: make(map[string]read),
		answered: make(map[string]bool), failed: make(map[string]bool), leases: make(map[string]*modelLease), begun: make(map[string][]time.Time),
	}
	cfg := secrets.Config{
		Openers: map[string]secrets.Opener{"model": m.open}, RevokeAtStop: true,
		Trial: secrets.TrialRule{Failures: 1},
	}
	b := secrets.NewBroker(cfg)
	m.current = b.Current
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	x := &machine{bench: bench{b, t, nil}, model: m, script: script[:min(len(script), 400)], wanted: make(map[string]time.Time), versions: make(map[string]map[int]string)}
	for n := range byte(2 * resources) {
		x.wanted[x.ref(n)] = time.Now()
	}
	x.want()
	for len(x.script) > 0 && !t.Failed() {
		x.step()
		synctest.Wait()
		x.check()
	}
	x.say("ended")
	m.mu.Lock()
	m.all = answersWell
	m.mu.Unlock()
	m.current = func() *secrets.Set { return nil } // at the end leases may go while listed
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	for id, l := range m.leases {
		if !l.revoked && time.Now().Before(l.ends) { // while its source is away a lease may end by itself
			t.Errorf("%s was never given back, and goes on for %v", id, time.Until(l.ends))
		}
	}
	if t.Failed() {
		t.Logf("script %q:\n%s", script, strings.Join(x.trace, "\n"))
	}
}

func (x *machine) say(format string, args ...any) {
	x.trace = append(x.trace, time.Now().Format("02 15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// want makes the plan what is wanted.
func (x *machine) want() {
	var refs []string
	for ref := range x.wanted {
		refs = append(refs, ref)
	}
	p := plan(refs...)
	p.Vaults = []secrets.Vault{{Name: "v", Kind: "model", Config: map[string]any{"n": x.model.epoch}}}
	x.Want(p)
	x.mercy += 8
	synctest.Wait()
}

// step does the next thing of the script.
func (x *machine) step() {
	op, arg := x.byte(), x.byte()
	ctx, cancel := context.WithTimeout(context.WithValue(x.bench.t.Context(), dry{}, nil), 20*time.Second)
	defer cancel()
	ref, resource := x.ref(arg), x.resource(arg)
	switch op % 16 {
	case 0, 1, 2, 3, 4:
		d := []time.Duration{10 * time.Millisecond, 150 * time.Millisecond, time.Second, 3 * time.Second, 7 * time.Second, 30 * time.Second, 61 * time.Second, 5 * time.Minute, 40 * time.Minute, 3 * time.Hour, 25 * time.Hour}
		x.say("sleep %v", d[int(arg)%len(d)])
		time.Sleep(d[int(arg)%len(d)])
	case 5, 6:
		x.behaveAll(int(x.byte()) % behaviours)
	case 7, 8:
		how := int(x.byte()) % behaviours
		x.say("%s does %d", resource, how)
		x.model.mu.Lock()
		x.one[resource] = how
		x.model.mu.Unlock()
	case 9, 10:
		x.say("%s rotates", resource)
		x.model.mu.Lock()
		x.counter[resource]++
		x.model.mu.Unlock()
	case 11:
		x.say("refresh")
		x.Refresh()
	case 12:
		x.say("force %s: %v", ref, x.Force(ctx, refOf(ref)))
	case 13:
		x.pinOrCheck(ctx, arg)
	case 14:
		x.fail(ref)
	case 15:
		x.replan(arg)
	}
}

// behaveAll makes every resource behave one way, or as its own says for answersWell.
func (x *machine) behaveAll(how int) {
	x.say("all do %d", how)
	x.model.mu.Lock()
	defer x.model.mu.Unlock()
	wasDown, isDown := !x.down.IsZero(), how == hangs || how == isAway || how == throttles
	x.all = how
	switch {
	case isDown && !wasDown:
		x.down, x.before, x.mercy = time.Now(), x.calls, 24
	case !isDown:
		x.down = time.Time{}
	}
}

func (x *machine) pinOrCheck(ctx context.Context, arg byte) {
	ref := x.ref(arg)
	switch arg / 16 % 3 {
	case 0:
		version := 1 + int(x.byte())%4
		x.say("pin %s at %d: %v", ref, version, x.Pin(ctx, ref, version))
	case 1:
		x.say("unpin %s: %v", ref, x.Unpin(ctx, ref))
	default:
		c, err := x.Check(context.WithValue(ctx, dry{}, true), ref)
		x.say("check %s: %v %v", ref, err, c.Err)
		if c.Err != nil && strings.Contains(c.Err.Error(), "canary") {
			x.bench.t.Error("a check tells the value")
		}
	}
}

// fail has a new version fail its trial.
func (x *machine) fail(ref string) {
	c := x.Current().Get(refOf(ref))
	if _, ok := x.wanted[ref]; !ok || c == nil || c.Trial == nil {
		return
	}
	resource := c.Ref.Resource
	x.model.mu.Lock()
	was := x.reads[resource]
	x.model.mu.Unlock()
	c.Trial.Bad()
	synctest.Wait()
	time.Sleep(200 * time.Millisecond) // the change may wait for others
	synctest.Wait()
	now := x.Current().Get(c.Ref)
	x.say("%s fails: version %d, then %d, %s", ref, c.Version, now.Version, now.State)
	if c.Trial.Tripped() && now.Version != c.Version {
		x.model.mu.Lock()
		x.failed[strings.TrimPrefix(string(c.Value.Reveal()), "b")] = true
		if x.reads[resource] == was {
			delete(x.reads, resource)
		}
		x.model.mu.Unlock()
	}
}

// replan drops or wants a reference, or configures the vault anew.
func (x *machine) replan(arg byte) {
	ref := x.ref(arg)
	switch _, ok := x.wanted[ref]; {
	case arg >= 192:
		x.model.mu.Lock()
		x.model.epoch++
		x.model.mu.Unlock()
		x.say("vault configured anew")
	case ok:
		delete(x.wanted, ref)
		x.say("%s is dropped", ref)
	default:
		x.wanted[ref] = time.Now()
		x.say("%s is wanted", ref)
	}
	x.want()
}

// check checks what must always hold.
func (x *machine) check() {
	t, set, now := x.bench.t, x.Current(), time.Now()
	x.model.mu.Lock()
	defer x.model.mu.Unlock()
	if set == nil {
		return
	}
	for c := range set.All() {
		if _, ok := x.wanted[c.Name]; !ok {
			continue // dropped this very moment
		}
		x.checkOne(c, now)
	}
	if !x.down.IsZero() {
		if n, most := x.calls-x.before, x.mercy+int(now.Sub(x.down)/time.Second); n > most {
			t.Errorf("%d calls in %v to a source that is away; expected %d at most", n, now.Sub(x.down), most)
		}
	}
	for resource, begun := range x.begun {
		for i := range begun {
			if i >= 15 && begun[i].Sub(begun[i-15]) < time.Second {
				t.Errorf("%s was asked more than 15 times within a second", resource)
			}
		}
		x.begun[resource] = begun[max(len(begun)-15, 0):]
	}
}

func (x *machine) checkOne(c *secrets.Credential, now time.Time) {
	const slack = 1500 * time.Millisecond
	t := x.bench.t
	value := string(c.Value.Reveal())
	a := strings.TrimPrefix(value, "b")
	if strings.Contains(c.Reason+c.Remark, "canary") {
		t.Errorf("the reason of %s tells a value: %s", c.Name, c.Reason)
	}
	if value != "" {
		if !x.answered[a] {
			t.Errorf("%s has a value that was never answered", c.Name)
		}
		if !c.NotAfter.IsZero() && now.Sub(c.NotAfter) > slack {
			t.Errorf("%s is in use (%s) %v after its hard end", c.Name, c.State, now.Sub(c.NotAfter))
		}
		numbers := x.versions[c.Name]
		if numbers == nil {
			numbers = make(map[int]string)
			x.versions[c.Name] = numbers
		}
		if old, ok := numbers[c.Version]; ok && old != value {
			t.Errorf("version %d of %s names %s and %s", c.Version, c.Name, old, value)
		}
		numbers[c.Version] = value
	} else if c.State == secrets.Active || c.State == secrets.Stale || c.State == secrets.Refused {
		t.Errorf("%s is %s without a value", c.Name, c.State)
	}
	for _, o := range c.Previous {
		if now.Sub(o.Until) > slack {
			t.Errorf("%s: the overlap of version %d ended %v ago", c.Name, o.Version, now.Sub(o.Until))
		}
	}
	r, ok := x.reads[c.Ref.Resource]
	if !ok || r.began.Before(x.wanted[c.Name]) || now.Sub(r.at) < slack {
		return
	}
	switch {
	case r.removed:
		if value != "" || len(c.Previous) > 0 {
			t.Errorf("%s is %s with a value, %v after its source said that it was removed", c.Name, c.State, now.Sub(r.at))
		}
	case !r.end.IsZero() && !now.Before(r.end.Add(-slack)), now.Sub(r.at) > 24*time.Hour-slack:
		// Its time is over, or about to be.
	case value == "":
		t.Errorf("%s is %s (%s) without a value, though a good one was read %v ago", c.Name, c.State, c.Reason, now.Sub(r.at))
	case a != r.value && c.Pinned == 0:
		t.Errorf("%s is %s with %s, though %s was read %v ago (%s)", c.Name, c.State, a, r.value, now.Sub(r.at), c.Reason)
	}
}
