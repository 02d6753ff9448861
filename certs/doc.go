// Package certs holds the certificates of the edge.
//
// A [Bundle] is one checked pair. A [Slot] is one configured certificate in time:
// what is active, what served before and can be brought back, and what was refused
// and why. [Advance] stages a new version through every check, an in-memory
// handshake the last of them, and answers the next slot; a version that fails one
// leaves the active one serving. [Rollback] goes back, [Rulings] condemn what was
// revoked, [Rehearse] makes every check and activates nothing. An [Index] finds
// slot and [Policy] for a server name. All of these are immutable; session ticket
// keys ([Tickets]) turn on their own.
//
// Nothing here does I/O, and a look-up takes no lock and allocates nothing. What
// replicas share goes through a [SharedState].
package certs
