//go:build !unix

package edge

import "net"

func maxDescriptors() int { return 0 }

func descriptorOf(net.Conn) int { return -1 }

// Descriptors are how many descriptors the process has open, and how many it may have;
// 0 for what cannot be known.
func Descriptors() (open, most int) { return 0, 0 }
