// Package http3 serves HTTP/3 (RFC 9114) and meets the handler in the form of an
// exchange, as the other engines do.
//
// The transport, its handshakes and its flow control are quic-go's, and header sections
// are decoded by its qpack; what frames and fields mean is decided here. No dynamic
// table is offered, so no header section can wait for another one (RFC 9204, section 2.1.2).
//
// A connection has one goroutine that accepts streams (conn.go), one for each stream
// that the peer opens (control.go, stream.go), and one that looks at the time. A stream
// counts as open until its request is done with, also when the peer has cancelled it,
// so that no more requests run than there may be streams.
package http3
