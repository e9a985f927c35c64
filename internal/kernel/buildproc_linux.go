package kernel

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// makeAttr gives make a process group of its own, so that a Ctrl-C at the terminal reaches it
// through us, once, and ends it when this program dies: make passes the signal on to the
// compilers and deletes what they have half made.
func makeAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// syncFS makes everything below dir durable.
func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}
