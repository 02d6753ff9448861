// Package secrets is the credential broker.
//
// A certificate or a secret is a lease: one version of a resource that a
// [Source] answered, with the rules of its life. The [Broker] fetches what the
// configuration refers to ([Ref]), looks again when a lease says so or a source
// hints at a change, and publishes an immutable [Set] in which every reference
// has a value or a reason for having none. Polling, watching and leasing share
// that one path, and expiry is understood in that one place.
//
// What goes wrong stays small. A source that is away is left alone as a whole: one
// look at a time, a second and more apart, whatever the number of leases; what was
// good stays in use to its hard end, and what was removed on purpose does not. A
// replaced value is acceptable for its overlap, and its lease lives as long. A new
// version whose first uses fail is taken back as a whole lease ([Trial]), an
// operator can hold one ([Broker.Pin]), and who was refused with a value can have
// it looked at anew, once for all who ask ([Broker.Force]).
//
// A value never prints ([Value]). Every change is an event in the [Ledger], an
// append-only chain that can be verified offline.
//
// This package imports the standard library only; sources live in folders below.
package secrets
