package userland

import (
	"archive/tar"
	"os"

	"golang.org/x/sys/unix"
)

// makeNodeAt makes the device or fifo that an archive's header describes.
func makeNodeAt(dir *os.File, name string, h *tar.Header) error {
	mode := uint32(0o600)
	switch h.Typeflag {
	case tar.TypeChar:
		mode |= unix.S_IFCHR
	case tar.TypeBlock:
		mode |= unix.S_IFBLK
	default:
		mode |= unix.S_IFIFO
	}
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	return unix.Mknodat(int(dir.Fd()), name, mode, int(dev))
}
