// Package kube provides documents from a Kubernetes API server: Ingresses, Gateways,
// Services and what belongs to them.
//
// Reflectors of client-go list and watch each kind of object and put what they get
// into an inbox, where only the latest of each object stands. One loop takes from
// it, has package translate make the document, and offers that. A server that is
// away, or an account that lost its rights, changes nothing that was seen.
//
// Objects are read into structs that have the fields that are used, and no other
// copy of them is kept. Secrets are not read here but by the credential broker, by
// reference; kinds whose definitions the server does not have count as empty.
//
// Traffic needs nothing of this package but reading. What it writes (status, events)
// is written by the replica that holds a Lease, seldom, and only where it differs.
package kube
