package secrets

import "time"

// AlarmAfter is how long a source may fail before its stale credentials are an
// alarm rather than a remark.
const AlarmAfter = time.Hour

// Stats is a sample of the broker for metrics and the status page.
type Stats struct {
	Generation uint64
	States     map[State]int
	Sources    []SourceStats // by name in order
	Alarmed    int           // credentials not confirmed by their source for AlarmAfter or longer, near their end without a successor, or closed
}

// SourceStats counts what happened with one vault since the process began.
type SourceStats struct {
	Name     string
	Fetches  uint64 // looks that ended, renewals included
	Failures uint64 // of those, the ones that brought no value
	Refused  uint64 // of those, the ones whose value could not be used
	InFlight int
	LastGood time.Time // zero for never

	Renewals       uint64        // leases that were extended
	RenewalsFailed uint64        // that could not be; a new lease was asked for
	Revoked        uint64        // leases given back
	Latency        time.Duration // of all looks together
	Away           bool          // it does not answer
	AwaySince      time.Time
	NextProbe      time.Time // while it is away
	Parked         int       // looks that wait for it
	LastError      string
}
