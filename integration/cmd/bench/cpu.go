package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is the CPU time of each process of a peer.
type usage map[int]time.Duration

func (u usage) total() (sum time.Duration) {
	for _, d := range u {
		sum += d
	}
	return sum
}

// since is what was used after before. A process that has ended took its figure with
// it: there is none then.
func (u usage) since(before usage) (time.Duration, error) {
	for pid := range before {
		if _, ok := u[pid]; !ok {
			return 0, fmt.Errorf("process %d has ended while it was measured", pid)
		}
	}
	return u.total() - before.total(), nil
}

// cpuTime reads the clocks of a process and of all of its descendants.
func cpuTime(pid int) (usage, error) {
	tree, err := descendants(pid)
	if err != nil {
		return nil, err
	}
	used := usage{}
	for _, id := range tree {
		d, err := processClock(id)
		if id == pid && err != nil {
			return nil, fmt.Errorf("reading the clock of process %d: %w", pid, err)
		}
		if err == nil { // otherwise it has ended meanwhile
			used[id] = d
		}
	}
	return used, nil
}

// descendants lists a process and all that came from it.
func descendants(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("reading /proc: %w", err)
	}
	parent := map[int]int{}
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		if f := strings.Fields(afterName(text)); len(f) > 1 {
			parent[id], _ = strconv.Atoi(f[1])
		}
	}
	if _, ok := parent[pid]; !ok {
		return nil, errors.New("the process has ended")
	}
	var tree []int
	for id := range parent {
		for at := id; at > 1; at = parent[at] {
			if at == pid {
				tree = append(tree, id)
				break
			}
		}
	}
	return tree, nil
}

// afterName is what /proc/PID/stat says after the name, in which anything may be.
func afterName(stat []byte) string {
	text := string(stat)
	return text[strings.LastIndex(text, ")")+1:]
}
