// Package edge serves: it builds snapshots, publishes them, listens, terminates
// TLS, and answers each request with the snapshot that it began with.
//
// Everything that a connection or a request needs is in one immutable [Snapshot].
// [Build] makes the next one from the previous one, a document and a set of
// credentials, reusing what did not change; [Publisher] holds the only pointer
// to the current one and is the only place that replaces it. There is no state
// half applied and no lock on the request's path.
//
// The life of a request is one screen: [Handler.Handle].
package edge
