package iprestriction

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// set is a set of addresses. A look-up costs one probe per different prefix
// length in it, however many ranges there are. Immutable.
type set struct {
	prefixes map[netip.Prefix]struct{}
	v4, v6   []int // the lengths that occur
}

// parse reads an address or a CIDR range. Bits below the mask are ignored.
func parse(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return p, fmt.Errorf("expected an address or a CIDR range: %w", err)
		}
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("expected an address or a CIDR range: %w", err)
	}
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// newSet answers nil for an empty list.
func newSet(texts []string) (*set, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	s := &set{prefixes: make(map[netip.Prefix]struct{}, len(texts))}
	for _, text := range texts {
		p, err := parse(text)
		if err != nil {
			return nil, err
		}
		s.prefixes[p] = struct{}{}
		lengths := &s.v4
		if p.Addr().Is6() {
			lengths = &s.v6
		}
		if !slices.Contains(*lengths, p.Bits()) {
			*lengths = append(*lengths, p.Bits())
		}
	}
	return s, nil
}

func (s *set) has(ip netip.Addr) bool {
	if s == nil {
		return false
	}
	lengths := s.v4
	if ip.Is6() {
		lengths = s.v6
	}
	for _, bits := range lengths {
		p, err := ip.Prefix(bits)
		if err != nil {
			continue // no such length in this family; newSet lets none in
		}
		if _, ok := s.prefixes[p]; ok {
			return true
		}
	}
	return false
}
