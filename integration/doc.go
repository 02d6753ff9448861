// Package integration proves the product against real servers and holds the laws
// of this repository. Nothing imports it.
package integration
