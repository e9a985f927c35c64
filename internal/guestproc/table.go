//go:build unix

package guestproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Table starts processes and reaps them. It is safe for concurrent use.
type Table struct {
	// mu is held from before a process is started until it is registered, and while a zombie
	// is reaped. So an exit is never seen before its pid is known, and a pid is never
	// signalled after it may belong to somebody else.
	mu      sync.Mutex
	procs   map[int]*Proc
	null    *os.File
	pdeath  bool
	sweeper sweeper
	inside  namespaces // where processes are started, once an init has been
}

// New returns an empty table. Nothing is reaped until Run runs.
func New() *Table { return &Table{procs: map[int]*Proc{}} }

// KillWithParent makes the kernel kill each process started from now on when this process
// dies, where the kernel can (Linux: PR_SET_PDEATHSIG). A guest's PID 1 has no need of it;
// an agent that is an ordinary process of a host has.
func (t *Table) KillWithParent() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pdeath = true
}

// Run reaps until ctx ends. It must run for any Proc to be done; a second one does no harm.
func (t *Table) Run(ctx context.Context) {
	sigs := make(chan os.Signal, 1) // one is enough: a sweep takes all that there is
	signal.Notify(sigs, syscall.SIGCHLD)
	defer signal.Stop(sigs)
	t.mu.Lock()
	t.sweeper = newSweeper()
	t.mu.Unlock()
	for {
		t.sweep()
		select {
		case <-ctx.Done():
			return
		case <-sigs:
		}
	}
}

func (t *Table) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweeper.sweep(t.procs, func(p *Proc, status syscall.WaitStatus, usage *syscall.Rusage) {
		delete(t.procs, p.pid)
		p.finish(status, usage)
		t.inside.ended(p.pid)
	})
}

// InitCommand is the word after which the agent binary, as the first process of new namespaces,
// becomes an image's init: path and arguments (with argv[0]) follow, and descriptor 3 is where it
// writes an *agentproto.Error if it cannot.
const InitCommand = "become-init"

// Spec says what to start. Strings must hold no NUL byte; Resolver makes valid ones.
type Spec struct {
	Path string   // the program, absolute, as seen below Root
	Args []string // with argv[0]
	Env  []string // NAME=value
	Dir  string   // working directory, absolute, as seen below Root; "" is /
	Cred *syscall.Credential

	// Stdin, Stdout and Stderr are /dev/null when nil. TTY, the slave side of a terminal,
	// replaces all three and becomes the controlling terminal. Start does not close them.
	Stdin, Stdout, Stderr *os.File
	TTY                   *os.File

	Root string // chroot; "" is none

	// KillRest kills what is left of the process's session as soon as the process itself
	// ends. Without it, background processes live on, as they do after a shell ends.
	KillRest bool

	// Init makes the process the first one of PID, mount and cgroup namespaces of its own, by
	// way of the agent's EnterInit. Until it ends, every later process of the table is started
	// in there; it must have ended before there is another one. Linux only, as root.
	Init bool
}

// Start starts a process as the leader of a new session. The error is an *agentproto.Error:
// exec.not_found, exec.not_executable, or agent.internal when the kernel has no more room or
// the init, in whose namespaces it should run, has ended.
func (t *Table) Start(s Spec) (*Proc, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	in, out, errOut, err := t.streams(s)
	if err != nil {
		return nil, err
	}
	dir := s.Dir
	if dir == "" {
		dir = "/"
	}
	attr := &syscall.ProcAttr{
		Dir:   dir,
		Env:   s.Env,
		Files: []uintptr{in, out, errOut},
		Sys: &syscall.SysProcAttr{
			Setsid: true, Setctty: s.TTY != nil, Ctty: 0,
			Credential: s.Cred, Chroot: s.Root,
		},
	}
	if attr.Env == nil {
		attr.Env = []string{} // nil would mean the agent's own
	}
	if t.pdeath {
		killWithParent(attr.Sys)
	}
	// syscall.ForkExec and not os.StartProcess: the latter opens a pidfd, probes for its
	// support and keeps a finaliser, all of it unused here (see BenchmarkSpawn).
	start := time.Now()
	var pid int
	if s.Init {
		pid, err = t.inside.startInit(s, attr)
	} else {
		pid, err = t.inside.forkExec(s, attr)
	}
	runtime.KeepAlive(s) // its files, whose numbers the child copied
	if err != nil {
		return nil, startError(s, err)
	}
	p := &Proc{table: t, pid: pid, init: s.Init, start: start, killRest: s.KillRest, done: make(chan struct{})}
	t.procs[pid] = p
	return p, nil
}

func (t *Table) streams(s Spec) (in, out, errOut uintptr, err error) {
	if s.TTY != nil {
		fd := s.TTY.Fd()
		return fd, fd, fd, nil
	}
	fd := func(f *os.File) uintptr {
		if f != nil {
			return f.Fd()
		}
		if t.null == nil && err == nil {
			t.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
		}
		if err != nil {
			return 0
		}
		return t.null.Fd()
	}
	in, out, errOut = fd(s.Stdin), fd(s.Stdout), fd(s.Stderr)
	if err != nil {
		err = agentproto.Errorf(agentproto.CodeInternal, "", "opening %s: %v", os.DevNull, err)
	}
	return in, out, errOut, err
}

func startError(s Spec, err error) *agentproto.Error {
	if ours, ok := errors.AsType[*agentproto.Error](err); ok {
		return ours
	}
	name := s.Path
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		return agentproto.Errorf(agentproto.CodeNotFound,
			"if the file exists, its interpreter (the #! line or the dynamic loader) is missing in the guest",
			"%s: not found", name)
	case errors.Is(err, syscall.ENOEXEC):
		return agentproto.Errorf(agentproto.CodeNotExecutable,
			"a script needs a #! line; a program must be built for the guest's processor",
			"%s: not a program this guest can run", name)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EISDIR),
		errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ETXTBSY), errors.Is(err, syscall.ENAMETOOLONG):
		return agentproto.Errorf(agentproto.CodeNotExecutable,
			"check the mode of the file, of its folders and of the working directory for that user",
			"%s: %v", name, err)
	case errors.Is(err, syscall.E2BIG):
		return agentproto.Errorf(agentproto.CodeInvalid, "pass the data on standard input or in a file",
			"%s: arguments and environment are larger than the kernel takes", name)
	}
	return &agentproto.Error{
		Code: agentproto.CodeInternal, Message: fmt.Sprintf("starting %s: %v", name, err),
		Remedy: "the guest may be out of memory or processes",
	}
}
