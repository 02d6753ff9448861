package main

import (
	"log/slog"
	"net/netip"
	"strings"

	"github.com/keyway-edge/keyway/edge/admin"
)

// healthDesk is the node as the admin listener sees it where health is concerned.
type healthDesk node

// Overview answers the health of an upstream.
func (h *healthDesk) Overview(upstreamID string) (admin.Overview, bool) {
	set := (*node)(h).upstreams()
	if set == nil {
		return admin.Overview{}, false
	}
	o, ok := set.Overview(upstreamID)
	if !ok {
		return admin.Overview{}, false
	}
	out := admin.Overview{Serving: o.Serving, Checked: o.Checked, Addresses: map[string][]admin.Address{}}
	for _, t := range o.Targets {
		a := admin.Address{Weight: t.Weight, State: strings.ToUpper(string(t.State))}
		if at, err := netip.ParseAddrPort(t.Address); err == nil {
			a.IP, a.Port = at.Addr().String(), int(at.Port())
		}
		out.Addresses[t.Target] = append(out.Addresses[t.Target], a)
	}
	return out, true
}

// Mark sets the health of a target, or of one address of it, by order.
func (h *healthDesk) Mark(upstreamID, target, address string, healthy bool) bool {
	n := (*node)(h)
	set := n.upstreams()
	switch {
	case set == nil:
		return false
	case address == "" && !set.Mark(upstreamID, target, healthy):
		return false
	case address != "" && !set.MarkAddress(upstreamID, target, address, healthy):
		return false
	}
	n.log.Info("health of a target was set by order", slog.String("upstream_id", upstreamID), slog.String("target", target), slog.String("address", address), slog.Bool("healthy", healthy))
	return true
}
