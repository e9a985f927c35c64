package cli

import (
	"os"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// interrupted is the cause with which a signal cancels a command.
type interrupted struct{ signal syscall.Signal }

func (e *interrupted) Error() string { return "interrupted by " + signalName(e.signal) }

// sameSignal is how long a repeated SIGTERM or SIGHUP counts as one: timeout(1) and service
// managers send it to the process and to its group. People do not press these keys twice.
const sameSignal = 250 * time.Millisecond

// signal handles one signal and reports whether to stop at once.
func (a *app) signal(s os.Signal) (force bool) {
	a.mu.Lock()
	grab := a.grab
	repeated := a.repeats(s)
	a.mu.Unlock()
	if repeated {
		return false
	}
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

// repeats reports whether s is the one before it once more; a.mu is held.
func (a *app) repeats(s os.Signal) bool {
	before, at := a.last, a.lastAt
	a.last, a.lastAt = s, time.Now()
	return (s == syscall.SIGTERM || s == syscall.SIGHUP) && s == before && time.Since(at) < sameSignal
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
