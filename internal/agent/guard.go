//go:build unix

package agent

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

// guarded runs do, which works for one request on a goroutine of its own. A panic is noted in
// the log and handed to ended, so that the request ends and nothing else.
func (a *Agent) guarded(ended func(*agentproto.Error), do func()) {
	guestproc.Guard(func(text string) {
		a.blame(text)
		ended(agentproto.Errorf(agentproto.CodeInternal, "report it with the output of mvmctl logs", "the guest's agent met a bug of its own"))
	}, do)
}

// blame puts a panic into the log, line by line.
func (a *Agent) blame(text string) {
	w := a.opts.Log.Writer("agent", "err")
	_, _ = io.WriteString(w, text) // a log never fails
	if c, ok := w.(io.Closer); ok {
		_ = c.Close()
	}
}

// handlerPanic is deferred by a request's handler. HTTP/2 ends the request when a handler
// panics, and says so to nobody: its own log is not kept, because peers can write into it.
func (a *Agent) handlerPanic() {
	r := recover()
	if r == nil {
		return
	}
	if err, ok := r.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
		a.blame(fmt.Sprintf("internal error: %v\n%s", r, debug.Stack()))
	}
	panic(http.ErrAbortHandler)
}
