// Package routing finds the route of a request.
//
// [Compile] turns the routes of a document into an immutable [Table]; a path is
// brought into its one form by [Normalize]; [Table.Match] finds the route, and
// [Match.UpstreamPath] says what path the origin is asked for. [Table.Explain]
// tells a human why.
//
// The order in which routes are tried is the one that traditional_compatible
// routers of the format were measured to have, not the one their documents
// promise: see priority in rank.go. Matching costs do not grow with the number
// of routes: hosts lead through maps to trees of path prefixes, and every rule
// carries its place in the one total order, so that the search is for the
// smallest number.
//
// Nothing here is locked and nothing is written after Compile.
package routing
