package main

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/telemetry"
	"github.com/keyway-edge/keyway/routing/provide/kube/translate"
)

// fixed are the listeners that the settings have: documents share them, or leave their
// ports alone.
func (s *settings) fixed() []edge.Fixed {
	var list []edge.Fixed
	add := func(setting, protocol string, addresses []string) {
		for _, a := range addresses {
			list = append(list, edge.Fixed{Setting: setting, Address: a, Protocol: protocol})
		}
	}
	add("proxy_listen", "http", s.ProxyListen)
	add("proxy_tls_listen", "https", s.ProxyTLSListen)
	for _, a := range s.StreamListen {
		f := edge.Fixed{Setting: "stream_listen", Address: a.address, Protocol: "tcp", UDP: a.udp}
		switch {
		case a.udp:
			f.Protocol = "udp"
		case a.secure:
			f.Protocol = "tls"
		}
		list = append(list, f)
	}
	for _, a := range s.ProxyTLSListen {
		if s.speaksHTTP3(a) {
			list = append(list, edge.Fixed{Setting: "http3", Address: a, UDP: true})
		}
	}
	add("status_listen", "", s.StatusListen)
	add("status_tls_listen", "", s.StatusTLSListen)
	add("admin_listen", "", s.AdminListen)
	add("admin_tls_listen", "", s.AdminTLSListen)
	add("manager_listen", "", s.ManagerListen)
	add("manager_tls_listen", "", s.ManagerTLSListen)
	if s.starts() && s.EchoListen != "off" {
		add("echo_listen", "", []string{s.EchoListen})
	}
	return list
}

// pattern is what listeners of documents have of the settings that are for every listener.
// Those in clear always take clients that begin with HTTP/2: routes for gRPC may lead from
// there, and nothing else would tell it.
func (s *settings) pattern() edge.Endpoint {
	return edge.Endpoint{H2C: true, NoHTTP3: slices.Contains(s.HTTP3, "clear"), MaxConns: s.MaxPerListener.all}
}

// listenerFacts is what status and metrics tell of listeners of documents.
func (n *node) listenerFacts() telemetry.Listeners {
	return telemetry.Listeners{States: n.declared.States(), Failures: n.declared.Failures()}
}

// ports is how listeners of documents stand, for the status of those whose they are: what is
// open or failing, and what cannot be had beside the node's own listeners.
func (n *node) ports() translate.Ports {
	ports := translate.Ports{}
	for _, l := range n.declared.States() {
		p := translate.Port{Open: l.State != "failing"}
		if !l.Since.IsZero() { // or it was not tried yet
			p.Reason = l.Reason
		}
		for _, name := range append(l.Shared, l.Name) {
			ports[name] = p
		}
	}
	if snap := n.publisher.Current(); snap != nil {
		for _, p := range snap.Problems {
			if had := ports[p.Name]; p.Entity == "x_keyway_listeners" && p.Field != "tls_policy" {
				ports[p.Name] = translate.Port{Open: had.Open, Reason: p.Message}
			}
		}
	}
	return ports
}

// portOf is the port that a request for a URL comes to.
func portOf(u *url.URL, given int) (uint16, error) {
	text := u.Port()
	switch {
	case given != 0:
		text = strconv.Itoa(given)
	case text == "" && u.Scheme == "https":
		text = "443"
	case text == "":
		text = "80"
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("%s is no port; expected 1 to 65535", text)
	}
	return uint16(port), nil
}

// listenerAt says which of the document's listeners a request comes to. It answers nil where
// the document declares none.
func listenerAt(s *edge.Snapshot, port uint16, secure bool) (*edge.Listen, string) {
	if len(s.Listens()) == 0 {
		return nil, ""
	}
	l := s.ListenAt("tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	if l == nil {
		return nil, fmt.Sprintf("the document declares none for port %d", port)
	}
	names := make([]string, len(l.Listeners))
	for i, x := range l.Listeners {
		names[i] = nameOr(x.Name, x.ID)
	}
	text := strings.Join(names, ", ") + " (" + l.Protocol + " on " + l.Address
	if l.Fixed != nil {
		text += ", by the setting " + l.Fixed.Setting
	}
	text += ")"
	if want := map[bool]string{false: "http", true: "https"}[secure]; l.Protocol != want {
		text += ", which does not speak " + want
	}
	return l, text
}
