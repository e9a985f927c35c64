package firecracker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// Names of what a machine has in its folder while it runs.
const (
	apiSocket   = "fc.api"
	vsockSocket = "fc.vsock"
	logPipe     = "fc.log"
)

// kernelPath chooses the form of the kernel that Firecracker takes and checks that it is one: an
// ELF file on amd64, an Image on arm64 (docs/api_requests/actions.md there).
func kernelPath(k machine.Kernel, arch string) (string, error) {
	path := k.VMLinux
	if path == "" {
		path = k.BzImage
	}
	head := make([]byte, 64)
	f, err := vmm.OpenBootFile(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	if _, err := io.ReadFull(f, head); err != nil {
		return "", vmm.KernelError(path, err)
	}
	if arch == "arm64" && !bytes.Equal(head[56:60], []byte("ARM\x64")) || arch == "amd64" && !bytes.HasPrefix(head, []byte("\x7fELF")) {
		return "", machine.Errorf("boot.kernel_invalid", "run `mvmctl kernel fetch`, or give another with --kernel",
			"%s cannot be booted: Firecracker needs an uncompressed kernel (vmlinux on amd64, Image on arm64)", path)
	}
	return path, nil
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
