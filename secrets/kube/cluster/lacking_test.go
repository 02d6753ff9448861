package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestAKindThatIsNotThereIsLookedForOnce: what one of many namespaces heard is believed by the
// others for a while, and each has the kind's objects some 20 s after its definition came.
func TestAKindThatIsNotThereIsLookedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{version: 1, objects: 1, status: http.StatusNotFound, watches: make(chan struct{})}
		api := &API{Base: &url.URL{Scheme: "http", Host: "server.test"}, Client: &http.Client{Transport: s}}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		defer all.Wait()
		defer cancel()
		const namespaces = 100
		var keepers []*kept
		for i := range namespaces {
			k, ns := &kept{}, fmt.Sprintf("n%d", i)
			x := &Source{API: api, Path: "apis/x.test/v1/namespaces/" + ns + "/things", Kind: "Thing", Plural: "things", Namespace: ns, Custom: true, Keeper: k, Log: slog.New(slog.DiscardHandler)}
			all.Go(func() { _ = x.Run(ctx) })
			keepers = append(keepers, k)
		}
		asked := func() int {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.asked)
		}
		time.Sleep(30 * time.Second) // they begin at one time, and drift apart
		before := asked()
		time.Sleep(5 * time.Minute)
		if n := asked() - before; n < 20 || n > 100 {
			t.Errorf("%d tries in five minutes; expected one in five seconds or so, not one for each namespace", n)
		}
		s.set(func() { s.status = 0 })
		time.Sleep(22 * time.Second)
		for i, k := range keepers {
			if k.is() != "1 of 1" {
				t.Fatalf("namespace %d has %s", i, k.is())
			}
		}
	})
}
