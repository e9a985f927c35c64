// Package process identifies processes of this host beyond the reuse of their pid, ends the
// ones a dead supervisor left behind, and measures them. It starts none.
//
// Identity is boot id, pid and start time (proc(5), field 22 of /proc/<pid>/stat); signals go
// through a pidfd, so that a pid that was reused in between is never hit. The supervisor and
// the engine call it.
package process

import (
	"errors"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// ErrGone says that the process that was meant does not run any more.
var ErrGone = errors.New("process is gone")

// Running reports whether exactly this process still runs.
func Running(p machine.Process) bool {
	if p.Pid <= 0 {
		return false
	}
	now, err := Identify(p.Pid)
	return err == nil && now == p
}
