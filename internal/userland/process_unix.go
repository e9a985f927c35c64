//go:build unix

package userland

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// currentUmask reads the process's file mode mask. The kernel only offers to
// read it by setting it.
func currentUmask() int {
	mask := unix.Umask(0o022)
	unix.Umask(mask)
	return mask
}

func setUmask(mask int) { unix.Umask(mask) }

// execProcess replaces this process. It returns only on error, and before
// anything has changed if a stream is no file.
func execProcess(path string, argv []string, p process) error {
	fds := make([]int, 3)
	for i, stream := range []any{p.stdio.In, p.stdio.Out, p.stdio.Err} {
		f, ok := stream.(*os.File)
		if !ok || f == nil {
			return unix.EINVAL
		}
		// Above 2, so that no stream overwrites another one on its way down.
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		fds[i] = fd
	}
	if err := unix.Chdir(p.dir); err != nil {
		return err
	}
	for i, fd := range fds {
		if err := dup2(fd, i); err != nil {
			return err
		}
	}
	return syscall.Exec(path, argv, p.env)
}

// keepNewlines lets a terminal in raw mode still turn the return key into a
// newline.
func keepNewlines(fd int) error {
	t, err := unix.IoctlGetTermios(fd, ioctlGetTermios)
	if err != nil {
		return err
	}
	t.Iflag |= unix.ICRNL
	return unix.IoctlSetTermios(fd, ioctlSetTermios, t)
}

// parseSignal reads a signal's number or name, with or without SIG.
func parseSignal(s string) (syscall.Signal, bool) {
	if n, err := strconv.Atoi(s); err == nil {
		return syscall.Signal(n), n >= 0 && n <= maxSignal
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	sig := unix.SignalNum(name)
	return sig, sig != 0
}

// signalName is the name without SIG, or the number.
func signalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return strings.TrimPrefix(name, "SIG")
	}
	return strconv.Itoa(int(sig))
}

func signalNumber(n int) syscall.Signal { return syscall.Signal(n) }

// maxSignal is the highest signal number there is.
const maxSignal = 64
