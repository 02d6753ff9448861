package edge

import (
	"net/netip"
	"strings"

	"github.com/keyway-edge/keyway/routing/spec"
)

// hostnames are the names that the listeners of one socket tell apart. A nil one tells none.
type hostnames struct {
	named map[string]spoken // by hostname in lower case, "*.example.com" and "*" among them
}

// spoken is what is spoken with those who ask for a hostname.
type spoken uint8

const (
	speaksRequests spoken = 1 << iota
	speaksStreams
)

// hostnamesOf makes those of listeners that share a socket.
func hostnamesOf(list []*spec.Listener) *hostnames {
	h := &hostnames{named: map[string]spoken{}}
	for _, l := range list {
		how := speaksRequests
		if l.Protocol == speaksTLS {
			how = speaksStreams
		}
		for _, name := range l.Hostnames {
			h.named[strings.ToLower(strings.TrimSuffix(name, "."))] |= how
		}
	}
	if len(h.named) == 0 {
		return nil
	}
	return h
}

// of answers the most specific hostname that a name in lower case has, and what is spoken
// there; "" for none.
func (h *hostnames) of(name string) (string, spoken) {
	if h == nil {
		return "", 0
	}
	if how := h.named[name]; how != 0 && name != "*" {
		return name, how
	}
	for rest := name; ; {
		i := strings.IndexByte(rest, '.')
		if i < 0 {
			break
		}
		rest = rest[i+1:]
		if how := h.named["*."+rest]; how != 0 {
			return "*." + rest, how
		}
	}
	if how := h.named["*"]; how != 0 {
		return "*", how
	}
	return "", 0
}

// astray says whether a request for a host belongs to another hostname of the socket than the
// connection: one whose client asked for a server name can be told to make a connection
// for the host (RFC 9110, section 15.5.20).
func (h *hostnames) astray(serverName, host string) bool {
	if h == nil || serverName == "" {
		return false
	}
	want, _ := h.of(hostOnly(host))
	if want == "" {
		return false // it is nobody's, and routes say so
	}
	own, _ := h.of(strings.TrimSuffix(lower(serverName), "."))
	return own != want
}

// Reserved says whether a server name is for requests alone, or for streams alone, by the
// hostnames of the listeners at an address.
func (s *Snapshot) Reserved(local netip.AddrPort, serverName string) (requests, streams bool) {
	l := s.ListenAt("tcp", local)
	if l == nil {
		return false, false
	}
	_, how := l.hostnames.of(strings.TrimSuffix(lower(serverName), "."))
	return how == speaksRequests, how == speaksStreams
}
