package spec

// Balancing (x_keyway_balancing) is how an upstream spreads requests beyond what
// the format knows of its own.
type Balancing struct {
	SlowStart      float64 // seconds in which a target that comes back gets its whole weight; 0 for at once
	ZonePreference bool    // prefer targets whose x_keyway_zone is the node's
	Subset         int     // at most so many targets for each node; 0 for all
	PanicThreshold float64 // below this percentage of healthy weight health is ignored; 0 for never
}

// DefaultBalancing is what an upstream without x_keyway_balancing does.
func DefaultBalancing() Balancing { return Balancing{} }

func (u *Upstream) balancing() optional {
	o := optional{given: u.Balancing != nil, begin: func() group {
		b := DefaultBalancing()
		u.Balancing = &b
		return u.Balancing.fields
	}}
	if o.given {
		o.group = u.Balancing.fields
	}
	return o
}

func (b *Balancing) fields(visit func(field)) {
	visit(field{"slow_start", &b.SlowStart, isSeconds})
	visit(field{"zone_preference", &b.ZonePreference, kept})
	visit(field{"subset", &b.Subset, isPort})
	visit(field{"panic_threshold", &b.PanicThreshold, probeThreshold})
}
