package qemu

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// kernelByFD: there is no /proc; /dev/fd shares file offsets, which QEMU's loaders disturb.
const kernelByFD = false

func socketPair() ([2]int, error) {
	syscall.ForkLock.RLock() // no child may start between the two steps
	defer syscall.ForkLock.RUnlock()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(p[0])
		unix.CloseOnExec(p[1])
	}
	return p, err
}

// childAttr makes QEMU a session of its own. macOS has no parent-death signal: what a killed
// supervisor leaves behind, the next command ends by its recorded identity.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// fence keeps QEMU from inheriting descriptors that this process was itself started with.
func fence() {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= firstFD {
			unix.CloseOnExec(fd)
		}
	}
}

// accelDevice returns the host's accelerator and why it cannot be used, if so.
func accelDevice() (accel, problem string) {
	if v, err := unix.SysctlUint32("kern.hv_support"); err != nil || v == 0 {
		return accelHVF, "this Mac (or the VM that it is) has no Hypervisor.framework"
	}
	return accelHVF, ""
}

func vsockAvailable() bool { return false }

func openVsock() (*os.File, uint32, error) {
	return nil, 0, errors.New("no vhost-vsock on this operating system")
}

func dialVsock(context.Context, uint32, uint32, <-chan struct{}) (net.Conn, error) {
	return nil, errors.New("no vhost-vsock on this operating system")
}
