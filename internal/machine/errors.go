package machine

import (
	"errors"
	"fmt"
)

// Exit codes of mvmctl itself (docs/cli.md). A guest command's own code is passed on
// unchanged and is not in this list.
const (
	ExitOK        = 0
	ExitUsage     = 2   // the command line is wrong
	ExitTimeout   = 124 // our own --timeout ran out
	ExitFailed    = 125 // mvmctl failed
	ExitNotExec   = 126 // the guest command was found but cannot be executed
	ExitNotFound  = 127 // the guest command was not found
	ExitInterrupt = 130 // Ctrl-C, after cleaning up
)

// Error is a failure as a user sees it: one line of cause, one line of remedy, a stable code.
type Error struct {
	Code    string // stable, dotted, lower case: "name.invalid"
	Message string // cause, one line, no trailing full stop
	Remedy  string // what to do about it; a command that can be pasted where there is one
	Exit    int    // process exit code; 0 means ExitFailed
	Log     string // path of a log worth reading, if any
	Detail  string // further lines, such as the end of a console log; already escaped
	Err     error  // wrapped cause, for errors.Is/As
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the wrapped cause.
func (e *Error) Unwrap() error { return e.Err }

// ExitCode returns the process exit code that the error asks for.
func (e *Error) ExitCode() int {
	if e.Exit == 0 {
		return ExitFailed
	}
	return e.Exit
}

// Errorf makes an Error with a formatted message. A %w verb in format is honoured.
func Errorf(code, remedy, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Remedy: remedy, Err: errors.Unwrap(err)}
}

// Usagef is Errorf for mistakes on the command line: it exits with ExitUsage.
func Usagef(code, remedy, format string, args ...any) *Error {
	e := Errorf(code, remedy, format, args...)
	e.Exit = ExitUsage
	return e
}

// CodeOf returns the stable code of the first Error in err's chain, or "".
func CodeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}
