package kube

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyway-edge/keyway/routing/spec"
)

// TestWhatAFileHasIsNotProgrammed: an object of which a document of a file has the place says
// so in its status and as an Event, until the file has it no longer. Before it is known what
// files have nothing is written.
func TestWhatAFileHasIsNotProgrammed(t *testing.T) {
	const (
		consumers = kongV1 + ofShop + "kongconsumers/"
		consumer  = `{"metadata": {"generation": 7, "annotations": {"kubernetes.io/ingress.class": "keyway"}}, "username": "`
	)
	file := func(text string) *spec.Document {
		doc, problems := spec.Load([]spec.Source{{Name: "shop.yaml", Data: []byte("_format_version: \"3.0\"\n" + text)}}, nil)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		return doc
	}
	var beside atomic.Pointer[spec.Document] // nil for not read yet
	var current atomic.Pointer[Provider]
	var asked atomic.Int64
	x := provide(t, func(c *Config, s *server) {
		c.Identity = "replica-1"
		c.LeftOut = func() (spec.Problems, bool) {
			asked.Add(1)
			doc, _ := current.Load().Current()
			if beside.Load() == nil || doc == nil {
				return nil, false
			}
			_, problems := spec.Merge(beside.Load(), doc)
			return problems, true
		}
		s.put(consumers+"ann", consumer+`ann"}`)
		s.put(consumers+"bob", consumer+`bob"}`)
	})
	current.Store(x.Provider)
	x.shop()
	x.until("shop.i.web.a.test.80")
	poll(t, "what is left out is asked for", func() bool { return asked.Load() > 1 })
	if wrote := x.wrote("kongconsumers"); len(wrote) > 0 {
		t.Errorf("nobody knows what is served, and this was written: %v", wrote)
	}
	beside.Store(file("consumers: [{username: ann}]\n"))
	reason := func(name string) any { return x.at(consumers+name, "status.conditions.0.reason") }
	poll(t, "the consumer of the file's name is not programmed", func() bool { return reason("ann") == "Conflicted" })
	message, _ := x.at(consumers+"ann", "status.conditions.0.message").(string)
	if status := x.at(consumers+"ann", "status.conditions.0.status"); status != "False" || !strings.Contains(message, "'ann' already declared at shop.yaml:2") {
		t.Errorf("%v: %s", status, message)
	}
	poll(t, "the other one is", func() bool { return reason("bob") == "Programmed" })
	poll(t, "an Event tells of it", func() bool { return len(x.wrote("/events")) == 1 })
	x.server.mu.Lock()
	for path, o := range x.objects {
		if strings.Contains(path, "/events/") && o["reason"] != "KongConfigurationApplyFailed" {
			t.Errorf("%v", o)
		}
	}
	x.server.mu.Unlock()
	before := len(x.wrote("kongconsumers"))
	<-time.After(2 * look)
	if now := x.wrote("kongconsumers"); len(now) != before {
		t.Errorf("written although nothing changed: %v", now[before:])
	}
	beside.Store(file("consumers: [{username: eve}]\n"))
	poll(t, "the file has it no longer", func() bool { return reason("ann") == "Programmed" })
	if _, problems := x.Current(); len(problems) > 0 {
		t.Errorf("what is displaced is told as refused too: %v", problems)
	}
}
