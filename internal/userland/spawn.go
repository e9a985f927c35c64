package userland

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// killDelay is how long a process may take to end after SIGTERM once its
// context has ended, before it gets SIGKILL.
const killDelay = 2 * time.Second

// newProcess is how long a process is taken to be just starting.
const newProcess = 500 * time.Millisecond

// target is what a command name stands for.
type target struct {
	path  string // file to execute, or "" for a command of this package only
	local bool   // a command of this package
}

// resolve finds what name stands for: a path as it is, otherwise the first
// executable file of that name on PATH, otherwise a command of this package. A
// link to our own binary is the command of this package. The error is
// fs.ErrNotExist, or what forbids executing the file.
func (c *call) resolve(name string) (target, error) {
	file := ""
	if strings.Contains(name, "/") {
		file = c.path(name)
		if err := executable(file); err != nil {
			return target{}, err
		}
	} else {
		var denied error
		for dir := range strings.SplitSeq(c.getenv("PATH"), ":") {
			if dir == "" {
				dir = "."
			}
			candidate := c.path(strings.TrimSuffix(dir, "/") + "/" + name)
			err := executable(candidate)
			if err == nil {
				file = candidate
				break
			}
			if errors.Is(err, syscall.EACCES) {
				denied = err
			}
		}
		if file == "" {
			if Has(name) {
				return target{local: true}, nil
			}
			if denied != nil {
				return target{}, denied
			}
			return target{}, fs.ErrNotExist
		}
	}
	base := commandName(file)
	return target{path: file, local: Has(base) && isSelf(file)}, nil
}

// executable returns nil when the file can be executed.
func executable(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.IsDir() || st.Mode()&0o111 == 0 {
		return syscall.EACCES
	}
	return nil
}

// isSelf reports whether path leads to the binary that is running.
func isSelf(path string) bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	a, err := os.Stat(path)
	if err != nil {
		return false
	}
	b, err := os.Stat(self)
	return err == nil && os.SameFile(a, b)
}

// start says how a child process is started.
type start struct {
	// ownProcess forbids running a command of this package in this process.
	ownProcess bool
	// ignoreCancel leaves the process alone when the context ends, because the
	// terminal has already told it.
	ignoreCancel bool
	// ownGroup starts the process in a process group of its own, out of reach of
	// the terminal's interrupt.
	ownGroup bool
	// started, if set, learns the process id. It is not called when the
	// command runs in this process.
	started func(p *os.Process)
}

// runChild runs argv with c's directory, environment and streams, and returns
// its exit status. When it cannot be started it prints why and returns 126 or
// 127.
func (c *call) runChild(ctx context.Context, argv []string, p process, s start) int {
	t, err := c.resolve(argv[0])
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && !strings.Contains(argv[0], "/") {
			c.errorf("%s: not found", argv[0])
			return exitNotFound
		}
		c.errorf("%s: %s", argv[0], reason(err))
		if errors.Is(err, fs.ErrNotExist) {
			return exitNotFound
		}
		return exitCannotExec
	}
	if t.local {
		cmd, _ := lookup(commandName(argv[0]))
		if p.self == "" || (!s.ownProcess && !cmd.own) {
			return runCommand(ctx, append([]string{commandName(argv[0])}, argv[1:]...), p)
		}
		if t.path == "" {
			t.path = p.self // a link would give the process its name at once
		}
	}
	return c.spawn(ctx, t.path, argv, p, s)
}

func (c *call) spawn(ctx context.Context, path string, argv []string, p process, s start) int {
	cmd, feed, err := startRetrying(ctx, func() *exec.Cmd {
		cmd := exec.CommandContext(ctx, path)
		cmd.Args, cmd.Env, cmd.Dir = argv, p.env, p.dir
		cmd.Stdout, cmd.Stderr = p.stdio.Out, p.stdio.Err
		cmd.WaitDelay = killDelay
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		if s.ignoreCancel {
			began := time.Now()
			cmd.WaitDelay = 0
			cmd.Cancel = func() error {
				// The interrupt may have come before the process was there to get
				// it from the terminal. A program that has only just begun does
				// not mind a second one.
				if time.Since(began) < newProcess {
					_ = cmd.Process.Signal(syscall.SIGINT)
				}
				return nil
			}
		}
		if s.ownGroup {
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		}
		return cmd
	}, p.stdio.In)
	if errors.Is(err, syscall.ENOEXEC) {
		// A script without "#!" is the shell's, by POSIX.
		return c.runChild(ctx, append([]string{"sh", path}, argv[1:]...), p, s)
	}
	if err != nil && ctx.Err() != nil {
		return exitInterrupted
	}
	if err != nil {
		c.errorf("%s: %s", argv[0], reason(err))
		return exitCannotExec
	}
	if s.started != nil {
		s.started(cmd.Process)
	}
	if feed != nil {
		go feed()
	}
	return waitStatus(cmd.Wait())
}

// connectInput gives the child its standard input. A file is passed on. From
// any other reader the returned function copies; it is not waited for, because
// the reader may block long after the child has ended.
func connectInput(cmd *exec.Cmd, in io.Reader) (feed func(), err error) {
	if in == nil || isNilFile(in) {
		return nil, nil
	}
	if f, ok := in.(*os.File); ok {
		cmd.Stdin = f
		return nil, nil
	}
	w, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return func() {
		_, _ = io.Copy(w, in) // an error is the child's end of input, no more
		w.Close()
	}, nil
}

// startRetrying starts the command; "text file busy" passes by itself when
// another thread was between fork and exec with the file open for writing
// (https://go.dev/issue/22315).
func startRetrying(ctx context.Context, build func() *exec.Cmd, in io.Reader) (*exec.Cmd, func(), error) {
	for wait := time.Millisecond; ; wait *= 2 {
		cmd := build()
		feed, err := connectInput(cmd, in)
		if err == nil {
			err = cmd.Start()
		}
		if !errors.Is(err, syscall.ETXTBSY) || wait > 200*time.Millisecond {
			return cmd, feed, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// waitStatus turns the result of exec.Cmd.Wait into a shell's exit status.
func waitStatus(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return exitOK
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return exit.ExitCode()
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return exitInterrupted
	}
	return exitFailure
}
