//go:build race

package spec

// raced says that the race detector runs, which has a time of its own.
const raced = true
