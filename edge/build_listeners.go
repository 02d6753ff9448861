package edge

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/certs"
	"github.com/keyway-edge/keyway/routing/spec"
)

// What a listener speaks, as documents say it.
const (
	speaksHTTP  = "http"
	speaksHTTPS = "https"
	speaksTLS   = "tls" // streams by server name
	speaksTCP   = "tcp"
	speaksUDP   = "udp"
)

// Fixed is a listener of the settings.
type Fixed struct {
	Setting  string // proxy_listen
	Address  string // host:port
	Protocol string // as of spec.Listener; "" for one that documents have no part in
	UDP      bool
}

// Listen is one socket that documents want open. Listeners of the same port and protocol
// share one, and so do those of https and of tls.
type Listen struct {
	Protocol string // http, https, tls, tcp, udp
	// Streams makes names streams that routes of streams have, where the rest is https.
	Streams bool
	Address string // host:port; without a host for all addresses
	// Fixed is the listener of the settings that serves it, nil for a socket of its own.
	Fixed *Fixed
	// Listeners are those of the document, the first of which gives its name.
	Listeners []*spec.Listener

	policy    *certs.Policy // of names that have none of their own, nil without TLS
	hostnames *hostnames    // that its listeners tell apart, nil for none
}

// Name is what logs and metrics call it.
func (l *Listen) Name() string { return nameOf(l.Listeners[0]) }

func nameOf(l *spec.Listener) string {
	if l.Name != "" {
		return l.Name
	}
	return l.ID
}

// UDP says whether it is a socket of datagrams.
func (l *Listen) UDP() bool { return l.Protocol == speaksUDP }

// Network is tcp or udp.
func (l *Listen) Network() string {
	if l.UDP() {
		return "udp"
	}
	return "tcp"
}

func (l *Listen) secure() bool { return l.Protocol == speaksHTTPS || l.Protocol == speaksTLS }

// Listens are the sockets that the snapshot's document wants open, those of the settings
// that serve its listeners among them. The list is not to be changed.
func (s *Snapshot) Listens() []*Listen { return s.listens }

// ListenAt is what a port of an address leads to, nil for nothing that the document declares.
func (s *Snapshot) ListenAt(network string, at netip.AddrPort) *Listen {
	for _, l := range s.listens {
		if l.Network() == network && overlap(l.Address, at.String()) {
			return l
		}
	}
	return nil
}

// OwnListeners says whether the document has listeners of its own: then a port is that of
// the socket, and whom no route takes is answered as Gateway API has it.
func (s *Snapshot) OwnListeners() bool { return s.Table.OwnListeners() }

// policyFor is the TLS policy of a server name: its own, else that of where it was asked for.
func (s *Snapshot) policyFor(own *certs.Policy, at *gate) *certs.Policy {
	if own != nil && own != s.policies[""] {
		return own
	}
	return s.policyOf(at)
}

// PolicyOf is the TLS policy that a server name has on a listener of the document, nil for
// one of the settings alone.
func (s *Snapshot) PolicyOf(name string, l *Listen) *certs.Policy {
	p := s.Certs.Find(name).Policy
	switch {
	case p != nil && p != s.policies[""]:
		return p
	case l != nil && l.policy != nil:
		return l.policy
	}
	return s.policies[""]
}

// policyOf is the TLS policy of names that have none of their own.
func (s *Snapshot) policyOf(at *gate) *certs.Policy {
	if at != nil {
		if p := s.fallback[at.Address]; p != nil {
			return p
		}
		// A listener that documents no longer have keeps its policy to the end.
		if p := at.policy.Load(); p != nil {
			return p
		}
	}
	return s.policies[""]
}

// listeners makes the list of sockets that the document wants open.
func (w *build) listeners() {
	list, problems := PlanListeners(w.in.Document, w.Fixed)
	w.problem(problems...)
	w.next.listens = list
	for _, l := range list {
		if !l.secure() {
			continue
		}
		l.policy = w.next.policies[policyIDOf(l.Listeners)]
		if l.policy == nil { // documents are checked when they are read
			l.policy = w.next.policies[""]
		}
		l.hostnames = hostnamesOf(l.Listeners)
		if w.next.fallback == nil {
			w.next.fallback, w.next.hostnames = map[string]*certs.Policy{}, map[string]*hostnames{}
		}
		if l.Fixed == nil {
			w.next.fallback[l.Address], w.next.hostnames[l.Address] = l.policy, l.hostnames
			continue
		}
		for i := range w.Fixed { // the settings may have several addresses of the port
			if f := &w.Fixed[i]; f.Protocol == l.Fixed.Protocol && f.UDP == l.Fixed.UDP && overlap(f.Address, l.Address) {
				w.next.fallback[f.Address], w.next.hostnames[f.Address] = l.policy, l.hostnames
			}
		}
	}
}

// policyIDOf is the policy that the first of the listeners has that has one.
func policyIDOf(list []*spec.Listener) string {
	for _, l := range list {
		if l.TLSPolicy != "" {
			return l.TLSPolicy
		}
	}
	return ""
}

// PlanListeners makes sockets of a document's listeners, and answers which of them cannot
// be had beside others or those of the settings. Of two that contradict each other the
// first in the document is served.
func PlanListeners(doc *spec.Document, fixed []Fixed) ([]*Listen, spec.Problems) {
	var list []*Listen
	var problems spec.Problems
	refuse := func(l *spec.Listener, field, message string) {
		problems = append(problems, &spec.Problem{Pos: l.Pos, Entity: "x_keyway_listeners", ID: l.ID, Name: l.Name, Field: field, Reason: spec.ReasonConflict, Message: message})
	}
	for _, l := range doc.Listeners {
		next := &Listen{Protocol: l.Protocol, Address: addressOf(l), Listeners: []*spec.Listener{l}}
		f, why := settled(next, fixed)
		if why != "" {
			refuse(l, "port", why)
		}
		if f == nil && why != "" {
			continue
		}
		next.Fixed = f
		beside := func(o *Listen) bool { return o.Network() == next.Network() && overlap(o.Address, next.Address) }
		if i := slices.IndexFunc(list, func(o *Listen) bool {
			return beside(o) && o.Protocol != next.Protocol && !(o.secure() && next.secure())
		}); i >= 0 {
			o := list[i]
			refuse(l, "protocol", "listener "+strconv.Quote(o.Name())+" speaks "+o.Protocol+" on "+o.Network()+" "+o.Address+"; expected another port, or the same protocol (https and tls can share one); this listener is not served")
			continue
		}
		i := slices.IndexFunc(list, beside)
		if i < 0 {
			list = append(list, next)
			continue
		}
		if id := policyIDOf(list[i].Listeners); l.TLSPolicy != "" && id != "" && l.TLSPolicy != id {
			refuse(l, "tls_policy", "listener "+strconv.Quote(list[i].Name())+" has another policy on the same socket, and that one counts; expected the same, or policies of server names (x_keyway_tls_policy)")
		}
		list = join(list, i, next)
	}
	return list, problems
}

// join adds a listener to the i-th socket. One that is for all addresses takes in those of
// its port that are for one.
func join(list []*Listen, i int, next *Listen) []*Listen {
	o := list[i]
	o.take(next)
	if host, _, _ := net.SplitHostPort(next.Address); host != "" {
		return list
	}
	o.Address = next.Address
	return slices.DeleteFunc(list, func(x *Listen) bool {
		if x == o || x.Network() != o.Network() || !overlap(x.Address, o.Address) {
			return false
		}
		o.take(x)
		return true
	})
}

// take has a socket serve the listeners of another too.
func (l *Listen) take(o *Listen) {
	if l.Streams = l.Streams || o.Streams || l.Protocol != o.Protocol; l.Streams {
		l.Protocol = speaksHTTPS
	}
	l.Listeners = append(l.Listeners, o.Listeners...)
}

// addressOf is where a listener listens.
func addressOf(l *spec.Listener) string {
	host := l.Address
	if a, err := netip.ParseAddr(host); err == nil {
		if host = a.Unmap().String(); a.IsUnspecified() {
			host = ""
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(l.Port))
}

// overlap says whether two addresses of the same transport cannot both be listened on.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	return errA == nil && errB == nil && portA == portB && (hostA == hostB || everywhere(hostA) || everywhere(hostB))
}

// everywhere says whether a host stands for all addresses of the machine.
func everywhere(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "" || err == nil && a.IsUnspecified()
}

// settled is the listener of the settings that serves l, nil for none, and what is wrong with
// that: without one l cannot be served beside them.
func settled(l *Listen, fixed []Fixed) (*Fixed, string) {
	for i := range fixed {
		f := &fixed[i]
		if f.UDP != l.UDP() || !overlap(f.Address, l.Address) {
			continue
		}
		host, _, _ := net.SplitHostPort(f.Address)
		own, _, _ := net.SplitHostPort(l.Address)
		switch {
		case f.Protocol != l.Protocol:
			speaks := "is not for traffic"
			if f.Protocol != "" {
				speaks = "speaks " + f.Protocol
			}
			return nil, "the node's setting " + f.Setting + " has " + f.Address + ", which " + speaks + "; expected another port; this listener is not served"
		case !everywhere(host) && !strings.EqualFold(host, own):
			return f, "the node's setting " + f.Setting + " has " + f.Address + " and leaves other addresses of that port alone; expected that address, or another port; this listener is served there and nowhere else"
		}
		return f, ""
	}
	return nil, ""
}
