package translate

import (
	"cmp"
	"slices"
	"strings"
)

// Hostnames of listeners and routes are "" for every host, "*.example.com" for all that
// end so, or one host.

// within says whether every host of one hostname is one of another.
func within(a, b string) bool {
	if b == "" || a == b {
		return true
	}
	rest, wild := strings.CutPrefix(b, "*")
	return wild && a != "" && strings.HasSuffix(a, rest)
}

// meet is the hostname of the hosts that two have in common.
func meet(a, b string) (common string, any bool) {
	switch {
	case within(a, b):
		return a, true
	case within(b, a):
		return b, true
	}
	return "", false
}

// exactHost is how specific a hostname without a wildcard is.
const exactHost = 127

// specific orders hostnames that one host matches: one without a wildcard goes before
// those with one, of these the longer ones.
func specific(hostname string) int {
	switch {
	case hostname == "":
		return 0
	case strings.HasPrefix(hostname, "*"):
		return min(strings.Count(hostname, "."), exactHost-1)
	}
	return exactHost
}

// place is where a route takes requests: on ports, for a hostname, but not for those
// that are of a more specific listener there.
type place struct {
	host    string
	address string // "" for all
	ports   []int
	except  []string
}

// places are where a route takes requests, given the listeners that it is attached to,
// its hostnames, and all listeners of its Gateways.
func places(on []*listenerState, hostnames []string, all []*listenerState) []place {
	var list []place
	for _, l := range on {
		for _, h := range common(l.Hostname, hostnames) {
			p := place{host: h, address: l.Address, ports: []int{l.Port}}
			if !p.isolate(l, all) {
				continue
			}
			i := slices.IndexFunc(list, func(o place) bool { return o.host == h && o.address == l.Address && slices.Equal(o.except, p.except) })
			switch {
			case i < 0:
				list = append(list, p)
			case !slices.Contains(list[i].ports, l.Port):
				list[i].ports = append(list[i].ports, l.Port)
			}
		}
	}
	for _, p := range list {
		slices.Sort(p.ports)
	}
	slices.SortFunc(list, func(a, b place) int {
		return cmp.Or(strings.Compare(a.host, b.host), strings.Compare(a.address, b.address), slices.Compare(a.except, b.except))
	})
	return list
}

// common are the hostnames of a route as far as a listener has them, none for no host.
func common(listener string, hostnames []string) []string {
	if len(hostnames) == 0 {
		return []string{listener}
	}
	var list []string
	for _, h := range hostnames {
		if c, any := meet(strings.ToLower(h), listener); any && !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	return list
}

// isolate leaves to more specific listeners what is theirs. It answers false where that
// is everything.
func (p *place) isolate(l *listenerState, all []*listenerState) bool {
	for _, o := range all {
		if o.Gateway != l.Gateway || o.Port != l.Port || o.Hostname == l.Hostname || !o.Accepted() || o.transport() != l.transport() || !within(o.Hostname, l.Hostname) {
			continue
		}
		switch {
		case within(p.host, o.Hostname):
			return false
		case within(o.Hostname, p.host) && !slices.Contains(p.except, o.Hostname):
			p.except = append(p.except, o.Hostname)
		}
	}
	slices.Sort(p.except)
	said := slices.Clone(p.except)
	p.except = slices.DeleteFunc(p.except, func(e string) bool { // within another that is said anyway
		return slices.ContainsFunc(said, func(o string) bool { return o != e && within(e, o) })
	})
	return true
}
