package vmm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// OpenDisk opens a disk image with the rights that the disk has and nothing more, and refuses
// everything but a plain file that has one name when it is written: whoever can swap the path
// between a check and the start must gain nothing by it.
func OpenDisk(d machine.Disk) (*os.File, error) {
	flags := os.O_RDWR
	if d.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err := OpenPlain(d.Path, flags)
	if err != nil {
		return nil, DiskError(d, fmt.Errorf("opening disk %s: %w", d.Role, err))
	}
	if d.ReadOnly {
		return f, nil
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err != nil {
		err = fmt.Errorf("examining disk %s: %w", d.Role, err)
	} else if st.Nlink != 1 {
		err = Changed(d.Path, fmt.Sprintf("it has %d names", st.Nlink))
	}
	if err != nil {
		_ = f.Close()
		return nil, DiskError(d, err)
	}
	return f, nil
}

// DiskError is the error of a disk that cannot be used.
func DiskError(d machine.Disk, err error) error {
	if machine.CodeOf(err) != "" {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return machine.Errorf("disk.missing", "remove the machine with `mvmctl rm` and make it again", "disk %s is gone: %w", d.Role, err)
	}
	return machine.Errorf("disk.unusable", "look at the file's owner and mode", "%w", err)
}

// OpenPlain opens a regular file without following a link in its last component and without
// hanging on a FIFO.
func OpenPlain(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, syscall.ELOOP):
		return nil, Changed(path, "it is a symbolic link")
	case err != nil:
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = Changed(path, "it is not a regular file")
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Changed is the error of a file that is not the one that was prepared.
func Changed(path, why string) error {
	return machine.Errorf("disk.changed", "put the file itself there", "%s is not the file that was prepared: %s", path, why)
}

// OpenBootFile opens a kernel or an initramfs; users may well have a link as theirs.
func OpenBootFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, KernelError(path, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		_ = f.Close()
		return nil, KernelError(path, err)
	}
	return f, nil
}

// KernelError is the error of a kernel or initramfs that cannot be used.
func KernelError(path string, cause error) error {
	return machine.Errorf("boot.kernel_invalid", "run `mvmctl kernel fetch`, or give another with --kernel", "%s cannot be booted: %w", path, cause)
}

// CheckSocketPath refuses a path at which no unix socket can be bound.
func CheckSocketPath(path string) error {
	if len(path) > maxSocket {
		return machine.Errorf("env.path", "set MVM_RUNTIME_DIR to a shorter directory, such as /tmp/mvm",
			"the socket path %s has %d bytes, at most %d are possible", path, len(path), maxSocket)
	}
	return nil
}

// maxSocket is the longest path that a unix socket may have on this system, less the closing NUL
// (unix(7); on macOS unix(4)).
const maxSocket = len(unix.RawSockaddrUnix{}.Path) - 1
