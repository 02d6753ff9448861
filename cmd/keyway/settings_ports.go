package main

import (
	"fmt"
	"strconv"
	"strings"
)

// portMaps reads pairs of a port that clients see and that of a listener: "80:8000, 443:8443".
func portMaps(s *settings, text string) error {
	s.PortMaps = map[uint16]uint16{}
	for _, pair := range commaList(text) {
		seen, own, ok := strings.Cut(pair, ":")
		from, err := strconv.ParseUint(seen, 10, 16)
		to, bad := strconv.ParseUint(own, 10, 16)
		if !ok || err != nil || bad != nil || from == 0 || to == 0 {
			return fmt.Errorf("%q is no pair of ports", pair)
		}
		if other, twice := s.PortMaps[uint16(to)]; twice {
			return fmt.Errorf("%d leads to port %d, as %d does; a listener has one port for its clients", from, to, other)
		}
		s.PortMaps[uint16(to)] = uint16(from)
	}
	return nil
}
