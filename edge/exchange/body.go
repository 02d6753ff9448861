package exchange

import (
	"errors"
	"time"
)

// BodyError is an error in reading a request body that is the client's doing:
// malformed chunks, too long, too slow, gone. The handler answers Status and no
// target's health suffers for it.
type BodyError struct {
	Status int // 400, 408, 413; 0 when the client is gone
	Err    error
}

func (e *BodyError) Error() string { return "request body: " + e.Err.Error() }

func (e *BodyError) Unwrap() error { return e.Err }

// What every engine finds wrong with request bodies.
var (
	ErrBodyTooLarge = errors.New("it is longer than the node's limit of request bodies")
	ErrBodyTooSlow  = errors.New("it comes more slowly than the node's least rate")
	ErrBodySilent   = errors.New("nothing of it came for too long")
	ErrBodyLength   = errors.New("it is not as long as its Content-Length says")
	ErrBodyStopped  = errors.New("nobody wants the rest of it")
)

// rateGrace is how long a body may be slow before its average counts.
const rateGrace = 10 * time.Second

// TooSlow judges a body of which so many bytes came since it began, by the least that has
// to come in a second, 0 for nothing: a trickle would hold a request open for ever.
func TooSlow(bytes int64, began time.Time, least int) bool {
	if least <= 0 {
		return false
	}
	took := time.Since(began)
	return took > rateGrace && float64(bytes) < took.Seconds()*float64(least)
}
