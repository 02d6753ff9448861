// Package translate makes a document of Kubernetes objects.
//
// A [State] holds the objects that were put into it and what was made of each. Its
// work is a graph of units: an Ingress, a port of a Service, the endpoints of that
// port, a server name, a plugin. A unit reads objects and what other units made, and
// what it read is remembered, also where there was nothing: when something changes,
// what read it is made again, and only that. Endpoints are units of their own, which
// no Ingress reads. What several units say of one thing (who claims a server name,
// who uses a plugin) is a collection, which another unit reads.
//
// The result depends on the objects alone, not on the order in which they came, with
// one exception that is wanted: an object that got worse, so that dropping what is
// wrong with it would widen access, keeps its last good form. Without one its routes
// are closed: they answer 503. Everything that was refused is a [Finding].
//
// Nothing here talks to a server, and no value of a Secret gets here: documents hold
// references, which the broker resolves.
package translate
