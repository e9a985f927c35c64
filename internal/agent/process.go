//go:build unix

package agent

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

const (
	outputChunk = 64 << 10 // bytes of one read of a program's output: a pipe's capacity
	// What a program wrote before it ended is read to the end. After that its background
	// children may still hold the pipe: their output is taken until there has been none for
	// drainQuiet, and for no longer than drainMost.
	drainQuiet = 250 * time.Millisecond
	drainMost  = 2 * time.Second
)

// sink takes a program's output. Its error ends nothing: the output is then read and dropped,
// so that a program that was asked to end can still print its last words.
type sink func(t agentproto.RecordType, p []byte) error

// program is a started process with our ends of its streams.
type program struct {
	proc  *guestproc.Proc
	stdin *os.File // nil: none; also the terminal
	tty   *os.File // master side of the terminal; nil: pipes
	outs  []output
	pumps sync.WaitGroup
	once  sync.Once
}

type output struct {
	file *os.File
	kind agentproto.RecordType
}

type wiring struct {
	stdin      bool
	tty        bool
	rows, cols uint16
}

// startProgram starts spec with new pipes, or a new terminal. The error is an
// *agentproto.Error.
func (a *Agent) startProgram(spec guestproc.Spec, w wiring) (*program, error) {
	p := &program{}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	fail := func(err error) (*program, error) {
		p.close()
		if ours, ok := errors.AsType[*agentproto.Error](err); ok {
			return nil, ours
		}
		return nil, agentproto.Errorf(agentproto.CodeInternal, "the guest may be out of files or memory", "preparing the program's streams: %v", err)
	}
	if w.tty {
		master, slave, err := openTTY(w.rows, w.cols, spec.Cred)
		if err != nil {
			return fail(err)
		}
		theirs = append(theirs, slave)
		p.tty, spec.TTY = master, slave
		p.outs = []output{{master, agentproto.RecStdout}}
		if w.stdin {
			p.stdin = master
		}
	} else {
		for _, o := range []struct {
			kind agentproto.RecordType
			to   **os.File
		}{{agentproto.RecStdout, &spec.Stdout}, {agentproto.RecStderr, &spec.Stderr}} {
			r, wr, err := pipe(true)
			if err != nil {
				return fail(err)
			}
			theirs = append(theirs, wr)
			*o.to = wr
			p.outs = append(p.outs, output{r, o.kind})
		}
		if w.stdin {
			r, wr, err := pipe(false)
			if err != nil {
				return fail(err)
			}
			theirs = append(theirs, r)
			spec.Stdin, p.stdin = r, wr
		}
	}
	proc, err := a.opts.Procs.Start(spec)
	if err != nil {
		return fail(err)
	}
	p.proc = proc
	if spec.Init && spec.TTY != nil {
		// An init closes its terminal and opens it again, as /dev/console, whenever it has
		// something to say. Between, a terminal that nobody holds would be at its end.
		theirs = nil
		go func() {
			<-proc.Done()
			spec.TTY.Close()
		}()
	}
	return p, nil
}

// pipe returns a pipe of which our end (the reading one if readOurs) does not block, so that
// the runtime's poller can wake who waits for it, and the program's end does, as programs
// expect. os.Pipe makes both ends alike.
func pipe(readOurs bool) (r, w *os.File, err error) {
	var fds [2]int
	if err := pipe2(&fds); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	ours := fds[1]
	if readOurs {
		ours = fds[0]
	}
	if err := unix.SetNonblock(ours, true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// pump copies the program's output to out until the program has ended and its output is
// drained; wait waits for that. broken hears of a bug, after which no more output is read.
func (p *program) pump(a *Agent, out sink, broken func(*agentproto.Error)) {
	for _, o := range p.outs {
		p.pumps.Go(func() { a.guarded(broken, func() { copyOutput(a, o, p.proc.Done(), out) }) })
	}
}

// wait returns when the program has been reaped and its output drained.
func (p *program) wait() {
	p.pumps.Wait()
	<-p.proc.Done()
}

// close lets go of our ends. It may be called more than once.
func (p *program) close() {
	p.once.Do(func() {
		if p.stdin != nil && p.stdin != p.tty {
			p.stdin.Close()
		}
		for _, o := range p.outs {
			o.file.Close()
		}
	})
}

func copyOutput(a *Agent, o output, exited <-chan struct{}, out sink) {
	f := o.file
	// A deadline in the past wakes the read below when the program ends.
	finished := make(chan struct{})
	defer close(finished)
	woken := make(chan struct{})
	go func() {
		defer close(woken)
		select {
		case <-exited:
			f.SetReadDeadline(time.Unix(1, 0))
		case <-finished:
		}
	}()
	bp := a.buffers.Get().(*[]byte)
	defer a.buffers.Put(bp)
	buf := *bp
	var gone error
	read := func() (int, error) {
		n, err := f.Read(buf)
		if n > 0 && gone == nil {
			gone = out(o.kind, buf[:n])
		}
		return n, err
	}
	for {
		if _, err := read(); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			return // EOF; or EIO, which is a terminal's
		}
	}
	<-woken
	f.SetReadDeadline(time.Time{})
	for left := readable(f); left > 0; {
		n, err := read()
		if err != nil {
			return
		}
		left -= n
	}
	end := time.Now().Add(drainMost)
	for time.Now().Before(end) {
		f.SetReadDeadline(time.Now().Add(drainQuiet))
		if _, err := read(); err != nil {
			return
		}
	}
}
