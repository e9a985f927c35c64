package qemu

import (
	"fmt"

	"github.com/mvmctl/mvmctl/internal/vmm"
)

// kernelCommandLine joins the words that a guest kernel needs here. Measured with Debian's
// 6.1 cloud kernel under TCG, QEMU 7.2, CPU time of a whole run (2026-11): of the many options
// said to speed up booting only those below did anything; mitigations=off, nokaslr,
// no_timer_check, init_on_alloc=0, rcu_expedited, 8250.nr_uarts and apparmor=0 were lost in
// the noise.
func kernelCommandLine(h host, more ...string) (string, error) {
	words := []string{
		"console=" + serialConsole(h.arch),
		"quiet",    // each console byte is an exit; errors and panics are printed all the same
		"panic=-1", // reboot at once, which with -no-reboot ends QEMU
	}
	if h.arch == "amd64" {
		words = append(words, "reboot=t") // by triple fault: no keyboard controller needed
	}
	if h.accel == accelTCG {
		// The self-tests of the crypto code are computed by emulated instructions: 0.25 s of 1.7.
		words = append(words, "cryptomgr.notests", "mvm.slow") // the latter for the agent: generous deadlines
	}
	if h.accel == accelTCG && h.tscKHz != 0 {
		// Under emulation the guest's TSC is the host's. On microvm the kernel has nothing to
		// measure it by and hangs at random; on q35 a busy host makes it measure nonsense (once
		// 247 MHz for 2596). And with nothing but its own jiffies for comparison, which lag on a
		// busy host, the kernel's watchdog throws a perfectly good TSC away and its clock then
		// loses 7 %; hence "reliable".
		// (arch/x86/kernel/tsc.c, kernel-parameters.txt)
		words = append(words, fmt.Sprintf("tsc_early_khz=%d", h.tscKHz), "tsc=reliable")
	}
	return vmm.KernelCommandLine(vmm.MaxKernelCommandLine, words, more...)
}

func serialConsole(arch string) string {
	if arch == "arm64" {
		return "ttyAMA0"
	}
	return "ttyS0"
}
