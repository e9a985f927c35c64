package firecracker

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// childAttr makes Firecracker a session of its own, out of reach of a terminal's signals, that
// the kernel kills when the thread that started it ends; see startChild.
//
// The kernel forgets the latter when a process changes its user id (prctl(2)), as the jailer does.
// So the jailer is not the child but below it, in a process id namespace of which the child is the
// init process: with that ends everything in it (pid_namespaces(7)).
func childAttr(jailed bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if jailed {
		attr.Cloneflags = syscall.CLONE_NEWPID
		attr.Unshareflags = syscall.CLONE_NEWNS // its mounts end with it, and nobody else sees them
	}
	return attr
}

const firstFD = 3 // after the standard ones

// fence keeps Firecracker from inheriting descriptors that this process was itself started with,
// such as a lock of the caller's shell: Go opens nothing that children inherit, but it cannot
// know of those.
func fence() {
	err := unix.CloseRange(firstFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return
	}
	// Linux before 5.11.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= firstFD {
			unix.CloseOnExec(fd)
		}
	}
}

// consolePipe is how much of the guest's console waits for us at most: what an ordinary user may
// set (fs.pipe-max-size).
const consolePipe = 1 << 20

// widen makes room in the console's pipe. Firecracker does not wait for its standard output: what
// finds no room is lost (its CHANGELOG, 0.24.0). A kernel that refuses leaves the usual 64 KiB.
func widen(f *os.File) {
	_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, consolePipe)
}

// checkPeer refuses a unix socket that a process of another user listens on: the folder of a jail
// belongs to the jailed process, which could put a link to any socket of the host there.
func checkPeer(c net.Conn, uid int) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if cerr != nil {
		return cerr
	}
	if int(cred.Uid) != uid {
		return fmt.Errorf("user %d listens on the machine's socket, %d was expected", cred.Uid, uid)
	}
	return nil
}

// owner returns who owns a file.
func owner(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return -1, -1
}
