//go:build unix && !linux

package guestproc

import "syscall"

// maxRSSUnit is what getrusage(2) counts ru_maxrss in (Darwin: bytes).
const maxRSSUnit = 1

func killWithParent(*syscall.SysProcAttr) {}

// sweeper takes the zombies of registered processes; other systems have no subreapers.
type sweeper struct{}

func newSweeper() sweeper { return sweeper{} }

type finishFunc func(p *Proc, status syscall.WaitStatus, usage *syscall.Rusage)

func (sweeper) sweep(procs map[int]*Proc, finish finishFunc) {
	for pid, p := range procs {
		var (
			status syscall.WaitStatus
			usage  syscall.Rusage
		)
		got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, &usage)
		if err == nil && got == pid {
			p.beforeReap()
			finish(p, status, &usage)
		}
	}
}
