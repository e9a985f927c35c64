package userland

import (
	"context"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"mvdan.cc/sh/v3/expand"
)

// firstPseudoPID is where the ids of jobs begin that are no process of their
// own: above the highest id that Linux gives out (PID_MAX_LIMIT, 2^22).
const firstPseudoPID = 1<<22 + 1

// jobTable holds the background commands of one shell.
type jobTable struct {
	mu   sync.Mutex
	jobs []*job
}

// job is one background command. A simple one is a process; a compound one
// ("{ a; b; } &", a function) runs inside the shell's process and only the
// commands in it are processes.
type job struct {
	id     int
	parent string // id of the job it was started in, or ""
	simple bool
	ctx    context.Context // ends when the job is killed
	cancel context.CancelFunc

	beginOnce, endOnce sync.Once
	begun              chan struct{} // closed when pid is known
	done               chan struct{} // closed when status is known
	pid                int
	status             int
}

func newJobTable() *jobTable { return &jobTable{} }

func (t *jobTable) add(simple bool, parent string) *job {
	t.mu.Lock()
	defer t.mu.Unlock()
	j := &job{id: len(t.jobs) + 1, parent: parent, simple: simple, begun: make(chan struct{}), done: make(chan struct{})}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	if !simple {
		j.setPID(firstPseudoPID + j.id)
	}
	t.jobs = append(t.jobs, j)
	return j
}

func (j *job) setPID(pid int) {
	j.beginOnce.Do(func() {
		j.pid = pid
		close(j.begun)
	})
}

// begin notes the first process of a simple job.
func (j *job) begin(p *os.Process) {
	if j.simple {
		j.setPID(p.Pid)
	}
}

// end notes how the job ended.
func (j *job) end(status int) {
	j.endOnce.Do(func() {
		j.status = status
		j.cancel()
		close(j.done)
		j.setPID(firstPseudoPID + j.id) // it never started a process
	})
}

// killed reports whether the job was ended from outside. A nil job never is.
func (j *job) killed() bool { return j != nil && j.ctx.Err() != nil }

// bind gives a context that ends with ctx and with the job.
func (j *job) bind(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(j.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

func (j *job) finished() bool {
	select {
	case <-j.done:
		return true
	default:
		return false
	}
}

// signal sends a signal to the job.
func (j *job) signal(sig syscall.Signal) error {
	switch {
	case j.finished():
		return syscall.ESRCH
	case j.simple:
		<-j.begun
		if j.pid < firstPseudoPID {
			return syscall.Kill(j.pid, sig)
		}
	}
	switch sig {
	case 0, syscall.SIGCONT, syscall.SIGCHLD, syscall.SIGWINCH, syscall.SIGURG:
	default:
		j.end(128 + int(sig))
	}
	return nil
}

// of returns the job that code with these variables runs in, or nil.
func (t *jobTable) of(env expand.Environ) *job {
	return t.byID(env.Get(varInside).String())
}

func (t *jobTable) byID(id string) *job {
	n, err := strconv.Atoi(id)
	if err != nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n < 1 || n > len(t.jobs) {
		return nil
	}
	return t.jobs[n-1]
}

// find returns the job that a script names by process id or as %N.
func (t *jobTable) find(name string) *job {
	if len(name) > 1 && name[0] == '%' {
		if name == "%%" || name == "%+" {
			t.mu.Lock()
			defer t.mu.Unlock()
			if len(t.jobs) == 0 {
				return nil
			}
			return t.jobs[len(t.jobs)-1]
		}
		return t.byID(name[1:])
	}
	pid, err := strconv.Atoi(name)
	if err != nil {
		return nil
	}
	for _, j := range slices.Backward(t.all()) { // a later job may have got an old id
		select {
		case <-j.begun:
			if j.pid == pid {
				return j
			}
		default:
		}
	}
	return nil
}

func (t *jobTable) all() []*job {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.jobs)
}

// anyInside reports whether a job is running that would end with our process.
func (t *jobTable) anyInside() bool {
	return slices.ContainsFunc(t.all(), func(j *job) bool { return !j.simple && !j.finished() })
}

// waitInside waits for the jobs that run inside our process: other shells leave
// them behind as processes, here they would be lost.
func (t *jobTable) waitInside() {
	for _, j := range t.all() {
		if !j.simple {
			<-j.done
		}
	}
}
