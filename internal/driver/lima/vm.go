package lima

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/machine"
)

var errEnded = errors.New("the machine has ended")

const killTimeout = 10 * time.Second // for the virtual machine to end a machine

// vm implements driver.VM.
type vm struct {
	session *linuxenv.Session
	out     driver.Output

	mu     sync.Mutex
	killed bool // an end was asked for

	done chan struct{} // closed when all is gone
	err  error         // valid once done is closed
}

var (
	_ driver.VM           = (*vm)(nil)
	_ driver.ProcessOwner = (*vm)(nil)
	_ driver.Pauser       = (*vm)(nil)
)

func newVM(out driver.Output) *vm {
	if out.Console == nil {
		out.Console = io.Discard
	}
	if out.VMM == nil {
		out.VMM = io.Discard
	}
	if out.Trouble == nil {
		out.Trouble = func(string) {}
	}
	return &vm{out: out, done: make(chan struct{})}
}

// begin sends the files and starts the machine. When it fails, a machine that was never started
// before has nothing in the virtual machine.
func (v *vm) begin(ctx context.Context, f *files, order start) error {
	path := filepath.Join(order.dir, marker)
	said, known, err := readNote(path)
	if err == nil && !known { // before the first thing that is kept there
		err = note{instance: order.instance}.write(path)
	}
	if err != nil {
		return err
	}
	f.kept, order.noted = said.kept, said
	err = v.launch(ctx, f, order)
	if err != nil && !known {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		defer cancel()
		if call(ctx, v.session, pathRemove, opening{ID: order.Boot.ID}, nil) == nil {
			_ = os.Remove(path)
		}
	}
	return err
}

func (v *vm) launch(ctx context.Context, f *files, order start) error {
	if _, err := f.send(ctx, v.session, order.Boot.ID); err != nil {
		return err
	}
	if now := (note{kept: true, instance: order.instance}); now != order.noted {
		if err := now.write(filepath.Join(order.dir, marker)); err != nil {
			return err
		}
	}
	data, err := json.Marshal(order)
	if err != nil {
		return err
	}
	life, over := context.WithCancel(context.Background()) // of the machine
	stop := context.AfterFunc(ctx, over)
	events, err := request(life, v.session, http.MethodPost, pathStart, strings.NewReader(string(data)))
	if err == nil {
		err = v.awaitStart(events)
		if err != nil {
			_ = events.Close()
		}
	}
	if err != nil || !stop() {
		over()
		if err == nil {
			_ = events.Close()
			err = ctx.Err()
		}
		if machine.CodeOf(err) == "" && ctx.Err() == nil {
			err = machine.Errorf("lima.lost", "look at the virtual machine: `limactl list`", "starting the machine: %s: %w", v.session.LastWords(), err)
		}
		return err
	}
	go func() {
		defer over()
		v.follow(events)
	}()
	return nil
}

// awaitStart reads events until the machine runs.
func (v *vm) awaitStart(events io.Reader) error {
	for {
		kind, data, err := linuxenv.ReadFrame(events)
		switch {
		case err != nil:
			return err
		case kind == eventStarted:
			return nil
		case kind == eventEnded:
			if err := endOf(data); err != nil {
				return err
			}
			return errors.New("it ended at once")
		}
		v.pass(kind, data)
	}
}

// pass gives what the machine says to those who listen.
func (v *vm) pass(kind byte, data []byte) {
	switch kind {
	case eventConsole:
		_, _ = v.out.Console.Write(data)
	case eventVMM:
		_, _ = v.out.VMM.Write(data)
	case eventTrouble:
		v.out.Trouble(clean(string(data), 400))
	}
}

// follow passes the machine's events on until it has ended.
func (v *vm) follow(events io.ReadCloser) {
	ended, known := v.read(events)
	_ = events.Close()
	words := v.session.LastWords()
	cerr := v.session.Close()
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case known:
		v.err = ended
	case v.killed:
		v.err = nil
	default:
		v.err = machine.Errorf("lima.lost", "look at the virtual machine: `limactl list`; then start the machine again with `mvmctl up`",
			"the connection to the Lima virtual machine was lost, and the machine with it: %s", words)
	}
	if cerr != nil && v.err == nil && !known {
		v.err = cerr
	}
	close(v.done)
}

// read reads events until the machine's end, and reports whether that was told.
func (v *vm) read(events io.Reader) (ended error, known bool) {
	for {
		kind, data, err := linuxenv.ReadFrame(events)
		if err != nil {
			return nil, false
		}
		if kind == eventEnded {
			return endOf(data), true
		}
		v.pass(kind, data)
	}
}

// Pid implements driver.ProcessOwner: limactl's, whose end is the machine's.
func (v *vm) Pid() int { return v.session.Pid() }

// Dial implements driver.VM. Each connection is a stream of the session.
func (v *vm) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("waiting for the guest: %w", err)
	}
	select {
	case <-v.done:
		return nil, errEnded
	default:
	}
	life, over := context.WithCancel(context.Background()) // of the connection
	stop := context.AfterFunc(ctx, over)
	body, in := io.Pipe()
	answer, err := request(life, v.session, http.MethodPost, pathDial+"?port="+strconv.FormatUint(uint64(port), 10), body)
	if err == nil && !stop() { // ctx ended
		_ = answer.Close()
		err = ctx.Err()
	}
	if err == nil {
		return newConn(answer, in, over), nil
	}
	over()
	stop()
	_ = body.Close()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("waiting for the guest: %w", ctx.Err())
	case errors.Is(err, driver.ErrNoSuchPort), errors.Is(err, errEnded), machine.CodeOf(err) != "":
		return nil, err
	}
	select {
	case <-v.done:
		return nil, errEnded
	case <-v.session.Ended():
		return nil, errEnded
	default:
	}
	return nil, fmt.Errorf("connecting to the guest: %w", err)
}

// Shutdown implements driver.VM.
func (v *vm) Shutdown(ctx context.Context) error { return v.order(ctx, pathShutdown) }

// Pause implements driver.Pauser.
func (v *vm) Pause(ctx context.Context) error { return v.still(ctx, pathPause) }

// Resume implements driver.Pauser.
func (v *vm) Resume(ctx context.Context) error { return v.still(ctx, pathResume) }

func (v *vm) still(ctx context.Context, path string) error {
	select {
	case <-v.done:
		return errEnded
	default:
	}
	err := call(ctx, v.session, path, nil, nil)
	if err == nil || ctx.Err() != nil || machine.CodeOf(err) != "" {
		return err
	}
	return errEnded // or the session, which is the same
}

// Kill implements driver.VM. A virtual machine that does not answer loses the session, and with it
// the machine.
func (v *vm) Kill() error {
	v.mu.Lock()
	v.killed = true
	v.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if v.order(ctx, pathKill) == nil {
		return nil
	}
	return v.session.Close()
}

func (v *vm) order(ctx context.Context, path string) error {
	select {
	case <-v.done:
		return nil
	default:
	}
	err := call(ctx, v.session, path, nil, nil)
	select {
	case <-v.done:
		return nil
	case <-v.session.Ended():
		return nil
	default:
	}
	if errors.Is(err, errEnded) {
		return nil
	}
	return err
}

// Wait implements driver.VM.
func (v *vm) Wait() error {
	<-v.done
	return v.err
}

// newConn makes a connection of the two directions of a request.
func newConn(answer io.ReadCloser, in *io.PipeWriter, over func()) net.Conn {
	ours, theirs := net.Pipe()
	end := sync.OnceFunc(func() {
		_ = theirs.Close()
		_ = in.Close()
		_ = answer.Close()
		over()
	})
	go func() {
		defer end()
		_, _ = io.Copy(theirs, answer)
	}()
	go func() {
		defer end()
		_, _ = io.Copy(in, theirs)
	}()
	return ours
}

// export is a stream that ends its session.
type export struct {
	session *linuxenv.Session
	body    io.ReadCloser
	cancel  func()
	rest    []byte
	err     error
}

func newExport(s *linuxenv.Session, body io.ReadCloser, cancel func()) *export {
	return &export{session: s, body: body, cancel: cancel}
}

// Read implements io.Reader. Only a stream whose end was told is whole.
func (e *export) Read(p []byte) (int, error) {
	for len(e.rest) == 0 && e.err == nil {
		kind, data, err := linuxenv.ReadFrame(e.body)
		switch {
		case err != nil:
			e.err = machine.Errorf("lima.lost", "look at the virtual machine: `limactl list`; then try again", "reading the machine's disk: %w", unexpected(err))
		case kind == eventEnded:
			if e.err = endOf(data); e.err == nil {
				e.err = io.EOF
			}
		default:
			e.rest = data
		}
	}
	if len(e.rest) > 0 {
		n := copy(p, e.rest)
		e.rest = e.rest[n:]
		return n, nil
	}
	return 0, e.err
}

// Close implements io.Closer.
func (e *export) Close() error {
	e.cancel()
	_ = e.body.Close()
	return e.session.Close()
}
