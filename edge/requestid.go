package edge

import "math/rand/v2"

const hexDigits = "0123456789abcdef"

// newRequestID is 32 lower-case hex digits. The generator is seeded by the
// runtime from the system's entropy; an id names a request and protects nothing.
func newRequestID() string {
	var b [32]byte
	for half := range 2 {
		v := rand.Uint64()
		for i := range 16 {
			b[half*16+i] = hexDigits[v>>60]
			v <<= 4
		}
	}
	return string(b[:])
}
