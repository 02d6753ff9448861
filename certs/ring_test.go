package certs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/certs/certtest"
)

// shake makes a handshake in memory, and reads one byte so that the client has its tickets.
func shake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	near, far := certs.NewPipe()
	s, c := tls.Server(near, server), tls.Client(far, client)
	done := make(chan error, 1)
	go func() {
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x"))
		}
		if err != nil {
			_ = near.Close()
		}
		done <- err
	}()
	err := c.Handshake()
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	if err != nil {
		_ = far.Close()
	}
	if serr := <-done; err == nil {
		err = serr
	}
	return c.ConnectionState(), err
}

// replica is one node's ticket keys and the policy that uses them.
type replica struct {
	tickets *certs.Tickets
	server  *tls.Config
}

// fleet starts replicas that share a state.
func fleet(t *testing.T, state certs.SharedState, n int) []replica {
	ca := certtest.NewCA(t, "root")
	slot, _ := certs.Advance(nil, certs.Candidate{Name: "slot", Pairs: []certs.Pair{ca.Issue(certtest.Leaf{Names: []string{"a.test"}, NotAfter: time.Now().Add(1000 * 24 * time.Hour)})}}, time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	var all []replica
	for range n {
		tickets := certs.NewTickets()
		if state != nil {
			tickets = certs.NewSharedTickets(state)
		}
		wg.Go(func() { _ = tickets.Run(ctx) })
		p, err := certs.NewPolicy(certs.PolicySpec{})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, replica{tickets, p.Config(certs.Base{Tickets: tickets, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, _, err := slot.Certificate(h)
			return c, err
		}})})
	}
	synctest.Wait()
	return all
}

// session is a client that has been at one replica.
func session(t *testing.T, r replica) *tls.Config {
	t.Helper()
	c := &tls.Config{InsecureSkipVerify: true, ServerName: "a.test", ClientSessionCache: tls.NewLRUClientSessionCache(1), MaxVersion: tls.VersionTLS12, Time: time.Now}
	if st, err := shake(t, r.server, c); err != nil || st.DidResume {
		t.Fatalf("%v, resumed %v", err, st.DidResume)
	}
	return c
}

// resumes tells whether the client's session is taken up; its ticket stays what it was.
func resumes(t *testing.T, r replica, c *tls.Config) bool {
	t.Helper()
	once := c.Clone()
	once.ClientSessionCache = frozen{c.ClientSessionCache}
	st, err := shake(t, r.server, once)
	if err != nil {
		t.Fatalf("a handshake fails: %v", err)
	}
	return st.DidResume
}

type frozen struct{ tls.ClientSessionCache }

func (frozen) Put(string, *tls.ClientSessionState) {}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestTicketKeysTurnDailyAndAreKnownForTwoDays(t *testing.T) {
	for _, state := range []certs.SharedState{nil, certtest.NewState()} {
		synctest.Test(t, func(t *testing.T) {
			r := fleet(t, state, 1)[0]
			c := session(t, r)
			pass(23 * time.Hour)
			if !resumes(t, r, c) {
				t.Error("a session of this morning is not resumed")
			}
			late := session(t, r)
			pass(2 * time.Hour) // a new key is in use
			if !resumes(t, r, c) || !resumes(t, r, late) {
				t.Error("a session of yesterday is not resumed")
			}
			pass(24 * time.Hour)
			if resumes(t, r, late) {
				t.Error("a key of more than two days ago opens a ticket")
			}
			if n := r.tickets.Status().Keys; n > 3 {
				t.Errorf("%d keys are kept", n)
			}
		})
	}
}

// T-12: a ticket of one replica is good at another, before, while and after the keys turn.
func TestReplicasShareTicketKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := certtest.NewState()
		all := fleet(t, state, 3)
		pass(time.Minute)
		for range 3 {
			pass(24*time.Hour - 20*time.Minute)
			for range 400 { // while the keys turn, at each replica at another moment
				c := session(t, all[0])
				if !resumes(t, all[1], c) || !resumes(t, all[2], c) {
					t.Fatalf("a ticket of one replica is nothing to another at %v", time.Now())
				}
				pass(3 * time.Second)
			}
		}
		value, _, err := state.Load(t.Context(), "tls/tickets")
		if err != nil || bytes.Contains(value, []byte("\n")) {
			t.Error(err)
		}
		late := fleet(t, state, 1)[0]
		if !resumes(t, late, session(t, all[0])) {
			t.Error("a replica that comes later knows no keys")
		}
	})
}

func TestRotatingNowIsForAllReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := certtest.NewState()
		all := fleet(t, state, 2)
		pass(time.Minute)
		c := session(t, all[0])
		all[1].tickets.RotateNow()
		if resumes(t, all[1], c) {
			t.Error("a revoked key opens a ticket")
		}
		pass(30 * time.Second)
		if resumes(t, all[0], c) {
			t.Error("the other replica goes on with the revoked key")
		}
		if !resumes(t, all[0], session(t, all[1])) {
			t.Error("the replicas do not share the new key")
		}
		// With the state away it is told once it is back, and not taken back before.
		c = session(t, all[0])
		state.Fail(errors.New("away"))
		all[1].tickets.RotateNow()
		pass(time.Hour)
		if resumes(t, all[1], c) {
			t.Error("a revoked key is back")
		}
		state.Fail(nil)
		pass(2 * time.Minute)
		if resumes(t, all[0], c) || resumes(t, all[1], c) || !resumes(t, all[0], session(t, all[1])) {
			t.Error("a rotation was lost while the state was away")
		}
	})
}

// TestDistrustOutlivesTheProcess has a node end after a compromise of which the state
// was never told: the one that starts then does not take the old keys back.
func TestDistrustOutlivesTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := certtest.NewState()
		before := fleet(t, state, 1)[0]
		pass(time.Minute)
		c := session(t, before)
		compromise := time.Now()
		pass(time.Minute)
		after := fleet(t, state, 1)[0]
		if !resumes(t, after, c) {
			t.Fatal("the state has no keys; the test shows nothing")
		}
		after.tickets.Distrust(compromise)
		if resumes(t, after, c) {
			t.Error("a key from before the compromise opens a ticket")
		}
		pass(time.Minute)
		if resumes(t, after, c) || resumes(t, before, c) {
			t.Error("a key from before the compromise is back, or at a replica")
		}
		c = session(t, before)
		after.tickets.Distrust(compromise)
		pass(time.Minute)
		if !resumes(t, after, c) {
			t.Error("keys from after the compromise are forgotten")
		}
	})
}

func TestAStateThatIsAwayStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := certtest.NewState()
		all := fleet(t, state, 2)
		pass(time.Minute)
		state.Fail(errors.New("away"))
		c := session(t, all[0])
		pass(20 * time.Hour)
		if !resumes(t, all[1], c) {
			t.Error("keys are forgotten with the state")
		}
		if s := all[0].tickets.Status(); s.Error == "" || time.Since(s.Shared) < 19*time.Hour {
			t.Errorf("%+v", s)
		}
		for range 20 {
			pass(6 * time.Hour)
			if s := all[0].tickets.Status(); time.Since(s.Since) > 26*time.Hour || s.Keys > 3 {
				t.Fatalf("a key is in use since %v, %d keys", time.Since(s.Since), s.Keys)
			}
		}
		if resumes(t, all[0], c) {
			t.Error("a key of five days ago opens a ticket")
		}
		if !resumes(t, all[0], session(t, all[0])) {
			t.Error("nothing is resumed while the state is away")
		}
		state.Fail(nil)
		pass(3 * time.Minute)
		if s := all[0].tickets.Status(); s.Error != "" || !resumes(t, all[1], session(t, all[0])) {
			t.Errorf("the replicas do not find together again: %+v", s)
		}
	})
}

func TestAStateThatIsGarbageIsNotTaken(t *testing.T) {
	const canary = "CANARYCANARYCANARY"
	short, err := json.Marshal([]map[string]any{{"from": time.Now(), "secret": canary}})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", canary, "[" + strings.Repeat("{},", 20) + "{}]", string(short)} {
		synctest.Test(t, func(t *testing.T) {
			state := certtest.NewState()
			version, err := state.Swap(t.Context(), "tls/tickets", "", []byte(bad))
			if err != nil {
				t.Fatal(err)
			}
			r := fleet(t, state, 1)[0]
			pass(time.Hour)
			if s := r.tickets.Status(); s.Error == "" || strings.Contains(s.Error, canary) {
				t.Errorf("%q: %+v", bad, s)
			}
			if !resumes(t, r, session(t, r)) {
				t.Error("sessions end with the state")
			}
			if _, now, _ := state.Load(t.Context(), "tls/tickets"); now != version {
				t.Error("what another program wrote was replaced")
			}
			r.tickets.RotateNow() // unless keys are not trusted any more
			pass(time.Minute)
			if s := r.tickets.Status(); s.Error != "" {
				t.Errorf("%+v", s)
			}
		})
	}
}

// echHouse serves a.test behind the public name edge.test.
func echHouse(t *testing.T, e *certs.ECH, minVersion string) (*tls.Config, *certtest.CA) {
	ca := certtest.NewCA(t, "root")
	p, err := certs.NewPolicy(certs.PolicySpec{MinVersion: minVersion})
	if err != nil {
		t.Fatal(err)
	}
	slots := map[string]*certs.Slot{}
	for _, n := range []string{"a.test", "edge.test"} {
		slots[n], _ = certs.Advance(nil, certs.Candidate{Name: n, Pairs: []certs.Pair{ca.Issue(certtest.Leaf{Names: []string{n}, NotAfter: time.Now().Add(1000 * 24 * time.Hour)})}}, time.Now())
	}
	config := p.Config(certs.Base{ECH: e, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, _, err := slots[h.ServerName].Certificate(h)
		return c, err
	}})
	return &tls.Config{
		MinVersion: tls.VersionTLS12, GetEncryptedClientHelloKeys: e.Keys,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return config, nil },
	}, ca
}

func TestEncryptedClientHello(t *testing.T) {
	for _, min := range []string{"1.2", "1.3"} {
		synctest.Test(t, func(t *testing.T) {
			state := certtest.NewState()
			e, err := certs.NewECH("Edge.Test.", state)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- e.Run(ctx) }()
			defer func() { cancel(); <-done }()
			pass(time.Minute)
			server, ca := echHouse(t, e, min)
			client := func(list []byte) *tls.Config {
				return &tls.Config{RootCAs: ca.Pool(), ServerName: "a.test", EncryptedClientHelloConfigList: list, Time: time.Now}
			}
			list, err := e.ConfigList()
			if err != nil {
				t.Fatal(err)
			}
			st, err := shake(t, server, client(list))
			if err != nil || !st.ECHAccepted || st.PeerCertificates[0].DNSNames[0] != "a.test" || st.CurveID != tls.X25519MLKEM768 {
				t.Fatalf("%v, accepted %v, group %v", err, st.ECHAccepted, st.CurveID)
			}
			if st, err := shake(t, server, client(nil)); err != nil || st.ECHAccepted {
				t.Errorf("a client without: %v", err)
			}
			// Another replica has the same keys.
			other, err := certs.NewECH("edge.test", state)
			if err != nil {
				t.Fatal(err)
			}
			if err := other.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			if theirs, _ := other.ConfigList(); !bytes.Equal(theirs, list) {
				t.Error("replicas tell different configurations")
			}
			// A configuration of yesterday is good, one of three days ago gets the one in use.
			pass(25 * time.Hour)
			next, err := e.ConfigList()
			if err != nil || bytes.Equal(next, list) {
				t.Fatalf("the keys do not turn: %v", err)
			}
			if st, err := shake(t, server, client(list)); err != nil || !st.ECHAccepted {
				t.Errorf("a configuration of yesterday: %v", err)
			}
			pass(24 * time.Hour)
			var rejected *tls.ECHRejectionError
			if _, err := shake(t, server, client(list)); !errors.As(err, &rejected) {
				t.Fatalf("a configuration that has ended: %v", err)
			}
			if now, _ := e.ConfigList(); !bytes.Equal(rejected.RetryConfigList, now) {
				t.Error("the client is not sent the configuration in use")
			}
			if st, err := shake(t, server, client(rejected.RetryConfigList)); err != nil || !st.ECHAccepted {
				t.Errorf("with what it was sent: %v", err)
			}
			e.RotateNow()
			if _, err := shake(t, server, client(rejected.RetryConfigList)); !errors.As(err, &rejected) {
				t.Errorf("a revoked key opens a hello: %v", err)
			}
		})
	}
	for _, bad := range []string{"", "edge", "edge..test", "*.edge.test", "10.0.0.1:443", "é.test", strings.Repeat("a.", 200) + "test"} {
		if _, err := certs.NewECH(bad, nil); err == nil {
			t.Errorf("public name %q is taken", bad)
		}
	}
	e, err := certs.NewECH("edge.test", nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = e.Keys(nil) }); n > 0 {
		t.Errorf("the keys of a handshake cost %v allocations", n)
	}
}
