package agentproto

import (
	"errors"
	"fmt"
)

// Error is a refusal or failure that crosses the channel as JSON, with the HTTP status of the
// answer that carries it.
type Error struct {
	Code    string `json:"code"` // stable
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
	Err     error  `json:"-"` // local cause, for errors.Is; never crosses the channel
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the local cause, if any.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the stable code of the first Error in err's chain, or "".
func CodeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// Errorf makes an Error with a formatted message.
func Errorf(code, remedy, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Remedy: remedy}
}

// Stable codes. Keep a meaning for ever.
const (
	CodeAuth          = "agent.auth"          // the peer's key is not the pinned one
	CodeVersion       = "agent.version"       // another protocol version
	CodeWrongMachine  = "agent.wrong_machine" // another machine id or generation
	CodeUnprovisioned = "agent.unprovisioned" // no usable config drive
	CodeTimeout       = "agent.timeout"       // no answer in time
	CodeLost          = "agent.lost"          // the connection ended in the middle
	CodeTruncated     = "agent.truncated"     // a stream ended without its end mark
	CodeProtocol      = "agent.protocol"      // the peer broke the protocol
	CodeBusy          = "agent.busy"          // too many streams
	CodeConsoleBusy   = "console.busy"        // another console session is open
	CodeConsoleIdle   = "console.idle"        // ended after too long without traffic
	CodeDenied        = "access.denied"       // the machine's policy refuses it (sealed)
	CodeNotFound      = "exec.not_found"      // command not found: exit 127
	CodeNotExecutable = "exec.not_executable" // found but not executable: exit 126
	CodeExecTimeout   = "exec.timeout"        // our --timeout ran out: exit 124
	CodeUser          = "exec.user"           // no such user in the guest
	CodeDir           = "exec.dir"            // no such working directory
	CodePath          = "copy.path"           // path missing, or it would leave its root
	CodeCopy          = "copy.failed"         // reading or writing in the guest went wrong
	CodeConnect       = "forward.connect"     // nothing listens on the guest port
	CodeInvalid       = "request.invalid"     // malformed request
	CodeInternal      = "agent.internal"      // a defect of the agent
	CodeNoMain        = "main.none"           // the machine has no main program
	CodeNoInit        = "init.none"           // the image's init was asked for and there is none
	CodeMainAttached  = "main.attached"       // somebody else is attached already
	CodeNoOverlay     = "diff.unavailable"    // the root is not an overlay
)
