package main

import (
	"fmt"
	"slices"

	"github.com/keyway-edge/keyway/edge"
	"github.com/keyway-edge/keyway/edge/http3"
)

// agreeOnHTTP3 checks that HTTP/3 is switched on where it can be had.
func (s *settings) agreeOnHTTP3(values map[string]origined) []error {
	var errs []error
	for _, a := range s.HTTP3 {
		if a != "all" && a != "clear" && !slices.Contains(s.ProxyTLSListen, a) {
			errs = append(errs, fmt.Errorf("setting http3 (from %s): nothing listens for TLS on %q; expected an address as proxy_tls_listen has it, or all, or clear", values["http3"].from, a))
		}
	}
	for _, a := range s.ProxyTLSListen {
		if s.speaksHTTP3(a) && s.proxied(a) {
			errs = append(errs, fmt.Errorf("setting http3 (from %s): the listener on %s expects PROXY headers (proxy_protocol), which nobody sends over UDP; expected listeners without", values["http3"].from, a))
		}
	}
	return errs
}

// speaksHTTP3 says whether a TLS listener serves HTTP/3 too.
func (s *settings) speaksHTTP3(address string) bool {
	return slices.Contains(s.HTTP3, "all") || slices.Contains(s.HTTP3, address)
}

// newHTTP3 makes the HTTP/3 engine.
func newHTTP3(h *edge.Handler, s *settings) *http3.Engine {
	return http3.New(h, http3.Settings{
		MaxStreams: s.HTTP2Streams, HeaderList: s.HeaderLimit, Line: s.LineLimit, Target: s.TargetLimit, Fields: s.FieldLimit,
		Head: s.HeaderTimeout, Idle: s.IdleTimeout, BodyIdle: s.BodyIdle, MinRate: s.MinBodyRate, WriteStall: s.WriteStall, MaxBody: s.BodyLimit,
	})
}
