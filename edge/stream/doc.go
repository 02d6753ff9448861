// Package stream carries connections and datagrams on which this node speaks no
// protocol of its own: TCP, TLS that ends here, TLS that is only looked at, and UDP.
//
// [Engine] takes the connections that [edge.Server] accepts, finds their route in the
// snapshot in force, which they keep to their end, and copies bytes between client and
// target; between two plain sockets the kernel does. [Packets] listens for datagrams
// itself and keeps a table of sessions, one for each client.
package stream
