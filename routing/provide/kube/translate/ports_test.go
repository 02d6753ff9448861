package translate

import (
	"maps"
	"strings"
	"testing"
	"time"
)

// TestProgrammedIsWhatTheNodeSays: a listener is programmed while its port is open.
func TestProgrammedIsWhatTheNodeSays(t *testing.T) {
	const two = `{name: t, port: 99, protocol: TCP}`
	for _, c := range []struct {
		what  string
		ports Ports
		want  string // Programmed of the Gateway, of the listeners http and t
		says  string
	}{
		{"nobody knows", nil, "True/Programmed True/Programmed True/Programmed", ""},
		{"open", Ports{"gateway-80-tcp": {Open: true}, "gateway-99-tcp": {Open: true}}, "True/Programmed True/Programmed True/Programmed", ""},
		{"at one address", Ports{"gateway-80-tcp": {Open: true, Reason: "there and nowhere else"}, "gateway-99-tcp": {Open: true}}, "True/Programmed True/Programmed True/Programmed", "; there and nowhere else"},
		{"one is taken", Ports{"gateway-80-tcp": {Open: true}, "gateway-99-tcp": {Reason: "address already in use"}}, "True/Programmed True/Programmed False/PortUnavailable", "address already in use"},
		{"all are", Ports{"gateway-80-tcp": {Reason: "permission denied"}, "gateway-99-tcp": {Reason: "address already in use"}}, "False/PortUnavailable False/PortUnavailable False/PortUnavailable", "listener http: the port is not open on the node, which goes on trying: permission denied"},
		{"not got to", Ports{}, "False/Pending False/Pending False/Pending", "the port is about to be opened"},
		{"about to be tried", Ports{"gateway-80-tcp": {}, "gateway-99-tcp": {Open: true}}, "True/Programmed False/Pending True/Programmed", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := state(t, ofGateway(httpAll, two))
			s.Document()
			got, text := programmed(t, s, c.ports)
			if got != c.want || !strings.Contains(text, c.says) {
				t.Errorf("%s, saying %s\nwant %s, saying %s", got, text, c.want, c.says)
			}
		})
	}
}

// programmed takes the status of the Gateway over, and answers its condition Programmed and
// those of its listeners, with what they say.
func programmed(t *testing.T, s *State, ports Ports) (short, text string) {
	t.Helper()
	g, _ := s.Object(Ref{KindGateway, "infra", "edge"}).(*Gateway)
	next := *g
	if v := s.Status(g, published, ports, time.Unix(1, 0)); v != nil {
		next.Status.Conditions, _ = v["conditions"].([]Condition)
		next.Status.Listeners, _ = v["listeners"].([]ListenerStatus)
		next.Status.Addresses, _ = v["addresses"].([]StatusAddress)
		if n, ok := v["attachedListenerSets"].(int); ok && n > 0 {
			next.Status.AttachedListenerSets = &n
		}
		next.ResourceVersion += "+"
		s.Put(&next)
		s.Document()
	}
	if v := s.Status(&next, published, maps.Clone(ports), time.Unix(2, 0)); v != nil {
		t.Errorf("what is said already is said again: %v", v)
	}
	var out []string
	add := func(list []Condition) {
		for _, c := range list {
			if c.Type == "Programmed" {
				out, text = append(out, c.Status+"/"+c.Reason), text+"; "+c.Message
			}
		}
	}
	add(next.Status.Conditions)
	for _, l := range next.Status.Listeners {
		add(l.Conditions)
	}
	return strings.Join(out, " "), text
}

// TestProgrammedStaysWhileNobodyKnows: a node that has just started takes back nothing.
func TestProgrammedStaysWhileNobodyKnows(t *testing.T) {
	s := state(t, ofGateway(httpAll))
	s.Document()
	taken, open := Ports{"gateway-80-tcp": {Reason: "address already in use"}}, Ports{"gateway-80-tcp": {Open: true}}
	for _, c := range []struct {
		ports Ports
		want  string
	}{
		{taken, "False/PortUnavailable False/PortUnavailable"},
		{Ports{}, "False/PortUnavailable False/PortUnavailable"},
		{open, "True/Programmed True/Programmed"},
		{Ports{}, "True/Programmed True/Programmed"},
	} {
		if got, _ := programmed(t, s, c.ports); got != c.want {
			t.Errorf("with %v: %s; want %s", c.ports, got, c.want)
		}
	}
	// Of a Gateway that was changed since it is nobody's word.
	g, _ := s.Object(Ref{KindGateway, "infra", "edge"}).(*Gateway)
	next := *g
	next.Generation, next.ResourceVersion = 5, "new"
	s.Put(&next)
	s.Document()
	if got, _ := programmed(t, s, Ports{}); got != "False/Pending False/Pending" {
		t.Errorf("changed: %s", got)
	}
}

// TestListenerSetIsProgrammed: a set is served where one of its own ports is open, and a
// Gateway through its sets too.
func TestListenerSetIsProgrammed(t *testing.T) {
	s := state(t, strings.Replace(ofGateway(httpAll), "  gatewayClassName: keyway", "  allowedListeners: {namespaces: {from: All}}\n  gatewayClassName: keyway", 1)+`
kind: ListenerSet
metadata: {name: more, namespace: shop, generation: 4}
spec: {parentRef: {name: edge, namespace: infra}, listeners: [{name: s, port: 99, protocol: TCP}]}
---
`)
	s.Document()
	for _, c := range []struct {
		ports        Ports
		gateway, set string
	}{
		{Ports{"gateway-80-tcp": {Reason: "taken"}, "gateway-99-tcp": {Open: true}}, "True/Programmed False/PortUnavailable", "True/Programmed"},
		{Ports{"gateway-80-tcp": {Open: true}, "gateway-99-tcp": {Reason: "taken"}}, "True/Programmed True/Programmed", "False/PortUnavailable"},
	} {
		if got, _ := programmed(t, s, c.ports); got != c.gateway {
			t.Errorf("the Gateway, with %v: %s; want %s", c.ports, got, c.gateway)
		}
		v := s.Status(s.Object(Ref{KindListenerSet, "shop", "more"}), published, c.ports, time.Unix(1, 0))
		list, _ := v["conditions"].([]Condition)
		if len(list) != 2 || list[0].Status != "True" || list[1].Status+"/"+list[1].Reason != c.set {
			t.Errorf("the set, with %v: %v; want %s", c.ports, list, c.set)
		}
	}
}
