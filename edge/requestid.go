package edge

import "math/rand/v2"

const hexDigits = "0123456789abcdef"

// requestIDs are request ids that were made and not given out: several share an allocation.
type requestIDs string

const (
	idSize = 32
	fewIDs = 16
)

// next is 32 lower-case hex digits: one of those that were made, or of n that are made now
// if there is none. The generator is seeded by the runtime from the system's entropy; an id
// names a request and protects nothing.
func (r *requestIDs) next(n int) string {
	if len(*r) < idSize {
		var all [fewIDs * idSize]byte
		b := all[:n*idSize]
		for at := 0; at < len(b); at += 16 {
			v := rand.Uint64()
			for i := range 16 {
				b[at+i] = hexDigits[v>>60]
				v <<= 4
			}
		}
		*r = requestIDs(b)
	}
	id := (*r)[:idSize]
	*r = (*r)[idSize:]
	return string(id)
}
