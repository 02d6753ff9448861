package translate

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"
)

// addressClaim says which address a Gateway asks for, and which it had.
type addressClaim struct {
	Object  Ref
	Created time.Time
	Asks    string // "" for any
	Had     string // as its status says
}

// address gives a Gateway an address of its own, where there are some to give. Without
// one nothing is served on its listeners.
func (w *run) address(g *Gateway, s *gatewayState) {
	if len(w.cfg.GatewayAddresses) == 0 {
		return
	}
	claim := addressClaim{Object: RefOf(g), Created: g.CreationTimestamp}
	for _, a := range g.Spec.Addresses {
		claim.Asks = cmp.Or(claim.Asks, a.Value)
	}
	for _, a := range g.Status.Addresses {
		claim.Had = cmp.Or(claim.Had, a.Value)
	}
	unit := Ref{unitAddresses, "", ""}
	w.give(unit, claim)
	given, _ := w.peeked(unit).(map[Ref]string)
	s.Address = given[claim.Object]
	for _, l := range s.Listeners {
		l.Address, l.unusable = s.Address, l.unusable || s.Address == ""
	}
}

// addresses gives each Gateway an address: the one that it asks for, else the one that it
// had, else one by its name; of several that want the same one to the oldest.
func (w *run) addresses() {
	var list []addressClaim
	for _, s := range w.collected(w.self) {
		if c, ok := s.v.(addressClaim); ok {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b addressClaim) int {
		return cmp.Or(a.Created.Compare(b.Created), a.Object.compare(b.Object))
	})
	pool, given, taken := w.cfg.GatewayAddresses, map[Ref]string{}, map[string]bool{}
	give := func(c *addressClaim, address string) {
		if given[c.Object] == "" && !taken[address] && slices.Contains(pool, address) {
			given[c.Object], taken[address] = address, true
		}
	}
	for i := range list {
		give(&list[i], list[i].Asks)
	}
	for i := range list {
		if list[i].Asks == "" {
			give(&list[i], list[i].Had)
		}
	}
	for i := range list {
		if list[i].Asks != "" {
			continue // it is not to have another
		}
		h := fnv.New32a()
		_, _ = h.Write([]byte(list[i].Object.Namespace + "/" + list[i].Object.Name)) // a hash takes everything
		for j := range pool {
			give(&list[i], pool[(int(h.Sum32()%uint32(len(pool)))+j)%len(pool)]) //nolint:gosec // a list in a setting is short
		}
	}
	w.say(given)
}
