//go:build unix

package guestproc

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// The real-time signals as libraries in Linux guests count them: the kernel's first two are
// taken by their threads, signal(7).
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal returns the signal of a name with or without SIG ("SIGTERM", "hup",
// "SIGRTMIN+3"). Numbers are not taken: they differ between processors.
func ParseSignal(name string) (syscall.Signal, *agentproto.Error) {
	full := strings.ToUpper(name)
	if !strings.HasPrefix(full, "SIG") {
		full = "SIG" + full
	}
	if sig := unix.SignalNum(full); sig != 0 {
		return sig, nil
	}
	if sig, ok := realTime(full); ok {
		return sig, nil
	}
	if len(name) > 32 {
		name = name[:32]
	}
	return 0, agentproto.Errorf(agentproto.CodeInvalid, "use a name such as SIGTERM", "no signal is called %q", name)
}

// realTime understands SIGRTMIN, SIGRTMIN+n, SIGRTMAX and SIGRTMAX-n.
func realTime(name string) (syscall.Signal, bool) {
	base, sign, rest := sigRTMin, byte('+'), ""
	if after, ok := strings.CutPrefix(name, "SIGRTMIN"); ok {
		rest = after
	} else if after, ok := strings.CutPrefix(name, "SIGRTMAX"); ok {
		base, sign, rest = sigRTMax, '-', after
	} else {
		return 0, false
	}
	if rest == "" {
		return syscall.Signal(base), true
	}
	n, err := strconv.ParseUint(rest[1:], 10, 8)
	if err != nil || rest[0] != sign || n > sigRTMax-sigRTMin {
		return 0, false
	}
	if sign == '-' {
		return syscall.Signal(base - int(n)), true
	}
	return syscall.Signal(base + int(n)), true
}

func signalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	if sig >= sigRTMin && sig <= sigRTMax {
		return fmt.Sprintf("SIGRTMIN+%d", int(sig)-sigRTMin)
	}
	return fmt.Sprintf("SIG%d", int(sig))
}
