package wire

import "strings"

// copySize is how many bytes of heads share an allocation: about six small ones. Whoever
// keeps a part of one keeps so much.
const copySize = 2 << 10

// Copies makes strings of the heads that come on a connection, several in each
// allocation, but for the first: a connection that becomes a WebSocket has no other, and
// keeps it. The zero value is ready; one goroutine at a time may use it.
type Copies struct {
	b     strings.Builder
	begun bool
}

// Of is a copy of p.
func (c *Copies) Of(p []byte) string {
	if c.b.Cap()-c.b.Len() < len(p) {
		size := len(p)
		if c.begun {
			size = max(size, copySize)
		}
		c.begun = true
		c.b.Reset() // strings that were made keep what they lie in
		c.b.Grow(size)
	}
	from := c.b.Len()
	_, _ = c.b.Write(p) // never fails
	return c.b.String()[from:]
}

// Release lets go of memory. Strings that were made stay as they are.
func (c *Copies) Release() { c.b.Reset() }
