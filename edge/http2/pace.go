package http2

import "time"

// paceLeast is what a connection has to take within the time of a stall, while streams
// wait for windows: what one read of an upstream gives, as of a client of HTTP/1.1.
const paceLeast = readSize

// pace judges how fast a client takes a piece of a body, once it has to be waited for. A
// window that opens by a byte at a time is no progress: what counts is what was sent.
type pace struct {
	by    time.Time // when it is judged; zero before the first wait
	left  int       // bytes of the piece that were not sent when the time began
	taken int64     // bytes of bodies that the connection had sent then
}

// begin starts the time of a stall. c.mu is held.
func (p *pace) begin(c *conn, left int, now time.Time) {
	*p = pace{by: now.Add(c.e.set.WriteStall), left: left, taken: c.taken}
}

// tooSlow says whether the client has taken too little of the piece in its time. One that
// takes enough on the whole may spread it over its streams as it likes, but not starve one:
// a quarter of a fair share is due to each. c.mu is held.
func (p *pace) tooSlow(c *conn, left int) bool {
	all := c.taken - p.taken
	return all < paceLeast || int64(p.left-left)*4*int64(max(c.running, 1)) < all
}
