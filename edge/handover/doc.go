// Package handover lets a new process take the place of a running one: the listening
// sockets go over with their queues, a Link carries what the two have to tell each other,
// and datagrams that belong to the older process are passed on to it until it has ended.
// It also speaks to service managers (Notifier), and closes listeners without losing
// those who wait in their queues (Quiesce) or have not been answered (ServeHTTP). What is
// agreed upon and when is the business of whoever uses it.
package handover
