//go:build faultpoints

package fault

import (
	"os"
	"strings"
	"syscall"
)

// Environment variables of a faultpoints build.
//
//	MVM_CRASH=POINT      the process that reaches POINT kills itself with SIGKILL
//	MVM_PAUSE=POINT=DIR  the process that reaches POINT says so through the FIFO DIR/reached
//	                     and blocks until somebody opens the FIFO DIR/go for writing
const (
	crashVar = "MVM_CRASH"
	pauseVar = "MVM_PAUSE"
)

// Point kills or holds the process when the environment names it.
func Point(name string) {
	if os.Getenv(crashVar) == name {
		// SIGKILL and not exit: deferred clean-up must not run.
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	if point, dir, ok := strings.Cut(os.Getenv(pauseVar), "="); ok && point == name {
		pause(dir)
	}
}

// pause opens both FIFOs, each of which blocks until the test opens the other end.
func pause(dir string) {
	said, err := os.OpenFile(dir+"/reached", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	_ = said.Close()
	if f, err := os.Open(dir + "/go"); err == nil {
		_ = f.Close()
	}
}
