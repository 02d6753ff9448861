// Package cluster lists, watches and writes objects of a Kubernetes API server, whatever
// their kind: reflectors of client-go do the first two, requests are made here, so that
// the typed clients stay out of the binary.
//
// What a kind's objects are is said by a Keeper, which also keeps them. A server that is
// away, or an account that lost its rights, changes nothing that was kept; a kind whose
// definition the server does not have counts as empty and is looked for again.
package cluster
