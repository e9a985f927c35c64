package qemu

import (
	"context"
	"errors"
	"net"
	"os"
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
