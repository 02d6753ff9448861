// Package http2 serves HTTP/2 connections (RFC 9113) and meets the handler in
// the form of an exchange, as the HTTP/1.1 engine does.
//
// Frames, flow control and header compression are those of golang.org/x/net/http2;
// this package is the adapter around it: stricter judgement of what a request may
// look like, the limits of this edge, and a drain that says GOAWAY.
package http2
