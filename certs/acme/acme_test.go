package acme

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/certs/certtest"
	"github.com/keyway-edge/keyway/certs/issue"
	"github.com/keyway-edge/keyway/secrets"
)

const day = 24 * time.Hour

// TestFetchNeverOrders asks without a working Run, and for names that nobody issues for.
func TestFetchNeverOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil, nil, "one")
		for names, why := range map[string]string{"a.test": "it is being issued", "": "give it an SNI", "*.a.test": "dns-01", "127.0.0.1": "no host name"} {
			_, err := r.fetch(names)
			if !errors.Is(err, secrets.ErrNotFound) || !strings.Contains(err.Error(), why) {
				t.Errorf("%q: %v", names, err)
			}
		}
		if calls, _ := r.ca.since(time.Time{}); calls != 0 {
			t.Errorf("%d calls were made by fetching", calls)
		}
		r.state.Fail(errors.New("it is away"))
		if _, err := r.fetch("b.test"); !errors.Is(err, secrets.ErrUnavailable) {
			t.Errorf("without the state: %v", err)
		}
	})
}

// TestRenewsForAYear keeps a certificate for 400 days, with every third call refused
// for its nonce and an account that gets lost: always one in its time, few orders.
func TestRenewsForAYear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil, nil, "one")
		r.ca.badNonce = 3
		r.deps.Events = func(e secrets.Event) {
			if e.Result != "issued" {
				t.Errorf("%s: %s", e.Result, e.Reason)
			}
		}
		began := time.Now()
		r.run("a.test,b.test")
		time.Sleep(time.Minute)
		for time.Since(began) < 400*day {
			if time.Since(began) > 100*day {
				r.ca.set(func() { r.ca.forget = len(r.ca.orders) == 2 })
			}
			l := r.must("b.test,a.test")
			if left := time.Until(l.NotAfter); left < 28*day || l.Remark != "" {
				t.Fatalf("after %v the pair has %v left: %s", time.Since(began), left, l.Remark)
			}
			if _, err := issue.Decode(l.Value); err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Hour)
		}
		if _, orders := r.ca.since(began); orders < 6 || orders > 8 {
			t.Errorf("%d orders in 400 days", orders)
		}
	})
}

// TestAwayAtRenewal has the authority away for five days at a renewal: the old pair
// is answered with the reason, the authority is asked rarely, and the new pair comes
// within a minute after it is back.
func TestAwayAtRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil, nil, "one")
		r.run("a.test")
		time.Sleep(58 * day)
		old := r.must("a.test")
		r.ca.set(func() { r.ca.away = true })
		time.Sleep(2 * day) // the renewal was due
		from := time.Now()
		time.Sleep(3 * day)
		if l := r.must("a.test"); l.Version != old.Version || !strings.Contains(l.Remark, "renewal failed") || !strings.Contains(l.Remark, errAway.Error()) {
			t.Errorf("version %s, %q", l.Version, l.Remark)
		}
		if calls, _ := r.ca.since(from); calls < 3000 || calls > 3*24*3600/20 {
			t.Errorf("%d calls in 3 days", calls)
		}
		r.ca.set(func() { r.ca.away = false })
		time.Sleep(time.Minute)
		if l := r.must("a.test"); l.Version == old.Version || l.Remark != "" {
			t.Errorf("a minute after it is back: %q", l.Remark)
		}
	})
}

// TestRefusedClimbsTheLadder has a name refused for a day, and then taken.
func TestRefusedClimbsTheLadder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil, nil, "one")
		r.ca.refuse = func(string) bool { return true }
		began := time.Now()
		r.run("a.test")
		time.Sleep(11 * time.Minute)
		if _, orders := r.ca.since(began); orders != 5 { // at 0, 1, 3, 5 and 10 minutes
			t.Errorf("%d orders in 11 minutes", orders)
		}
		_, err := r.fetch("a.test")
		if !errors.Is(err, secrets.ErrNotFound) || !strings.Contains(err.Error(), "attempts failed since") || !strings.Contains(err.Error(), "tried again at") {
			t.Errorf("the reason: %v", err)
		}
		time.Sleep(day)
		_, orders := r.ca.since(began)
		if orders < 20 || orders > 35 {
			t.Errorf("%d orders in a day", orders)
		}
		r.ca.set(func() { r.ca.refuse = nil })
		// By hand it is tried at once, and not again within the minute.
		ask := secrets.Request{Resource: "id", Options: map[string]string{"names": "a.test", "key_type": "ecdsa-p256"}, Force: true}
		for range 5 {
			_, _ = r.Fetch(t.Context(), ask)
		}
		time.Sleep(30 * time.Second)
		l := r.must("a.test")
		if _, after := r.ca.since(began); after != orders+1 {
			t.Errorf("%d orders by hand", after-orders)
		}
		time.Sleep(time.Hour)
		if again := r.must("a.test"); again.Version != l.Version {
			t.Error("it was ordered again for nothing")
		}
	})
}

// TestRateLimited is asked to come back in five hours, and does.
func TestRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil, nil, "one")
		r.ca.limited = 5 * time.Hour
		r.run("a.test")
		time.Sleep(10 * time.Second)
		r.ca.set(func() { r.ca.limited = 0 })
		from := time.Now()
		time.Sleep(5*time.Hour - 11*time.Second)
		if calls, _ := r.ca.since(from); calls != 0 {
			t.Errorf("%d calls before the time that was asked for", calls)
		}
		time.Sleep(time.Minute)
		r.must("a.test")
	})
}

// TestRenewalInformation renews when the authority says so, weeks early.
func TestRenewalInformation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil, nil, "one")
		began := time.Now()
		w := &window{Start: began.Add(20 * day), End: began.Add(21 * day)}
		var first string
		r.ca.window = func(serial string) *window {
			if first == "" {
				first = serial
			}
			if serial == first && time.Since(began) > 10*day { // an incident
				return w
			}
			return &window{Start: began.Add(80 * day), End: began.Add(81 * day)}
		}
		r.run("a.test")
		time.Sleep(20*day - time.Minute)
		old := r.must("a.test")
		if _, orders := r.ca.since(began); orders != 1 {
			t.Errorf("%d orders before the window", orders)
		}
		time.Sleep(day + 20*time.Minute)
		if l := r.must("a.test"); l.Version == old.Version {
			t.Error("it was not renewed in the window")
		}
	})
}

// TestReplicasOrderOnce has two nodes with one state want the same names for 65 days.
func TestReplicasOrderOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newRig(t, nil, nil, "a")
		b := newRig(t, a.ca, a.state, "b")
		// The authority reaches node a alone.
		go func() { _ = a.deps.Challenges.Run(t.Context()) }()
		a.deps.Settle, b.deps.Settle = 6*time.Second, 6*time.Second
		began := time.Now()
		a.run("a.test")
		b.run("a.test")
		time.Sleep(time.Minute)
		if a.must("a.test").Version != b.must("a.test").Version {
			t.Error("replicas have two pairs")
		}
		time.Sleep(65 * day)
		if a.must("a.test").Version != b.must("a.test").Version {
			t.Error("replicas have two pairs after 65 days")
		}
		if _, orders := a.ca.since(began); orders != 2 {
			t.Errorf("%d orders, want 2", orders)
		}
	})
}

// TestByHandIsInsistedOn has a pair renewed by hand, as after a compromise, while the
// authority refuses for an hour: it is not left for the two months until it is due.
func TestByHandIsInsistedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil, nil, "one")
		r.run("a.test")
		time.Sleep(day)
		old := r.must("a.test")
		r.ca.set(func() { r.ca.refuse = func(string) bool { return true } })
		_, _ = r.Fetch(t.Context(), secrets.Request{Resource: "id", Options: map[string]string{"names": "a.test", "key_type": "ecdsa-p256"}, Force: true})
		time.Sleep(time.Hour)
		r.ca.set(func() { r.ca.refuse = nil })
		time.Sleep(time.Hour)
		l := r.must("a.test")
		if l.Version == old.Version {
			t.Error("one failure, and nobody tries again")
		}
		time.Sleep(day)
		if r.must("a.test").Version != l.Version {
			t.Error("it was ordered again for nothing")
		}
	})
}

// TestReplicasThatDifferKeepTheLadder has nodes of two configurations, as during a
// roll-out, want a name that is refused for a day.
func TestReplicasThatDifferKeepTheLadder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newRig(t, nil, nil, "a")
		a.ca.refuse = func(string) bool { return true }
		began := time.Now()
		a.run("a.test")
		for i := range 5 {
			r := newRig(t, a.ca, a.state, fmt.Sprint(i))
			if i%2 == 0 {
				r.cfg.Emails = []string{"ops@b.test"}
			}
			r.run("a.test")
		}
		time.Sleep(day)
		if _, orders := a.ca.since(began); orders < 20 || orders > 40 {
			t.Errorf("%d orders in a day", orders)
		}
	})
}

// TestStats counts attempts over a reload, and says when the next one is.
func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil, nil, "one")
		stats := NewStats()
		r.deps.Stats = stats
		r.ca.refuse = func(string) bool { return true }
		r.run("a.test")
		time.Sleep(2 * time.Minute) // two attempts, the third is two minutes after the second
		x := stats.All()
		if len(x) != 1 || x[0].Name != "test" || x[0].Failed != 2 || x[0].Issued != 0 || x[0].Wanted != 1 || x[0].Failing != 1 || time.Until(x[0].Next) <= 0 || time.Until(x[0].Next) > 2*time.Minute {
			t.Errorf("while it fails: %+v", x)
		}
		r.ca.set(func() { r.ca.refuse = nil })
		time.Sleep(2 * time.Minute)
		if x = stats.All(); x[0].Failed != 2 || x[0].Issued != 1 || x[0].Failing != 0 || time.Until(x[0].Next) < 55*day || time.Until(x[0].Next) > 65*day {
			t.Errorf("once it is issued: %+v", x)
		}
		// Another source of the same name, as after a reload, while the first still ends.
		again := newRig(t, r.ca, r.state, "one")
		again.deps.Stats, again.deps.Challenges = stats, r.deps.Challenges
		again.run("b.test")
		time.Sleep(time.Minute)
		if x = stats.All(); len(x) != 1 || x[0].Issued != 2 || x[0].Wanted != 2 {
			t.Errorf("after a reload: %+v", x)
		}
		var none *Stats
		none.began(r.Source)
		none.count(r.Source, true)
		none.ended(r.Source)
	})
}

// TestTheSecondAuthorityIsNotHeldBack has the first authority ask for five hours of
// peace while the second is away, and is back soon.
func TestTheSecondAuthorityIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil, nil, "one")
		second := &fakeCA{ca: certtest.NewCA(t, "second"), challenges: r.ca.challenges, life: 90 * day, away: true}
		r.authorities = append(r.authorities, &authority{
			cfg: Directory{URL: "https://second.test/dir"}, source: r.Source, limit: &limiter{most: 10, in: 10 * time.Second}, http: &http.Client{Transport: second},
		})
		r.ca.limited = 5 * time.Hour
		r.run("a.test")
		time.Sleep(10 * time.Minute)
		_, err := r.fetch("a.test")
		if err == nil || !strings.Contains(err.Error(), errAway.Error()) {
			t.Errorf("while both refuse: %v", err)
		}
		from := time.Now()
		second.set(func() { second.away = false })
		time.Sleep(2 * time.Minute)
		r.must("a.test")
		if calls, _ := r.ca.since(from); calls != 0 {
			t.Errorf("%d calls to an authority that asked to be left alone", calls)
		}
	})
}

// TestStateAwayIsSpared has hundreds of names due while the shared state is away.
func TestStateAwayIsSpared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil, nil, "one")
		r.state.Fail(errAway)
		go func() { _ = r.Run(t.Context()) }()
		for i := range 300 {
			r.want([]string{fmt.Sprintf("n%d.test", i)}, "ecdsa-p256", false)
		}
		time.Sleep(time.Minute)
		before := r.state.Calls()
		time.Sleep(10 * time.Minute)
		if n := r.state.Calls() - before; n < 10 || n > 600 {
			t.Errorf("%d calls in ten minutes to a state that is away", n)
		}
		r.state.Fail(nil)
		time.Sleep(20 * time.Minute)
		r.must("n7.test")
	})
}

// TestReplicasRenewOnceByHand has two nodes told that their pair was revoked, one after
// the other: the second takes what the first got.
func TestReplicasRenewOnceByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newRig(t, nil, nil, "a")
		b := newRig(t, a.ca, a.state, "b")
		b.deps.Challenges = a.deps.Challenges
		began := time.Now()
		a.run("a.test")
		b.run("a.test")
		time.Sleep(day)
		old := b.must("a.test").Version
		for i, r := range []*rig{a, b} {
			if r.must("a.test").Version != old {
				continue // it has looked meanwhile, and nobody revoked what it has
			}
			_, _ = r.Fetch(t.Context(), secrets.Request{Resource: "id", Options: map[string]string{"names": "a.test", "key_type": "ecdsa-p256"}, Force: true})
			time.Sleep(30 * time.Second)
			if r.must("a.test").Version == old {
				t.Errorf("node %d has the pair that was revoked", i)
			}
		}
		if _, orders := a.ca.since(began); orders != 2 {
			t.Errorf("%d orders, want 2", orders)
		}
	})
}
