// Package http2 serves HTTP/2 connections (RFC 9113) and meets the handler in
// the form of an exchange, as the HTTP/1.1 engine does.
//
// A connection has one goroutine that reads (conn.go) and takes frames apart
// (frames.go, headers.go); header sections are decoded by golang.org/x/net's hpack.
// A request is answered on a goroutine of its stream (stream.go), which waits for the
// next request when it is done, so that a busy connection starts none. Frames that
// go out are queued on the connection and written by whoever finds nobody writing
// (output.go): responses that are ready together leave in one write. The reader
// itself never writes, so that no peer can stop it by not reading.
//
// What costs a peer nothing and this side work is counted (glitch.go) and ended.
package http2
