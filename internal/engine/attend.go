package engine

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// How long a call to a guest may stand still before the guest is asked whether it lives, and how
// long it then has for the answer. Together they are what a user waits for a guest that stands
// still, and more than any that lives ever needed, also an emulated one on a busy host.
const (
	quietTime = 4 * time.Second
	pulseTime = 8 * time.Second
)

// attended returns a client whose calls end when the guest stands still. Time alone ends none: a
// call that moves no byte makes us ask the agent, and only when that shows no sign of life either
// is the call given up.
func attended(rt http.RoundTripper, name string) *agentclient.Client {
	return agentclient.NewClient(&attendant{rt: rt, name: name, quiet: quietTime, pulse: pulseTime})
}

// attendant is the way to an agent that watches over each call.
type attendant struct {
	rt           http.RoundTripper
	name         string // of the machine
	quiet, pulse time.Duration
}

// RoundTrip implements http.RoundTripper.
func (a *attendant) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	c := &call{to: a, ctx: ctx, cancel: cancel, done: make(chan struct{})}
	out := r.Clone(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		out.Body = &counted{ReadCloser: r.Body, call: c}
	}
	// A program that has started is the guest's business however long it is silent, and a signal
	// asks whether the guest still lives. A transfer is watched to its end.
	c.untilFirst = programs(r.URL.Path)
	go c.watch()
	resp, err := a.rt.RoundTrip(out)
	if err != nil {
		c.end()
		return nil, c.explain(err)
	}
	resp.Body = &answered{ReadCloser: resp.Body, call: c}
	return resp, nil
}

// programs reports whether a path opens a stream to a program.
func programs(path string) bool {
	return path == agentproto.PathExec || path == agentproto.PathConsole || path == agentproto.PathMain
}

// call is one call under way.
type call struct {
	to         *attendant
	ctx        context.Context
	cancel     context.CancelCauseFunc
	untilFirst bool         // nothing is watched once the answer has begun
	moved      atomic.Int64 // grows with every read of either direction
	idle       atomic.Bool  // nobody waits for the answer's next bytes: its reader is what is slow
	once       sync.Once
	done       chan struct{} // closed when the call is over, or not watched any more
}

// end ends the watching.
func (c *call) end() { c.once.Do(func() { close(c.done) }) }

// watch gives the call up when the guest stands still.
func (c *call) watch() {
	const looks = 4 // within quiet, so that the first byte of a call does not make it twice as long
	before, quiet := c.moved.Load(), 0
	for {
		select {
		case <-c.done:
			return
		case <-c.ctx.Done():
			return
		case <-time.After(c.to.quiet / looks):
		}
		if now := c.moved.Load(); now != before || c.idle.Load() {
			before, quiet = now, 0
			continue
		}
		if quiet++; quiet < looks {
			continue
		}
		if c.to.dead(c.ctx) && !c.idle.Load() && c.moved.Load() == before {
			c.cancel(c.to.still())
			return
		}
		quiet = 0
	}
}

// dead reports whether the guest's agent says nothing at all.
func (a *attendant) dead(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, a.pulse)
	defer cancel()
	_, err := agentclient.NewClient(a.rt).Status(ctx)
	return err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded)
}

func (a *attendant) still() error {
	return agentproto.Errorf(agentproto.CodeTimeout, "see what is wrong with it: mvmctl inspect "+a.name+"; mvmctl down --force "+a.name+" ends it",
		"the guest of machine %q stands still: its agent does not answer", a.name)
}

// explain is err, or why the call was given up.
func (c *call) explain(err error) error {
	if pe, ours := errors.AsType[*agentproto.Error](context.Cause(c.ctx)); ours && err != nil {
		return pe
	}
	return err
}

// counted is a request's body.
type counted struct {
	io.ReadCloser
	call *call
}

// Read implements io.Reader.
func (b *counted) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.call.moved.Add(1)
	return n, err
}

// answered is an answer's body.
type answered struct {
	io.ReadCloser
	call *call
}

// Read implements io.Reader.
func (b *answered) Read(p []byte) (int, error) {
	b.call.idle.Store(false)
	n, err := b.ReadCloser.Read(p)
	b.call.idle.Store(true)
	b.call.moved.Add(1)
	if n > 0 && b.call.untilFirst || err != nil {
		b.call.end()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.call.explain(err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *answered) Close() error {
	b.call.end()
	err := b.ReadCloser.Close()
	b.call.cancel(nil)
	return err
}
