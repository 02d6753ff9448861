package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// Where Linux says how much memory a container may take: control groups of version 2, then 1.
var cgroupFiles = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// containerMemory is how much the container may take, 0 for no limit.
func containerMemory(files []string) int64 {
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil || n <= 0 || n > math.MaxInt64/2 { // "max", or version 1's way to say so
			return 0
		}
		return n
	}
	return 0
}

// guardMemory resolves memory_limit to bytes, 0 for no guard. The collector is told
// to try harder well before the guard refuses requests, unless GOMEMLIMIT says how hard.
func guardMemory(setting string) int64 {
	limit := int64(0)
	switch setting {
	case "off":
		return 0
	case "auto":
		limit = containerMemory(cgroupFiles)
		if own := debug.SetMemoryLimit(-1); os.Getenv("GOMEMLIMIT") != "" && own != math.MaxInt64 && (limit == 0 || own < limit) {
			limit = own
		}
	default:
		limit, _ = parseSize(setting) // settings are checked when they are read
	}
	if limit > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit / 100 * 85)
	}
	return limit
}

// spareHeap is how much garbage the collector lets come together at the least, and
// spareLimit the least memory_limit that has room for it.
const (
	spareHeap  = 16 << 20
	spareLimit = 256 << 20
)

// spare is what makes the collector wait, for as long as it is kept: what is in use of a
// small node's heap is so little that a hundred handshakes would start it again. Nothing
// is ever written into it, so that it takes addresses and no memory.
func spare(limit int64) []byte {
	if limit > 0 && limit < spareLimit {
		return nil
	}
	return make([]byte, spareHeap)
}

var errSize = errors.New("it is no number of bytes with KiB, MiB or GiB behind it")

// parseSize reads "512MiB".
func parseSize(text string) (int64, error) {
	for unit, factor := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		number, ok := strings.CutSuffix(text, unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 32)
		if err != nil || n <= 0 {
			break
		}
		return n * factor, nil
	}
	return 0, fmt.Errorf("%q: %w", text, errSize)
}

// memoryLimit reads the setting memory_limit.
func memoryLimit(s *settings, text string) error {
	if text != "auto" && text != "off" {
		n, err := parseSize(text)
		if err != nil {
			return err
		}
		if n < 64<<20 {
			return fmt.Errorf("%q is less than the node itself takes; 64MiB is the least", text)
		}
	}
	s.MemoryLimit = text
	return nil
}
