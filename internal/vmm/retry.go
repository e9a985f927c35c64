package vmm

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
	"time"
)

// ErrEnded is the error of what needs a machine that has ended.
var ErrEnded = errors.New("the machine has ended")

// Pauses between two attempts to reach something that has no event for being there: a socket that
// another process binds, a guest port that begins to listen.
const (
	firstPause = 2 * time.Millisecond
	lastPause  = 50 * time.Millisecond
)

// Retry makes pauses that grow. Its zero value is ready.
type Retry struct{ next time.Duration }

// Pause waits until it is time for another attempt. An error says that there is no use in one:
// ctx's, or ErrEnded once ended is closed.
func (r *Retry) Pause(ctx context.Context, ended <-chan struct{}) error {
	if r.next == 0 {
		r.next = firstPause
	}
	timer := time.NewTimer(r.next)
	defer timer.Stop()
	r.next = min(2*r.next, lastPause)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-ended:
		return ErrEnded
	}
}

// NoSocket reports whether a connection failed because there is no socket at the path, or one
// that nobody listens on (yet).
func NoSocket(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}
