package agent

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// bootTime is how long the kernel has been running, suspended time included.
func bootTime() (time.Duration, bool) {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0, false
	}
	return time.Duration(ts.Nano()), true
}

// memory reads proc_meminfo(5), proc_pid_status(5) and proc_pid_smaps_rollup(5); what cannot
// be read is 0. The kernel writes these files, so their size needs no bound.
func memory() agentproto.Memory {
	info, _ := os.ReadFile("/proc/meminfo")
	status, _ := os.ReadFile("/proc/self/status")
	rollup, _ := os.ReadFile("/proc/self/smaps_rollup")
	return agentproto.Memory{
		Total:     kilobytes(info, "MemTotal:"),
		Available: kilobytes(info, "MemAvailable:"),
		AgentRSS:  kilobytes(status, "VmRSS:"),
		AgentPSS:  kilobytes(rollup, "Pss:"),
	}
}

// kilobytes returns the value of the line that starts with key, in bytes.
func kilobytes(data []byte, key string) uint64 {
	for line := range bytes.Lines(data) {
		rest, ok := bytes.CutPrefix(line, []byte(key))
		if !ok {
			continue
		}
		if f := bytes.Fields(rest); len(f) > 0 {
			n, _ := strconv.ParseUint(string(f[0]), 10, 54) // × 1024 fits
			return n << 10
		}
	}
	return 0
}
