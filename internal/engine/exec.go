package engine

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/machine"
)

const (
	// timeoutMargin is what the guest gets beyond a command's timeout, for starting the command
	// and ending it in time itself, before it is given up from here.
	timeoutMargin = 5 * time.Second
	// answerTime is how long a guest that was sent a signal may take to show that it lives: an
	// emulated one on a busy host answers well within it.
	answerTime = 5 * time.Second
)

// Exec runs one command in a running machine. The error says that the command's outcome is not
// known or that it was refused; a command that ran, or could not be started, has its exit code
// in the result. The guest keeps the command's timeout; when the guest stands still, we do.
func (e *Engine) Exec(ctx context.Context, name string, o ExecOptions) (ExecResult, error) {
	if o.Timeout > 0 {
		late := machine.Errorf(agentproto.CodeExecTimeout, "see whether the guest still runs: mvmctl inspect "+name,
			"the command did not end within %v, and the guest did not end it", o.Timeout)
		late.Exit = machine.ExitTimeout
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.Timeout+timeoutMargin, late)
		defer cancel()
	}
	return e.stream(ctx, name, func(ctx context.Context, c *agentclient.Client, s agentclient.Streams) (agentproto.Exit, error) {
		return c.Exec(ctx, execStart(o), s)
	}, o.Streams)
}

// Console opens the machine's one console session: o.Args, or a shell when there are none.
func (e *Engine) Console(ctx context.Context, name string, o ExecOptions) (ExecResult, error) {
	return e.stream(ctx, name, func(ctx context.Context, c *agentclient.Client, s agentclient.Streams) (agentproto.Exit, error) {
		return c.Console(ctx, execStart(o), s)
	}, o.Streams)
}

// attach connects to the machine's main program.
func (e *Engine) attach(ctx context.Context, rec machine.Record, s Streams) (ExecResult, error) {
	return e.stream(ctx, rec.Name, func(ctx context.Context, c *agentclient.Client, as agentclient.Streams) (agentproto.Exit, error) {
		return c.Attach(ctx, agentproto.AttachStart{Rows: s.Size.Rows, Cols: s.Size.Cols, Term: s.Term}, as)
	}, s)
}

type runFunc func(context.Context, *agentclient.Client, agentclient.Streams) (agentproto.Exit, error)

func (e *Engine) stream(ctx context.Context, name string, run runFunc, s Streams) (ExecResult, error) {
	ctl, _, err := e.control(ctx, name)
	if err != nil {
		return ExecResult{ExitCode: machine.ExitFailed}, err
	}
	defer ctl.Close()
	stop := make(chan struct{})
	defer close(stop)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	client := attended(ctl.Agent(), name)
	exit, err := run(ctx, client, agentclient.Streams{
		Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Resize: resizes(s.Resize, stop), Signals: signals(ctx, s.Signals, client, cancel),
	})
	if cause, ours := errors.AsType[*machine.Error](context.Cause(ctx)); err != nil && ours {
		return ExecResult{ExitCode: cause.ExitCode(), Exit: exit}, cause
	}
	if err != nil {
		return ExecResult{ExitCode: machine.ExitFailed, Exit: exit}, guestError(err)
	}
	res := ExecResult{ExitCode: exit.Code, Exit: exit}
	if exit.Error != nil {
		return res, guestError(exit.Error)
	}
	return res, nil
}

// resizes converts sizes until stop is closed.
func resizes(in <-chan Size, stop <-chan struct{}) <-chan agentproto.Resize {
	if in == nil {
		return nil
	}
	out := make(chan agentproto.Resize)
	go func() {
		for {
			select {
			case s := <-in:
				select {
				case out <- agentproto.Resize{Rows: s.Rows, Cols: s.Cols}:
				case <-stop:
					return
				}
			case <-stop:
				return
			}
		}
	}()
	return out
}

// signals passes signals on to the guest until ctx ends. A guest that shows no sign of life
// after one has not got it: the signal then ends the command here, as it would have ended a
// program of this host. One that lives is left to do with it what it wants.
func signals(ctx context.Context, in <-chan string, guest *agentclient.Client, end context.CancelCauseFunc) <-chan string {
	if in == nil {
		return nil
	}
	out := make(chan string)
	go func() {
		for {
			select {
			case name := <-in:
				go func() {
					if silent(ctx, guest) {
						end(unheard(name))
					}
				}()
				select {
				case out <- name:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// silent reports whether the guest's agent says nothing at all for answerTime.
func silent(ctx context.Context, guest *agentclient.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	_, err := guest.Status(ctx)
	return err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded)
}

// unheard is the error of a command that is given up because of a signal.
func unheard(name string) error {
	e := machine.Errorf(agentproto.CodeTimeout, "see whether the guest still runs: mvmctl ls",
		"the guest did not answer within %v of %s: what became of the command is not known", answerTime, name)
	e.Exit = 128 + int(unix.SignalNum(name))
	return e
}

func execStart(o ExecOptions) agentproto.ExecStart {
	return agentproto.ExecStart{
		Process: agentproto.Process{Args: o.Args, Env: o.Env, Dir: o.Dir, User: o.User},
		TTY:     o.Streams.TTY, Rows: o.Streams.Size.Rows, Cols: o.Streams.Size.Cols, Term: o.Streams.Term,
		Timeout: agentproto.Duration(o.Timeout),
	}
}

// guestError makes what the agent or the channel refused an error of the host, with the exit
// code that a shell would give.
func guestError(err error) error {
	var pe *agentproto.Error
	if !errors.As(err, &pe) {
		return err
	}
	e := machine.Errorf(pe.Code, pe.Remedy, "%w", err)
	switch pe.Code {
	case agentproto.CodeNotFound:
		e.Exit = machine.ExitNotFound
	case agentproto.CodeNotExecutable:
		e.Exit = machine.ExitNotExec
	case agentproto.CodeExecTimeout:
		e.Exit = machine.ExitTimeout
	}
	return e
}
