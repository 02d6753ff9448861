package main

import (
	"fmt"
	"strings"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/stream"
)

// streamAddress is one listener of stream_listen.
type streamAddress struct {
	address              string
	secure, udp, proxied bool
}

// streamAddresses reads the setting stream_listen: "0.0.0.0:9000, 0.0.0.0:9443 ssl".
func streamAddresses(s *settings, text string) error {
	s.StreamListen = nil
	if text == "off" || text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		words := strings.Fields(part)
		if len(words) == 0 {
			return fmt.Errorf("%q has an empty address", text)
		}
		a := streamAddress{address: words[0]}
		if err := hostPort(a.address); err != nil {
			return err
		}
		for _, flag := range words[1:] {
			switch flag {
			case "ssl":
				a.secure = true
			case "udp":
				a.udp = true
			case "proxy_protocol":
				a.proxied = true
			default:
				return fmt.Errorf("%q is no flag of %s", flag, a.address)
			}
		}
		if a.udp && (a.secure || a.proxied) {
			return fmt.Errorf("%s: datagrams have neither ssl nor proxy_protocol", a.address)
		}
		s.StreamListen = append(s.StreamListen, a)
	}
	return nil
}

// streamEndpoints are the listeners of connections.
func (s *settings) streamEndpoints() []edge.Endpoint {
	var all []edge.Endpoint
	for _, a := range s.StreamListen {
		if a.udp {
			continue
		}
		e := edge.Endpoint{Name: "stream", Address: a.address, TLS: a.secure, Proxied: a.proxied, Stream: true, MaxConns: s.MaxPerListener.of(a.address)}
		if a.secure {
			e.Name = "stream-tls"
		}
		all = append(all, e)
	}
	return all
}

// newPackets makes the listeners of datagrams.
func (n *node) newPackets() *stream.Packets {
	s := n.settings
	p := &stream.Packets{
		Sockets: n.sockets, Current: n.publisher.Current, Observer: n.telemetry, Log: n.log,
		MaxSessions: s.MaxUDPSessions, MaxPerClient: s.MaxPerClient, Grace: s.Grace,
	}
	for _, a := range s.StreamListen {
		if a.udp {
			p.Addresses = append(p.Addresses, a.address)
		}
	}
	return p
}
