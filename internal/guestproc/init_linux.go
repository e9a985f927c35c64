package guestproc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// enterTime bounds how long an init may take from its fork to its first instruction. It is
// generous: the agent's own start is in it, and an emulated guest may be busy.
const enterTime = 30 * time.Second

// namespaces are those of the image's init. The zero value is the agent's own.
type namespaces struct {
	init int      // pid of the init; 0: none was started
	dead bool     // it has ended, and its namespaces with it
	fd   *os.File // pidfd of it, while it lives
}

// startInit starts the agent as the first process of new namespaces, where it makes the mounts
// and becomes the init (EnterInit). It returns when it has: from then on others may enter.
func (n *namespaces) startInit(s Spec, attr *syscall.ProcAttr) (int, error) {
	if n.init != 0 && !n.dead {
		return 0, agentproto.Errorf(agentproto.CodeInternal, "", "an init runs already")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer func() { _ = r.Close() }()
	attr.Files = append(attr.Files, w.Fd())
	attr.Sys.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	attr.Dir = "/"
	pid, err := syscall.ForkExec(agentproto.GuestAgent, append([]string{"mvm-agent", InitCommand, s.Path}, s.Args...), attr)
	_ = w.Close()
	if err != nil {
		return 0, err
	}
	err = entered(r)
	var fd int
	if err == nil {
		fd, err = unix.PidfdOpen(pid, 0)
	}
	if err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil) // the sweeper waits for the table's lock, which we hold
		return 0, err
	}
	*n = namespaces{init: pid, fd: os.NewFile(uintptr(fd), "init")}
	return pid, nil
}

// entered waits for the end of the pipe, which the init's exec closes; before that, EnterInit
// writes what went wrong into it.
func entered(r *os.File) error {
	_ = r.SetReadDeadline(time.Now().Add(enterTime))
	said, err := io.ReadAll(io.LimitReader(r, 4<<10))
	if err != nil {
		return fmt.Errorf("waiting for the init: %w", err)
	}
	if len(said) == 0 {
		return nil
	}
	var failed agentproto.Error
	if err := json.Unmarshal(said, &failed); err != nil {
		return fmt.Errorf("the init's start failed: %q", said)
	}
	return &failed
}

// forkExec starts a process where processes are started now.
func (n *namespaces) forkExec(s Spec, attr *syscall.ProcAttr) (int, error) {
	switch {
	case n.init == 0:
		return syscall.ForkExec(s.Path, s.Args, attr)
	case n.dead:
		return 0, agentproto.Errorf(agentproto.CodeInternal, "the machine is about to end or to start again", "the image's init has ended")
	}
	type result struct {
		pid int
		err error
	}
	done := make(chan result, 1)
	go func() {
		// Never unlocked: the thread, which is not where the others are any more, ends with
		// this goroutine.
		runtime.LockOSThread()
		pid, err := n.enterAndFork(s, attr)
		done <- result{pid, err}
	}()
	res := <-done
	runtime.KeepAlive(n.fd)
	return res.pid, res.err
}

// enterAndFork moves the calling thread into the namespaces. A mount namespace can only be
// entered by a thread that shares no working directory with others, setns(2).
func (n *namespaces) enterAndFork(s Spec, attr *syscall.ProcAttr) (int, error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return 0, os.NewSyscallError("unshare", err)
	}
	err := unix.Setns(int(n.fd.Fd()), unix.CLONE_NEWPID|unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP)
	if errors.Is(err, unix.ESRCH) {
		return 0, agentproto.Errorf(agentproto.CodeInternal, "the machine is about to end or to start again", "the image's init has ended")
	}
	if err != nil {
		return 0, os.NewSyscallError("setns", err)
	}
	return syscall.ForkExec(s.Path, s.Args, attr)
}

// Heeds reports whether the process would notice a signal: it has a handler for it, or holds it
// back to read it later (signalfd(2)). The kernel drops others that are sent to the first process
// of a PID namespace, pid_namespaces(7). Also true when nothing is known of the process.
func (p *Proc) Heeds(sig syscall.Signal) bool {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/status")
	return err != nil || heeds(string(status), sig)
}

// heeds looks into SigBlk and SigCgt of a proc_pid_status(5): masks in hexadecimal.
func heeds(status string, sig syscall.Signal) bool {
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		if key != "SigBlk" && key != "SigCgt" {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil || mask&(1<<(uint(sig)-1)) != 0 {
			return true
		}
	}
	return false
}

// ended is called when a process has been reaped.
func (n *namespaces) ended(pid int) {
	if n.init == pid && !n.dead {
		n.dead = true
		_ = n.fd.Close()
	}
}
