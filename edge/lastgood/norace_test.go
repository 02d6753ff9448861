//go:build !race

package lastgood

const raced = false
