package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// listenerLimits are a number for every listener, and others for some of them.
type listenerLimits struct {
	all int
	own map[string]int // by address
}

// of is the number of one listener.
func (l *listenerLimits) of(address string) int {
	if n, ok := l.own[address]; ok {
		return n
	}
	return l.all
}

// perListener reads a number, followed by listeners that differ: "5000, 0.0.0.0:8000=200".
func perListener(s *settings, text string) error {
	s.MaxPerListener = listenerLimits{own: map[string]int{}}
	for _, x := range commaList(text) {
		number := x
		address, word, differs := strings.Cut(x, "=")
		if differs {
			number = strings.TrimSpace(word)
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a whole number of at least 0, alone or behind an address and =", x)
		}
		if differs {
			s.MaxPerListener.own[strings.TrimSpace(address)] = n
		} else {
			s.MaxPerListener.all = n
		}
	}
	return nil
}

// agreeOnListeners checks that limits are for listeners that there are.
func (s *settings) agreeOnListeners(values map[string]origined) []error {
	var errs []error
	for a := range s.MaxPerListener.own {
		if !slices.Contains(s.ProxyListen, a) && !slices.Contains(s.ProxyTLSListen, a) &&
			!slices.ContainsFunc(s.StreamListen, func(l streamAddress) bool { return !l.udp && l.address == a }) {
			errs = append(errs, fmt.Errorf("setting max_connections_per_listener (from %s): no connections come in on %q; expected an address as proxy_listen, proxy_tls_listen or stream_listen has it", values["max_connections_per_listener"].from, a))
		}
	}
	return append(errs, s.agreeOnCluster(values)...)
}
