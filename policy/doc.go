// Package policy is the plugin engine: what a plugin is ([Kind]), how configured
// plugins become the chain of one route ([Chain]), in which order they run
// ([Order]), and what they see of a request ([Context]).
//
// A chain is compiled when a snapshot is built. Running it is a walk over a slice
// of functions: no look-up, no reflection, no assertion. When authentication has
// named the consumer, the chain is resolved once more to the variant compiled for
// that consumer.
//
// Plugins live in folders below, one each, and never import one another.
package policy
