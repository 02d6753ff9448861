package translate

import (
	"slices"
	"strings"
)

// Port is how a listener of the document stands on this node.
type Port struct {
	Open   bool
	Reason string // why it is not, or not as it was asked for; "" for one that is about to be
}

// Ports is how the listeners of the document stand on this node, by their names. One that
// is not in it the node has not got to; nil is for nobody who knows.
type Ports map[string]Port

// Reasons of Programmed where a port is not open.
const (
	portUnavailable = "PortUnavailable" // the node tried
	portPending     = "Pending"         // it is about to
)

// listenName is what documents call the listener of a port, or the one of another protocol
// that goes beside the first.
func listenName(port Ref, protocol, first string) string {
	name := "gateway-" + strings.ReplaceAll(port.Name, ":", "-")
	if protocol != first {
		name += "-" + protocol
	}
	return name
}

// portOf is how the port of a listener stands, and whether that is known.
func (s *State) portOf(l *listenerState, ports Ports) (Port, bool) {
	var state portState
	if u := s.units[l.port()]; u != nil {
		state, _ = u.value.(portState)
	}
	p, ok := ports[listenName(l.port(), l.protocol(), state.First.Protocol)]
	return p, ok && (p.Open || p.Reason != "")
}

// unopened says why a listener that could be served is not: its port is not open. One that is
// has no reason, and may have a message. While nobody knows, as in the moment after a start,
// what was said of the same generation stays.
func (s *State) unopened(l *listenerState, m *moment, have []Condition, generation int64) (reason, message string) {
	if m.ports == nil {
		return "", ""
	}
	if why := s.Displaced(l.port()); why != "" {
		return portUnavailable, why
	}
	switch p, known := s.portOf(l, m.ports); {
	case known && p.Open:
		return "", p.Reason
	case known:
		return portUnavailable, "the port is not open on the node, which goes on trying: " + p.Reason
	}
	for _, c := range have {
		if c.Type == "Programmed" && c.ObservedGeneration == generation && (c.Status == "True" || c.Reason == portUnavailable) {
			if c.Status == "True" {
				return "", c.Message
			}
			return c.Reason, c.Message
		}
	}
	return portPending, "the port is about to be opened"
}

// shut says why a Gateway with right listeners, or a ListenerSet of it, is not served: none of
// its ports is open. list are the statuses of the object's own listeners; a Gateway (set is
// zero) is served through its ListenerSets too.
func (s *State) shut(g *gatewayState, list []ListenerStatus, set Ref, m *moment) (reason, message string) {
	for _, l := range list {
		i := slices.IndexFunc(l.Conditions, func(c Condition) bool { return c.Type == "Programmed" })
		switch c := l.Conditions[i]; {
		case c.Status == "True":
			return "", ""
		case reason == "" && (c.Reason == portUnavailable || c.Reason == portPending):
			reason, message = c.Reason, "listener "+l.Name+": "+c.Message
		}
	}
	if set == (Ref{}) && slices.ContainsFunc(g.Listeners, func(l *listenerState) bool {
		p, _ := s.portOf(l, m.ports)
		return l.Serves() && p.Open
	}) {
		return "", ""
	}
	return reason, message
}
