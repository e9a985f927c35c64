//go:build unix

package agent

import (
	"fmt"
	"os"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Size of a terminal when the host does not say one.
const (
	defaultRows = 24
	defaultCols = 80
)

// openTTY returns a new terminal whose slave side belongs to cred's user, so that programs
// can open it again by name (/dev/stderr, /dev/tty's name).
func openTTY(rows, cols uint16, cred *syscall.Credential) (master, slave *os.File, err error) {
	master, slave, err = pty.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("opening a terminal: %w", err)
	}
	if rows == 0 || cols == 0 {
		rows, cols = defaultRows, defaultCols
	}
	err = resize(master, rows, cols)
	if err == nil && cred != nil {
		err = slave.Chown(int(cred.Uid), -1)
	}
	if err != nil {
		master.Close()
		slave.Close()
		return nil, nil, fmt.Errorf("setting up a terminal: %w", err)
	}
	return master, slave, nil
}

// resize sets a terminal's size; the kernel tells its foreground programs. A size without
// rows or columns is ignored: no program can do anything with it.
func resize(master *os.File, rows, cols uint16) error {
	if rows == 0 || cols == 0 {
		return nil
	}
	return pty.Setsize(master, &pty.Winsize{Rows: rows, Cols: cols})
}

// endOfInput returns what to write to a terminal to end its program's input: the line
// discipline's EOF character, or nothing when the program reads raw characters.
func endOfInput(master *os.File) []byte {
	var eof []byte
	rc, err := master.SyscallConn()
	if err != nil {
		return nil
	}
	_ = rc.Control(func(fd uintptr) {
		if t, err := unix.IoctlGetTermios(int(fd), getTermios); err == nil && t.Lflag&unix.ICANON != 0 {
			eof = []byte{t.Cc[unix.VEOF]}
		}
	})
	return eof
}
