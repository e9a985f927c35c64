//go:build unix && !linux

package guestproc

import (
	"syscall"
	"time"
)

// group is the rest of a process group, by number.
type group []int

func findSession(sid int) group {
	if syscall.Kill(-sid, 0) == nil {
		return group{sid}
	}
	return nil
}

// killSession reaches the leader's own process group only.
func killSession(sid int) { _ = syscall.Kill(-sid, syscall.SIGKILL) }

// waitOrKill has no event for the end of processes that are not children: it kills at once.
func (g group) waitOrKill(int, time.Duration) {
	for _, pgid := range g {
		_ = syscall.Kill(-pgid, syscall.SIGKILL)
	}
}
