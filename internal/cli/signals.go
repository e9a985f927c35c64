package cli

import (
	"os"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// interrupted is the cause with which a signal cancels a command.
type interrupted struct{ signal syscall.Signal }

func (e *interrupted) Error() string { return "interrupted by " + signalName(e.signal) }

// signal handles one signal and reports whether to stop at once.
func (a *app) signal(s os.Signal) (force bool) {
	a.mu.Lock()
	grab := a.grab
	a.mu.Unlock()
	if grab != nil && grab(s) {
		return false
	}
	sig, isSignal := s.(syscall.Signal)
	if !isSignal || sig == syscall.SIGWINCH || sig == syscall.SIGPIPE {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.signals++
	if a.signals > 1 {
		return true
	}
	a.cancel(&interrupted{sig})
	if a.progress != nil {
		a.progress()
	}
	if sig == syscall.SIGINT && a.terminal(a.io.Err) {
		a.say("\rmvmctl: cleaning up; Ctrl-C again stops at once\n")
	}
	return false
}

// exitOfSignal returns 128+N.
func exitOfSignal(s os.Signal) int {
	if sig, ok := s.(syscall.Signal); ok {
		return 128 + int(sig)
	}
	return machine.ExitInterrupt
}

// signalName returns the name that the guest channel uses.
func signalName(s syscall.Signal) string {
	switch s {
	case syscall.SIGINT:
		return "SIGINT"
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGHUP:
		return "SIGHUP"
	case syscall.SIGQUIT:
		return "SIGQUIT"
	}
	return s.String()
}
