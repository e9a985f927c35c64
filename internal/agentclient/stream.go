package agentclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

const stdinChunk = 32 << 10 // bytes of one read of a caller's input

// Streams are the caller's ends of a program in the guest.
type Streams struct {
	// Stdin is read ahead by up to agentproto.StdinWindow bytes; nil: no input. A Read that is
	// under way when the program ends is left alone, and what it returns is dropped.
	Stdin          io.Reader
	Stdout, Stderr io.Writer // nil: output is thrown away. A slow writer slows the program.
	// Resize delivers terminal sizes, Signals signal names ("SIGINT"); either may be nil.
	Resize  <-chan agentproto.Resize
	Signals <-chan string
	// Started is called with the process id once the program runs; may be nil.
	Started func(pid int)
}

// Exec runs a command in the guest. An error means that its outcome is not known or that the
// guest refused it; a command that could not be started, or that the agent ended, has an Exit
// with Error set and the exit code a shell would give it. When ctx ends before the command,
// the guest sends it SIGHUP and then kills its process group.
func (c *Client) Exec(ctx context.Context, start agentproto.ExecStart, s Streams) (agentproto.Exit, error) {
	start.Stdin = s.Stdin != nil
	return c.run(ctx, agentproto.PathExec, start, s)
}

// Console opens the machine's one console session: a command, or a shell when start has none,
// on a terminal. console.busy says that another session is open, and since when.
func (c *Client) Console(ctx context.Context, start agentproto.ExecStart, s Streams) (agentproto.Exit, error) {
	start.Stdin = s.Stdin != nil
	start.TTY = true
	return c.run(ctx, agentproto.PathConsole, start, s)
}

// Attach connects to the machine's main program and starts it if it waits for that. When ctx
// ends before the program, the program goes on.
func (c *Client) Attach(ctx context.Context, start agentproto.AttachStart, s Streams) (agentproto.Exit, error) {
	start.Stdin = s.Stdin != nil
	return c.run(ctx, agentproto.PathMain, start, s)
}

func (c *Client) run(ctx context.Context, path string, start any, s Streams) (agentproto.Exit, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pr, pw := io.Pipe()
	in := &input{rec: agentproto.NewRecordWriter(pw), body: pw, done: make(chan struct{})}
	in.credit.init(agentproto.StdinWindow)
	go in.run(start, s, cancel)
	// While the body is being sent, HTTP/2 looks at nothing but the body: without this a
	// cancelled context would only be seen with the next input.
	stop := context.AfterFunc(ctx, func() { pr.CloseWithError(context.Cause(ctx)) })
	defer stop()

	exit, err := c.output(ctx, path, pr, in, s)
	close(in.done)
	in.credit.close()
	pr.CloseWithError(io.ErrClosedPipe)
	return exit, err
}

// output sends the request whose body is pr and handles the answer's records.
func (c *Client) output(ctx context.Context, path string, pr *io.PipeReader, in *input, s Streams) (agentproto.Exit, error) {
	resp, err := c.send(ctx, http.MethodPost, path, pr)
	if err != nil {
		return agentproto.Exit{}, err
	}
	defer resp.Body.Close()
	rec := agentproto.NewRecordReader(resp.Body)
	started := false
	for {
		t, body, err := rec.Next()
		if err != nil {
			return agentproto.Exit{}, streamError(ctx, c, resp, err)
		}
		if !started && t != agentproto.RecStarted && t != agentproto.RecExit {
			return agentproto.Exit{}, outOfOrder(t)
		}
		switch t {
		case agentproto.RecStarted:
			var v agentproto.Started
			if err := agentproto.Decode(body, &v); err != nil {
				return agentproto.Exit{}, err
			}
			if started {
				return agentproto.Exit{}, outOfOrder(t)
			}
			started = true
			if s.Started != nil {
				s.Started(v.Pid)
			}
		case agentproto.RecStdout:
			err = write(s.Stdout, body)
		case agentproto.RecStderr:
			err = write(s.Stderr, body)
		case agentproto.RecCredit:
			var v agentproto.Credit
			if err := agentproto.Decode(body, &v); err != nil {
				return agentproto.Exit{}, err
			}
			err = in.credit.add(v.Bytes)
		case agentproto.RecExit:
			// A proxy passes the end of an answer on only after that of the request.
			in.body.Close()
			return last(rec, body)
		default:
			err = outOfOrder(t)
		}
		if err != nil {
			return agentproto.Exit{}, err
		}
	}
}

// last decodes the exit record and makes sure that nothing follows it.
func last(rec *agentproto.RecordReader, body []byte) (agentproto.Exit, error) {
	var exit agentproto.Exit
	if err := agentproto.Decode(body, &exit); err != nil {
		return agentproto.Exit{}, err
	}
	if exit.Code < 0 || exit.Code > 255 {
		return agentproto.Exit{}, agentproto.Errorf(agentproto.CodeProtocol, "", "the guest reports exit code %d", exit.Code)
	}
	exit.Signal = clean(exit.Signal, 32)
	exit.Error = cleaned(exit.Error)
	if t, _, err := rec.Next(); err == nil {
		return agentproto.Exit{}, outOfOrder(t)
	}
	return exit, nil
}

func outOfOrder(t agentproto.RecordType) error {
	return agentproto.Errorf(agentproto.CodeProtocol, "", "the guest sent a record of type %d out of order", t)
}

func write(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	if _, err := w.Write(p); err != nil {
		return fmt.Errorf("writing the guest's output: %w", err)
	}
	return nil
}

// input sends the host's records of one stream.
type input struct {
	mu     sync.Mutex
	rec    *agentproto.RecordWriter
	body   *io.PipeWriter // below rec
	credit credit
	done   chan struct{} // closed when the stream has ended
}

func (in *input) send(t agentproto.RecordType, body []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.rec.Write(t, body)
}

func (in *input) sendJSON(t agentproto.RecordType, v any) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.rec.WriteJSON(t, v)
}

// run sends the start record and then whatever the caller has, until the stream ends.
func (in *input) run(start any, s Streams, fail context.CancelCauseFunc) {
	if err := in.sendJSON(agentproto.RecStart, start); err != nil {
		if !errors.Is(err, io.ErrClosedPipe) { // otherwise the stream has ended, and the answer says how
			fail(err)
		}
		return
	}
	if s.Stdin != nil {
		go func() {
			if err := in.pump(s.Stdin); err != nil {
				fail(err)
			}
		}()
	}
	resize, signals := s.Resize, s.Signals
	for {
		var err error
		select {
		case <-in.done:
			return
		case r, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			err = in.sendJSON(agentproto.RecResize, r)
		case name, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			err = in.sendJSON(agentproto.RecSignal, agentproto.Signal{Name: name})
		}
		if err != nil {
			return // the stream has ended
		}
	}
}

// pump sends all of r and then its end. Only a failure to read r is an error: the guest must
// not take it for the end of input.
func (in *input) pump(r io.Reader) error {
	buf := make([]byte, stdinChunk)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if !in.credit.take(n) || in.send(agentproto.RecStdin, buf[:n]) != nil {
				return nil // the stream has ended
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = in.send(agentproto.RecStdin, nil)
			return nil
		case err != nil:
			return fmt.Errorf("reading the input: %w", err)
		}
	}
}

// credit counts the bytes that may still be sent.
type credit struct {
	mu     sync.Mutex
	cond   *sync.Cond
	n      int
	closed bool
}

func (c *credit) init(n int) { c.cond, c.n = sync.NewCond(&c.mu), n }

// take waits for n bytes of credit; false: the stream has ended.
func (c *credit) take(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.n < n && !c.closed {
		c.cond.Wait()
	}
	c.n -= n
	return !c.closed
}

func (c *credit) add(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n < 0 || c.n+n > agentproto.StdinWindow {
		return agentproto.Errorf(agentproto.CodeProtocol, "", "the guest gives credit for input it was not sent")
	}
	c.n += n
	c.cond.Broadcast()
	return nil
}

func (c *credit) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.cond.Broadcast()
}
