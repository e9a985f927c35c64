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
//	MVM_PAUSE=POINT=DIR  the process that reaches POINT creates the file DIR/reached with its
//	                     pid and blocks until it can open the FIFO DIR/go for reading
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

func pause(dir string) {
	if err := os.WriteFile(dir+"/reached", []byte(name()), 0o600); err != nil {
		return
	}
	if f, err := os.Open(dir + "/go"); err == nil { // blocks until the test opens the other end
		_ = f.Close()
	}
}

func name() string { return strings.Join(os.Args, " ") }
