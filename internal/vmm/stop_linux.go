package vmm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Stop makes the process stand still, all its threads, as soon as the kernel looks at each; see
// Stopped. Kill ends it all the same.
func (c *Child) Stop() error { return c.signal(syscall.SIGSTOP) }

// Continue lets it go on.
func (c *Child) Continue() error { return c.signal(syscall.SIGCONT) }

// signal is an error when the process has ended.
func (c *Child) signal(s syscall.Signal) error {
	err := c.proc.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return ErrEnded
	}
	return err
}

// Stopped reports whether all threads of the process stand still.
func (c *Child) Stopped() bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", c.Pid))
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, t := range threads {
		data, err := os.ReadFile(t)
		if err != nil {
			return false // it has just ended; the next look does not see it
		}
		// The state follows the name, which may hold anything (proc_pid_stat(5)).
		if i := bytes.LastIndexByte(data, ')'); i < 0 || !bytes.HasPrefix(data[i+1:], []byte(" T ")) {
			return false
		}
	}
	return true
}
