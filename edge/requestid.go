package edge

import "math/rand/v2"

const hexDigits = "0123456789abcdef"

// requestIDs are request ids that were made and not given out: several share an allocation.
type requestIDs string

const idSize = 32

// next is 32 lower-case hex digits. The generator is seeded by the runtime from the
// system's entropy; an id names a request and protects nothing.
func (r *requestIDs) next() string {
	if len(*r) < idSize {
		var b [16 * idSize]byte
		for at := 0; at < len(b); at += 16 {
			v := rand.Uint64()
			for i := range 16 {
				b[at+i] = hexDigits[v>>60]
				v <<= 4
			}
		}
		*r = requestIDs(b[:])
	}
	id := (*r)[:idSize]
	*r = (*r)[idSize:]
	return string(id)
}
