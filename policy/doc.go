// Package policy is the plugin engine: what a plugin is ([Kind]), how configured
// plugins become the chain of one route ([Chain]), in which order they run
// ([Order]), and what they see of a request ([Context]).
//
// Plugins are compiled when a snapshot is built, each configured one once; what did
// not change is taken over from the snapshot before. One that does not compile
// closes what it serves. Running a chain is a walk over a slice of functions: no
// look-up, no reflection, no assertion. Only where a plugin is also configured for
// single consumers is it picked when its turn comes, by the consumer that
// authentication has named by then.
//
// Plugins live in folders below, one each, and never import one another.
package policy
