package acme

import "time"

// The rungs of failure: how long after the first, second, ... refused attempt the
// next one is made. They are those of certmagic: quick where a name was just being
// pointed here, seldom where nobody repairs it. An authority that counts the failures
// of an hour may end the quick ones with a 429, whose Retry-After then holds.
var rungs = [...]time.Duration{
	1 * time.Minute, 2 * time.Minute, 2 * time.Minute, 5 * time.Minute, // 10 min in all
	10 * time.Minute, 10 * time.Minute, 10 * time.Minute, 20 * time.Minute, 20 * time.Minute, 20 * time.Minute, 20 * time.Minute, // 2 h
	30 * time.Minute, 30 * time.Minute, 30 * time.Minute, 30 * time.Minute, 30 * time.Minute, 30 * time.Minute, // 5 h
	time.Hour, time.Hour, time.Hour, 2 * time.Hour, 2 * time.Hour, 3 * time.Hour, 3 * time.Hour,
	6 * time.Hour,
}

const (
	patience = 30 * 24 * time.Hour // after which a name is tried but once a day
	hopeless = 24 * time.Hour
)

// ladder answers how long to wait after the n-th refused attempt in a row, for a
// name that has been tried for so long. rnd is from 0 to 1: a tenth of the wait,
// so that names that failed together do not come back together.
func ladder(n int, tried time.Duration, rnd float64) time.Duration {
	wait := hopeless
	if tried < patience {
		wait = rungs[min(max(n, 1), len(rungs))-1]
	}
	return scale(wait, 1+rnd/10)
}

// awayWait answers how long a directory that did not answer n times in a row is
// left alone. Half of the step is certain; all is well a minute after it is back.
func awayWait(n int, rnd float64) time.Duration {
	const first, most = 5 * time.Second, 45 * time.Second
	step := most
	if n < 5 {
		step = min(most, first<<(max(n, 1)-1))
	}
	return scale(step, 0.5+rnd/2)
}

func scale(d time.Duration, f float64) time.Duration { return time.Duration(float64(d) * f) }

// renewal answers when to renew a certificate: before its end as told, or at the
// authority's suggestion if that is sooner; else at a moment of the suggested
// window, else with a third of its life left. rnd is from 0 to 1.
func renewal(from, to time.Time, before time.Duration, w *window, rnd float64) time.Time {
	life := to.Sub(from)
	at := to.Add(-life/3 - scale(life, rnd/100))
	if before > 0 {
		at = to.Add(-min(before, scale(life, 0.9)))
	}
	if w == nil {
		return at
	}
	suggested := w.Start.Add(scale(w.End.Sub(w.Start), rnd))
	if before > 0 && at.Before(suggested) {
		return at
	}
	return suggested
}
