package firecracker

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

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
