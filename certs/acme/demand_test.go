package acme

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/certs/certtest"
)

// roundTrip is a function as a transport.
type roundTrip func(*http.Request) *http.Response

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

// TestDemand admits what a rule allows, asks once about the rest, asks again a day
// later, forgets what is allowed no longer, and shares with a replica.
func TestDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state, log := certtest.NewState(), slog.New(slog.NewTextHandler(io.Discard, nil))
		var asked, status atomic.Int64
		status.Store(200)
		open := func() *Demand {
			d := NewDemand(state, log)
			d.client.Transport = roundTrip(func(r *http.Request) *http.Response {
				asked.Add(1)
				w := httptest.NewRecorder()
				if w.Code = int(status.Load()); r.URL.Query().Get("domain") == "no.test" {
					w.Code = 404
				}
				return w.Result()
			})
			go func() { _ = d.Run(t.Context()) }()
			return d
		}
		rules := []Rule{{Issuer: "x", OnDemand: OnDemand{Allow: []string{"*.shops.test", "s-?.test"}, Routes: true, Ask: "http://ask.test/?key=1"}, Hosts: map[string]bool{"routed.test": true}}}
		d, replica := open(), open()
		d.Want("early.shops.test") // before there are rules: nothing
		synctest.Wait()
		d.Rules(rules)
		replica.Rules(rules)
		for range 3 {
			for _, name := range []string{"A.shops.test", "s-1.test", "routed.test", "ask.me.test", "no.test", "127.0.0.1", "bad_name.test", "localhost", "-x.shops.test", "x..test"} {
				d.Want(name)
			}
			time.Sleep(time.Second)
		}
		want := []string{"a.shops.test", "ask.me.test", "routed.test", "s-1.test"}
		if got := d.Names("x"); !slices.Equal(got, want) {
			t.Errorf("names %v", got)
		}
		if asked.Load() != 2 {
			t.Errorf("asked %d times", asked.Load())
		}
		time.Sleep(demandSync + time.Second)
		if got := replica.Names("x"); !slices.Equal(got, want) {
			t.Errorf("the replica has %v", got)
		}
		// Trouble where it asks changes nothing; a no does.
		status.Store(500)
		time.Sleep(askAgain + time.Minute)
		if got := d.Names("x"); !slices.Equal(got, want) {
			t.Errorf("names %v", got)
		}
		status.Store(403)
		time.Sleep(2 * time.Minute)
		if got := d.Names("x"); slices.Contains(got, "ask.me.test") || len(got) != 3 {
			t.Errorf("after a no: %v", got)
		}
		rules = slices.Clone(rules) // those before are in use
		rules[0].Allow = nil
		d.Rules(rules)
		if got := d.Names("x"); !slices.Equal(got, []string{"routed.test"}) {
			t.Errorf("without its rule: %v", got)
		}
		d.Rules(nil)
		if got := d.Names("x"); got != nil {
			t.Errorf("without rules: %v", got)
		}
	})
}
