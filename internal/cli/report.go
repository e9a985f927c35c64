package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

// exitCode is the "error" of a command that did what it should and ends with another code than
// 0: the guest's own.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// guestExit returns nil for 0.
func guestExit(code int) error {
	if code == 0 {
		return nil
	}
	return exitCode(code)
}

// several is the errors of a command about several machines. Each is reported; the first one
// gives the exit code.
type several []error

func (e several) Error() string   { return errors.Join(e...).Error() }
func (e several) Unwrap() []error { return e }

// report turns a command's error into text on standard error and an exit code. It is the only
// place that does.
func (a *app) report(ctx context.Context, err error) int {
	var cause *interrupted
	errors.As(context.Cause(ctx), &cause)
	var code exitCode
	var pipe *outputError
	if many, ok := errors.AsType[several](err); ok {
		return a.reportAll(ctx, many)
	}
	switch {
	case cause != nil && quietly(err):
		a.print(&machine.Error{Code: "interrupted", Message: cause.Error(), Exit: exitOfSignal(cause.signal)})
		return exitOfSignal(cause.signal)
	case err == nil:
		return machine.ExitOK
	case errors.As(err, &pipe) || errors.As(context.Cause(ctx), &pipe):
		if errors.Is(pipe, syscall.EPIPE) {
			return exitOfSignal(syscall.SIGPIPE) // as `head` makes every program end, without a word
		}
		return a.print(machine.Errorf("output.write", "free some space, or send the output elsewhere", "%w", pipe))
	case errors.As(err, &code):
		return int(code)
	}
	if list := joined(err); list != nil {
		return a.reportAll(ctx, list)
	}
	return a.print(asError(err))
}

// joined returns the parts of an errors.Join, each of which is an error of its own.
func joined(err error) several {
	j, ok := err.(interface{ Unwrap() []error })
	if !ok || errors.Join(j.Unwrap()...).Error() != err.Error() {
		return nil
	}
	return j.Unwrap()
}

// reportAll reports the errors of a command about several machines; an interruption once.
func (a *app) reportAll(ctx context.Context, errs several) int {
	first, stopped := 0, false
	for _, e := range errs {
		if quietly(e) {
			if stopped {
				continue
			}
			stopped = true
		}
		if exit := a.report(ctx, e); first == 0 {
			first = exit
		}
	}
	return first
}

// quietly reports whether an error is no more than the interruption itself.
func quietly(err error) bool {
	var cause *interrupted
	var code exitCode
	return err == nil || errors.As(err, &code) || errors.As(err, &cause) || errors.Is(err, context.Canceled)
}

// asError gives every error a code and, where we know one, a remedy.
func asError(err error) *machine.Error {
	var me *machine.Error
	var ce *config.Error
	switch {
	case errors.As(err, &ce): // first: it wraps what the vocabulary says of the value
		return &machine.Error{Code: ce.Code, Message: ce.Error(), Remedy: ce.Remedy, Exit: machine.ExitUsage, Err: err}
	case errors.As(err, &me):
		return me
	case errors.Is(err, context.DeadlineExceeded):
		return &machine.Error{Code: "timeout", Message: err.Error(), Remedy: "allow more time with --timeout", Exit: machine.ExitTimeout, Err: err}
	}
	return &machine.Error{Code: "internal", Message: err.Error(), Remedy: "`mvmctl doctor` checks this host", Err: err}
}

// errorJSON is an error as --json prints it, on one line of standard error.
type errorJSON struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
	Log     string `json:"log,omitempty"`
	Detail  string `json:"detail,omitempty"`
	Exit    int    `json:"exit_code"`
}

// print writes the error and returns its exit code.
func (a *app) print(e *machine.Error) int {
	if a.json {
		// What cannot be written to standard error cannot be reported anywhere.
		_ = ui.JSONLine(a.io.Err, map[string]errorJSON{"error": {e.Code, e.Message, e.Remedy, e.Log, e.Detail, e.ExitCode()}})
		return e.ExitCode()
	}
	var b strings.Builder
	// Joined errors have one cause a line; a cause stays one line.
	fmt.Fprintf(&b, "mvmctl: %s\n", ui.Line(strings.ReplaceAll(e.Message, "\n", "; ")))
	if e.Remedy != "" {
		fmt.Fprintf(&b, "  %s\n", ui.Line(e.Remedy))
	}
	if e.Log != "" {
		fmt.Fprintf(&b, "  log: %s\n", ui.Line(e.Log))
	}
	for line := range strings.Lines(e.Detail) {
		fmt.Fprintf(&b, "  | %s\n", ui.Line(strings.TrimRight(line, "\r\n")))
	}
	a.say("%s", b.String())
	return e.ExitCode()
}

// say writes to standard error. When that fails there is nowhere left to say so.
func (a *app) say(format string, args ...any) { _, _ = fmt.Fprintf(a.io.Err, format, args...) }
