package ratelimiting

import "time"

// period is a kind of window. Windows are those of the UTC calendar: all clients'
// hours begin at the full hour.
type period uint8

const (
	second period = iota
	minute
	hour
	day
	month
	year
	periods = 6
)

var periodNames = [periods]string{"Second", "Minute", "Hour", "Day", "Month", "Year"}

// length in seconds of the periods that have one.
var length = [periods]int64{second: 1, minute: 60, hour: 3600, day: 86400}

// start is the begin of the window that now, in Unix seconds, is in.
func (p period) start(now int64) int64 {
	if n := length[p]; n > 0 {
		return now - now%n // no leap seconds in Unix time: days begin at multiples
	}
	y, m, _ := time.Unix(now, 0).UTC().Date()
	if p == year {
		m = time.January
	}
	return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC).Unix()
}

// end is when that window ends.
func (p period) end(now int64) int64 {
	start := p.start(now)
	if n := length[p]; n > 0 {
		return start + n
	}
	t := time.Unix(start, 0).UTC()
	if p == year {
		return t.AddDate(1, 0, 0).Unix()
	}
	return t.AddDate(0, 1, 0).Unix()
}
