// Package http1 is this project's own HTTP/1.1 server engine (RFC 9112).
//
// One goroutine serves one connection: it reads a head into a pooled buffer,
// parses it with package wire, calls the handler, and writes the answer, small
// ones with their head in one write. Nothing else runs per request: the client is
// watched by a second goroutine only while an upstream is slow, and buffers go
// back while a connection idles. In the steady state a request costs one
// allocation, the copy of its head.
package http1
