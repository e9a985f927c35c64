//go:build !linux

package linuxenv

// native says that programs of Linux do not run on this host.
const native = false

// fence does nothing here: this system has no call for it.
func fence() {}
