package engine

import (
	"context"
	"errors"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// Exec runs one command in a running machine. The error says that the command's outcome is not
// known or that it was refused; a command that ran, or could not be started, has its exit code
// in the result.
func (e *Engine) Exec(ctx context.Context, name string, o ExecOptions) (ExecResult, error) {
	return e.stream(ctx, name, func(c *agentclient.Client, s agentclient.Streams) (agentproto.Exit, error) {
		return c.Exec(ctx, execStart(o), s)
	}, o.Streams)
}

// Console opens the machine's one console session: o.Args, or a shell when there are none.
func (e *Engine) Console(ctx context.Context, name string, o ExecOptions) (ExecResult, error) {
	return e.stream(ctx, name, func(c *agentclient.Client, s agentclient.Streams) (agentproto.Exit, error) {
		return c.Console(ctx, execStart(o), s)
	}, o.Streams)
}

// attach connects to the machine's main program.
func (e *Engine) attach(ctx context.Context, rec machine.Record, s Streams) (ExecResult, error) {
	return e.stream(ctx, rec.Name, func(c *agentclient.Client, as agentclient.Streams) (agentproto.Exit, error) {
		return c.Attach(ctx, agentproto.AttachStart{Rows: s.Size.Rows, Cols: s.Size.Cols, Term: s.Term}, as)
	}, s)
}

type runFunc func(*agentclient.Client, agentclient.Streams) (agentproto.Exit, error)

func (e *Engine) stream(ctx context.Context, name string, run runFunc, s Streams) (ExecResult, error) {
	ctl, _, err := e.control(ctx, name)
	if err != nil {
		return ExecResult{ExitCode: machine.ExitFailed}, err
	}
	defer ctl.Close()
	stop := make(chan struct{})
	defer close(stop)
	exit, err := run(agentclient.NewClient(ctl.Agent()), agentclient.Streams{
		Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Resize: resizes(s.Resize, stop), Signals: s.Signals,
	})
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
