package secrets

import "time"

// The bounds of looking again.
const (
	backoffFirst = time.Second
	backoffMost  = time.Minute
	wakeLeast    = 100 * time.Millisecond // no arithmetic may make a storm
	lookGap      = 200 * time.Millisecond // between two looks at one resource, however many hints come
)

// standing is what the next wake is computed from.
type standing struct {
	lease    Lease         // the one in use, zero for none
	life     Life          // with defaults
	failures int           // failed or refused looks in a row
	absent   bool          // the source answered "no such secret", or a wanted field is not in the secret
	after    time.Duration // the source asked to be left alone this long
}

// nextWake answers how long to wait before looking at a resource again. rnd is
// from 0 to 1, so that nodes that started together don't ask together.
func nextWake(s standing, now time.Time, rnd float64) time.Duration {
	wait := s.regular(rnd)
	if s.after > 0 {
		wait = max(wait, s.after+scale(s.after, rnd/10))
	}
	// A value with a hard end needs its successor before that end, whatever ttl says.
	if left := s.lease.NotAfter.Sub(now); !s.lease.NotAfter.IsZero() && s.failures == 0 && left > 0 {
		wait = min(wait, scale(left, (2-rnd/5)/3))
	}
	return max(wait, wakeLeast)
}

// regular is the wait without special demands of the source.
func (s standing) regular(rnd float64) time.Duration {
	switch {
	case s.absent:
		return scale(s.life.NegTTL, 0.9+rnd/5)
	case s.failures > 0:
		most := backoffMost
		if s.failures < 7 {
			most = min(most, backoffFirst<<(s.failures-1))
		}
		return scale(most, rnd) // full jitter: the spread is what empties a queue of waiting nodes
	case s.lease.TTL > 0:
		ttl := max(s.lease.TTL, s.life.MinTTL)
		if s.life.MaxTTL > 0 {
			ttl = min(ttl, s.life.MaxTTL)
		}
		return scale(ttl, (2+(rnd-0.5)/5*2)/3) // two thirds, give or take a tenth of that
	default:
		return scale(s.life.TTL, 1-rnd/10)
	}
}

func scale(d time.Duration, f float64) time.Duration { return time.Duration(float64(d) * f) }
