// Package lastgood keeps, sealed on disk, what a node served last: the document
// that was published and the values that its credentials had. A node that restarts
// while its documents are bad or its sources are away serves from it within seconds.
//
// The file is written whole or not at all, a second after a publication and at most
// once in a few seconds. It is encoded, sealed and written piece by piece: what is kept is
// never in memory a second time, and requests go first between the pieces. Its head says which
// format it has, which node wrote it, and the how-manieth it is. A second small
// file outside the folder remembers the highest number, so that an older copy that
// was put back is told from the latest. What is cut short, changed in any bit, of
// another node, older or of another format is refused with the reason, and is never
// a reason not to serve: the node then starts as if there were none.
//
// Three kinds of key: a file of the operator's, one that is wrapped by a service
// such as Vault's transit engine (then that service is needed at a start from here,
// and nobody who takes the disk alone can read anything), or one that is made in the
// data folder, which protects copies of the sealed file and nothing else.
package lastgood
