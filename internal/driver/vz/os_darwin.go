package vz

import "golang.org/x/sys/unix"

const (
	getTermios = unix.TIOCGETA
	setTermios = unix.TIOCSETA
)

// thisSystem asks the kernel. What it does not say is not there.
func thisSystem() system {
	version, err := unix.Sysctl("kern.osproductversion")
	if err != nil {
		version = "0"
	}
	hv, err := unix.SysctlUint32("kern.hv_support")
	return system{macOS: version, virtualise: err == nil && hv != 0}
}
