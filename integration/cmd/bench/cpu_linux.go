package main

import (
	"syscall"
	"time"
	"unsafe"
)

// processClock is the CPU time of a process to the nanosecond, with its threads that have
// ended: the clock that clock_getcpuclockid(3) names. /proc/PID/stat rounds the same
// sum down to ticks of 10 ms, and the threads' schedstat forgets those that ended.
func processClock(pid int) (time.Duration, error) {
	const scheduled = 2 // CPUCLOCK_SCHED: what the scheduler has counted, user and system
	var ts syscall.Timespec
	id := int32(^pid<<3 | scheduled)
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(id), uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		return 0, errno
	}
	return time.Duration(ts.Nano()), nil
}
