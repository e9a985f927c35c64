package firecracker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Names of what a machine has in its folder while it runs.
const (
	apiSocket   = "fc.api"
	vsockSocket = "fc.vsock"
	logPipe     = "fc.log"
)

// maxSocket is the longest path that a unix socket may have on Linux (unix(7)), less the closing
// NUL.
const maxSocket = 107

// openDisk opens a disk image with the rights that the disk has and nothing more, and refuses
// everything but a plain file that has one name when it is written: whoever can swap the path
// between a check and the start must gain nothing by it.
func openDisk(d machine.Disk) (*os.File, error) {
	flags := os.O_RDWR
	if d.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err := openPlain(d.Path, flags)
	if err != nil {
		return nil, diskError(d, fmt.Errorf("opening disk %s: %w", d.Role, err))
	}
	if d.ReadOnly {
		return f, nil
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil && st.Nlink != 1 {
		err = changed(d.Path, fmt.Sprintf("it has %d names", st.Nlink))
	}
	if err != nil {
		_ = f.Close()
		return nil, diskError(d, err)
	}
	return f, nil
}

// openPlain opens a regular file without following a link in its last component and without
// hanging on a FIFO.
func openPlain(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, syscall.ELOOP):
		return nil, changed(path, "it is a symbolic link")
	case err != nil:
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = changed(path, "it is not a regular file")
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func changed(path, why string) error {
	return machine.Errorf("disk.changed", "put the file itself there", "%s is not the file that was prepared: %s", path, why)
}

func diskError(d machine.Disk, err error) error {
	if machine.CodeOf(err) != "" {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return machine.Errorf("disk.missing", "remove the machine with `mvmctl rm` and make it again", "disk %s is gone: %w", d.Role, err)
	}
	return machine.Errorf("disk.unusable", "look at the file's owner and mode", "%w", err)
}

// kernelPath chooses the form of the kernel that Firecracker takes and checks that it is one: an
// ELF file on amd64, an Image on arm64 (docs/api_requests/actions.md there).
func kernelPath(k machine.Kernel, arch string) (string, error) {
	path := k.VMLinux
	if path == "" {
		path = k.BzImage
	}
	head := make([]byte, 64)
	f, err := openBootFile(path)
	if err == nil {
		defer func() { _ = f.Close() }()
		_, err = io.ReadFull(f, head)
	}
	if err != nil {
		return "", kernelError(path, err)
	}
	if arch == "arm64" && !bytes.Equal(head[56:60], []byte("ARM\x64")) || arch == "amd64" && !bytes.HasPrefix(head, []byte("\x7fELF")) {
		return "", machine.Errorf("boot.kernel_invalid", "run `mvmctl kernel fetch`, or give another with --kernel",
			"%s cannot be booted: Firecracker needs an uncompressed kernel (vmlinux on amd64, Image on arm64)", path)
	}
	return path, nil
}

// openBootFile opens a kernel or an initramfs; users may well have a link as theirs.
func openBootFile(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func kernelError(path string, err error) error {
	return machine.Errorf("boot.kernel_invalid", "run `mvmctl kernel fetch`, or give another with --kernel", "%s cannot be booted: %w", path, err)
}

// serialOf is the serial under which the guest sees a file as its disk.
func serialOf(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("examining disk: %w", err)
	}
	return fileSerial(uint64(st.Dev), uint64(st.Rdev), st.Ino), nil //nolint:unconvert,nolintlint // int32 on darwin
}

// clearLeftovers removes what a machine that was killed has left in its folder. Firecracker does
// not bind a socket whose path exists.
func clearLeftovers(dir string) error {
	for _, name := range []string{apiSocket, vsockSocket, logPipe} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return machine.Errorf("state.readonly", "look at the folder's owner and mode", "removing what an earlier boot left: %w", err)
		}
	}
	return nil
}

// checkSocketPaths refuses a folder in which no socket can be bound.
func checkSocketPaths(dir string) error {
	if path := filepath.Join(dir, vsockSocket); len(path) > maxSocket {
		return machine.Errorf("env.path", "set MVM_RUNTIME_DIR to a shorter directory, such as /tmp/mvm",
			"the socket path %s has %d bytes, at most %d are possible", path, len(path), maxSocket)
	}
	return nil
}

// pipe is the named pipe to which Firecracker writes its log: a file would grow without bound.
type pipe struct {
	r, w *os.File // w keeps r from ending before Firecracker has opened its end
}

func makePipe(path string, uid int) (pipe, error) {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return pipe{}, fmt.Errorf("making the log's pipe: %w", &fs.PathError{Op: "mkfifo", Path: path, Err: err})
	}
	if uid >= 0 {
		if err := os.Lchown(path, uid, uid); err != nil {
			return pipe{}, fmt.Errorf("making the log's pipe: %w", err)
		}
	}
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return pipe{}, fmt.Errorf("opening the log's pipe: %w", err)
	}
	w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = r.Close()
		return pipe{}, fmt.Errorf("opening the log's pipe: %w", err)
	}
	return pipe{r, w}, nil
}
