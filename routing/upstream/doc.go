// Package upstream is the way out: it picks a target, has a connection to it,
// sends the request and hands back the response while its body still streams.
//
// [Build] compiles the services, upstreams and targets of a document to an
// immutable [Set]. What must outlive a reload lives beside it: positions and
// health of targets are carried from the previous Set where the target is the
// same, and idle connections, TLS sessions and resolved names belong to the
// node's one [Pools].
//
// [Cluster.Do] drives a connection directly: the goroutine that serves the
// client writes the request and reads the response, and nobody else touches the
// socket. Only a request body that is streamed gets a second goroutine, because
// an origin may answer before it has read everything.
//
// HTTP/2 connections are shared ([h2conn]): each has a goroutine that reads. Requests
// queue what they send, and one more goroutine writes while there is anything queued.
//
// A connection is known by its identity: address, protocol, TLS or not, server
// name, fingerprint of the trusted roots and of the client certificate. After a
// new certificate or other roots a request therefore can't ride an old
// connection; it starves in its pool and is closed when its idle time is up.
//
// What is deliberately absent: repairing an origin's answer. A response whose
// framing is ambiguous is a 502, bytes that nobody asked for close their
// connection, and a request is only replayed when that is known to be safe.
package upstream
