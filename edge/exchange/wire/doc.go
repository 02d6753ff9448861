// Package wire is the HTTP/1.1 codec that both sides of an exchange share: heads,
// field lines, chunks (RFC 9112). It reads strictly: what two readers could
// understand in two ways is refused, never repaired. It does no I/O of its own.
package wire
