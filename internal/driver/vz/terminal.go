package vz

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/vmm"
)

// openTerminal opens the guest's console, the other end of which vfkit holds, for whatever bytes the
// guest sends. vfkit has taken away the editing of lines (pkg/vf/virtio.go, setRawMode); what is
// left would act on some control characters.
func openTerminal(path string) (*os.File, error) {
	if !strings.HasPrefix(path, "/dev/") || filepath.Clean(path) != path {
		return nil, fmt.Errorf("%s is no terminal", vmm.Escape(vmm.Clip(path, 100)))
	}
	// Not O_NONBLOCK: where the runtime's poller does not take the terminal, reads must wait.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := raw(f); err != nil {
		_ = f.Close()
		return nil, errors.Join(fmt.Errorf("%s is no terminal", path), err)
	}
	return f, nil
}

func raw(f *os.File) error {
	var serr error
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Control(func(fd uintptr) {
		t, err := unix.IoctlGetTermios(int(fd), getTermios)
		if err != nil {
			serr = err
			return
		}
		t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		t.Oflag &^= unix.OPOST
		t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		serr = unix.IoctlSetTermios(int(fd), setTermios, t)
	})
	return errors.Join(err, serr)
}
