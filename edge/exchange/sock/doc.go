// Package sock reads and writes TCP sockets with fewer steps than the standard
// library needs.
//
// Sockets of Go programs never block, so a read or a write takes a microsecond or two
// and the scheduler need not be told of it; telling it twice for each call costs a
// tenth of the call. What has to wait is left to the runtime's poller as ever, and so
// are writes that are long. Only Linux has the fast way; elsewhere [New] answers nil
// and callers use the connection as it is.
package sock
