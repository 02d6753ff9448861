package spec

// Balancing (x_keyway_balancing) is how an upstream spreads requests beyond what
// the format knows of its own.
type Balancing struct {
	SlowStart      float64 // seconds in which a target that comes back gets its whole weight; 0 for at once
	ZonePreference bool    // prefer targets whose x_keyway_zone is the node's
	Subset         int     // at most so many targets for each node; 0 for all
	PanicThreshold float64 // below this percentage of healthy weight health is ignored; 0 for never
	RecoverAfter   float64 // seconds after which a target that traffic took out is tried again; 0 for never
	MaxConnections int     // requests under way at one target; 0 for no limit
	MaxPending     int     // requests that wait for a place at one target
	PendingTimeout float64 // seconds for which they wait
	RetryBudget    float64 // retries in percent of requests
}

// Retry (x_keyway_retry) is when a service's requests, or those of one route, are sent
// to another target beyond failed connections, for requests that do no harm twice.
type Retry struct {
	OnStatuses []int // answers after which another target is tried
	HedgeAfter int   // milliseconds after which a second target is asked too; 0 for never
	TryTimeout int   // milliseconds for one try, until its response head; 0 for the read timeout
	Attempts   *int  // tries after the first, nil for the service's retries
	Backoff    int   // milliseconds at the least between two tries; 0 for none
}

// DefaultBalancing is what an upstream without x_keyway_balancing does.
func DefaultBalancing() Balancing {
	return Balancing{RecoverAfter: 30, MaxPending: 100, PendingTimeout: 1, RetryBudget: 20}
}

func (b *Balancing) fields(visit func(field)) {
	visit(field{"slow_start", &b.SlowStart, isSeconds})
	visit(field{"zone_preference", &b.ZonePreference, kept})
	visit(field{"subset", &b.Subset, isPort})
	visit(field{"panic_threshold", &b.PanicThreshold, probeThreshold})
	visit(field{"recover_after", &b.RecoverAfter, isSeconds})
	visit(field{"max_connections", &b.MaxConnections, isPort})
	visit(field{"max_pending", &b.MaxPending, isPort})
	visit(field{"pending_timeout", &b.PendingTimeout, isSeconds})
	visit(field{"retry_budget", &b.RetryBudget, probeThreshold})
}

func (r *Retry) fields(visit func(field)) {
	visit(field{"on_statuses", &r.OnStatuses, isStatus})
	visit(field{"try_timeout", &r.TryTimeout, retryTimeout})
	visit(field{"hedge_after", &r.HedgeAfter, retryTimeout})
	visit(field{"attempts", &r.Attempts, serviceRetries})
	visit(field{"backoff", &r.Backoff, retryTimeout})
}
