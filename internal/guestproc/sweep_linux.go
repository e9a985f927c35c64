package guestproc

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxRSSUnit is what getrusage(2) counts ru_maxrss in.
const maxRSSUnit = 1024

func killWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// sweeper takes zombies. all: every zombie of this process, and not only registered ones.
type sweeper struct{ all bool }

func newSweeper() sweeper {
	if os.Getpid() == 1 {
		return sweeper{all: true}
	}
	var sub int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&sub)), 0, 0, 0)
	return sweeper{all: err == nil && sub != 0}
}

type finishFunc func(p *Proc, status syscall.WaitStatus, usage *syscall.Rusage)

func (s sweeper) sweep(procs map[int]*Proc, finish finishFunc) {
	if !s.all {
		for pid, p := range procs {
			if zombie(unix.P_PID, pid) == pid {
				take(p, pid, finish)
			}
		}
		return
	}
	for {
		pid := zombie(unix.P_ALL, 0)
		if pid == 0 {
			return
		}
		take(procs[pid], pid, finish)
	}
}

// zombie returns the pid of an ended child without reaping it, 0 when there is none.
func zombie(idType, id int) int {
	// siginfo_t of a SIGCHLD; si_pid stands behind three ints and, on 64 bits, padding.
	// x/sys has no name for the field.
	var info struct {
		_   [4]int32
		pid int32
		_   [27]int32
	}
	for {
		err := unix.Waitid(idType, id, (*unix.Siginfo)(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		switch err {
		case nil:
			return int(info.pid) // stays 0 when no child has ended
		case unix.EINTR:
			continue
		default:
			return 0
		}
	}
}

// take reaps the zombie pid. p is nil for an orphan that came to us.
func take(p *Proc, pid int, finish finishFunc) {
	if p != nil {
		p.beforeReap()
	}
	var (
		status syscall.WaitStatus
		usage  syscall.Rusage
	)
	for {
		got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, &usage)
		if err == syscall.EINTR {
			continue
		}
		if p != nil && got == pid {
			finish(p, status, &usage)
		}
		return
	}
}
