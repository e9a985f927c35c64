//go:build unix && !linux

package guestproc

import (
	"syscall"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// namespaces do not exist here: an agent on this system serves the fake driver only.
type namespaces struct{}

func (namespaces) startInit(Spec, *syscall.ProcAttr) (int, error) {
	return 0, agentproto.Errorf(agentproto.CodeInvalid, "use a backend that boots a kernel", "this backend cannot run an image's init")
}

func (namespaces) forkExec(s Spec, attr *syscall.ProcAttr) (int, error) {
	return syscall.ForkExec(s.Path, s.Args, attr)
}

func (namespaces) ended(int) {}

// Heeds reports whether the process would notice a signal.
func (p *Proc) Heeds(syscall.Signal) bool { return true }
