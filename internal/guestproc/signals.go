//go:build unix

package guestproc

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// ParseSignal returns the signal of a name with or without SIG ("SIGTERM", "hup"). Numbers
// are not taken: they differ between processors.
func ParseSignal(name string) (syscall.Signal, *agentproto.Error) {
	full := strings.ToUpper(name)
	if !strings.HasPrefix(full, "SIG") {
		full = "SIG" + full
	}
	if sig := unix.SignalNum(full); sig != 0 {
		return sig, nil
	}
	if len(name) > 32 {
		name = name[:32]
	}
	return 0, agentproto.Errorf(agentproto.CodeInvalid, "use a name such as SIGTERM", "no signal is called %q", name)
}

func signalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d", int(sig)) // real-time signals have no name
}
