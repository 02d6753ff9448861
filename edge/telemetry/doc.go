// Package telemetry tells what a node does: metrics in the Prometheus format, the
// access log, the ledger's entries of each build, and the status endpoints.
//
// Counting happens on the request's path and is a few atomic additions; names and
// labels are put together when somebody asks. The Prometheus client is used here
// only: other packages expose numbers that this one samples.
package telemetry
