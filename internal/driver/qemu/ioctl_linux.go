package qemu

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setGuestCID claims a context id on an open vhost-vsock device.
func setGuestCID(f *os.File, cid uint64) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), vhostVsockSetGuestCID, uintptr(unsafe.Pointer(&cid)))
	if errno != 0 {
		return errno
	}
	return nil
}
