package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// Values of whence for lseek(2); they differ between systems.
const (
	seekData = unix.SEEK_DATA
	seekHole = unix.SEEK_HOLE
)

// cloneFile makes out share the blocks of in (FICLONE).
func cloneFile(out, in *os.File) error {
	return unix.IoctlFileClone(int(out.Fd()), int(in.Fd()))
}

// punchHole makes a stretch of a file a hole, which reads as zeros.
func punchHole(f hostFile, off, n int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// startWriting makes the kernel begin to write a stretch of a file, without waiting for it.
func startWriting(f hostFile, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE) // fsync tells of errors
}
