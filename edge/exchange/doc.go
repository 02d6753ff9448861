// Package exchange holds the one protocol-neutral form of a request and its
// response.
//
// A protocol engine (HTTP/1.1, HTTP/2, later HTTP/3) fills an [Exchange] from
// the bytes of its client, calls the handler, and then drains Response.Body to
// the client. The upstream side drains Request.Body and fills Response. Router,
// plugins, access log and metrics see only this form, so each of them works,
// and is tested, over every protocol.
//
// Strings in an Exchange are ordinary Go strings: an engine copies the head of
// a message once and every name and value is a part of that copy. They stay
// valid after the exchange ends, and holding one keeps its whole head alive.
//
// This is a leaf package: it imports the standard library only.
package exchange
