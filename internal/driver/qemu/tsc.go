package qemu

import (
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/process"
)

// How long the cycle counter is compared with the clock. The ends are known to about 50 ns,
// which makes 3 millionths; the kernel's own calibration of a TSC is no better.
const tscWindow = 20 * time.Millisecond

// hostTSC returns the frequency of the host's cycle counter in kHz, 0 when it has none of
// constant rate. It is measured once per boot of the host: /proc/cpuinfo's "cpu MHz" is the
// core's speed of the moment, and CPUID says it only on some processors.
func (d *Driver) hostTSC() int {
	boot, err := process.BootID()
	if err != nil {
		return 0
	}
	if r := d.memory.Load(); r.TSC != nil && r.TSC.BootID == boot && r.TSC.KHz >= 0 {
		return r.TSC.KHz
	}
	khz := 0
	if constantTSC() {
		khz = measureTSC(tscWindow)
	}
	d.memory.Change(func(r *remembered) { r.TSC = &tscResult{BootID: boot, KHz: khz} })
	return khz
}

// constantTSC reports whether the counter runs at one speed whatever the cores do.
func constantTSC() bool {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			return slices.Contains(strings.Fields(value), "constant_tsc")
		}
	}
	return false
}

// measureTSC compares the counter with the monotonic clock.
func measureTSC(window time.Duration) int {
	ticks0, at0 := tickAndTime()
	<-time.After(window)
	ticks1, at1 := tickAndTime()
	elapsed := at1.Sub(at0)
	if ticks1 <= ticks0 || elapsed <= 0 {
		return 0
	}
	khz := float64(ticks1-ticks0) / elapsed.Seconds() / 1000
	if khz < 100e3 || khz > 20e6 { // 0.1 to 20 GHz
		return 0
	}
	return int(khz + 0.5)
}

// tickAndTime reads the counter and the clock as near to each other as it can: of several
// attempts the one that took the fewest cycles.
func tickAndTime() (ticks uint64, at time.Time) {
	best := ^uint64(0)
	for range 20 {
		before := cycles()
		now := time.Now()
		if took := cycles() - before; took < best {
			best, ticks, at = took, before+took/2, now
		}
	}
	return ticks, at
}
