package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/process"
)

// How long the end of a machine may take.
const (
	drainTimeout = time.Second      // for its last output
	killTimeout  = 10 * time.Second // for the engine to end a container
	returnPause  = 250 * time.Millisecond
	returnTries  = 20 // for an engine that went away to come back
)

// killedCode is the exit code of a container whose first process was killed.
const killedCode = 128 + 9

var errEnded = errors.New("the machine has ended")

// vm implements driver.VM.
type vm struct {
	c       *client
	id      string
	console *stream // attached: configuration in, console out
	process machine.Process

	configured chan struct{} // closed when the agent has its configuration
	ready      chan struct{} // closed when it listens
	drained    chan struct{} // closed when all output has been read
	ended      chan struct{}
	err        error         // valid once ended is closed
	over       func()        // gives back what the machine had, once it has ended
	giveUp     func()        // stop waiting for the engine to say that the container has ended
	turn       chan struct{} // held by the dial under way

	mu      sync.Mutex
	killed  bool // an end was asked for
	paused  bool // asked for
	current *execConn
	words   tail // what the agent said last
}

// ownedVM is a vm whose first process is one of this host, and one that we may signal.
type ownedVM struct{ *vm }

var (
	_ driver.VM           = (*vm)(nil)
	_ driver.ProcessOwner = ownedVM{}
	_ driver.Pauser       = (*vm)(nil)
)

// Pid implements driver.ProcessOwner.
func (v ownedVM) Pid() int { return v.process.Pid }

// startTries is how often a container is started whose agent does not get its configuration. An
// engine that was killed comes back with a reader of its own on the input of a container that it
// finds dead (seen with 20.10), and that reader is gone after the next end.
const startTries = 2

// errNotTaken is what run returns when the agent ended before it had its configuration.
var errNotTaken = errors.New("the guest agent ended before it had its configuration")

// run starts a container that does not run, and returns once the agent has its configuration.
func (c *client) run(ctx context.Context, id string, cfg config, out driver.Output, over func()) (driver.VM, error) {
	for try := 1; ; try++ {
		vm, err := c.runOnce(ctx, id, cfg, out, over)
		if err == nil || !errors.Is(err, errNotTaken) {
			return vm, err
		}
		if try == startTries {
			return nil, machine.Errorf("boot.vmm_died", "look at the console log", "starting the container: %w", err)
		}
	}
}

func (c *client) runOnce(ctx context.Context, id string, cfg config, out driver.Output, over func()) (driver.VM, error) {
	v := &vm{
		c: c, id: id, over: over, configured: make(chan struct{}), ready: make(chan struct{}), drained: make(chan struct{}), ended: make(chan struct{}),
		turn: make(chan struct{}, 1),
	}
	console, err := c.hijack(ctx, "/containers/"+id+"/attach", url.Values{"stream": {"1"}, "stdin": {"1"}, "stdout": {"1"}, "stderr": {"1"}}, "")
	if err != nil {
		return nil, engineError(ctx, "attaching to the container", err)
	}
	v.console = console
	life, endLife := context.WithCancel(context.Background()) // of the machine
	v.giveUp = endLife
	stop := context.AfterFunc(ctx, endLife)
	exit, err := v.awaitExit(life)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		endLife()
		_ = console.Close()
		return nil, engineError(ctx, "watching the container", err)
	}
	go v.readConsole(out.Console)
	if err := v.begin(ctx, cfg, exit); err != nil {
		if kerr := c.end(context.WithoutCancel(ctx), id); kerr != nil {
			err = errors.Join(err, kerr)
		}
		endLife()
		_ = console.Close()
		<-v.drained
		for range exit { // until its connection is closed
		}
		return nil, err
	}
	_, _ = fmt.Fprintf(out.VMM, "docker: container %s runs\n", containerShort(id))
	owned := v.identify(ctx)
	go func() {
		defer endLife()
		v.reap(<-exit)
	}()
	if owned {
		return ownedVM{v}, nil
	}
	return v, nil
}

// begin starts the container and hands the configuration over.
func (v *vm) begin(ctx context.Context, cfg config, exit <-chan exited) error {
	if err := v.c.call(ctx, workTimeout, http.MethodPost, "/containers/"+v.id+"/start", nil, nil, nil); err != nil {
		return engineError(ctx, "starting the container", err)
	}
	if err := v.console.SetWriteDeadline(time.Now().Add(callTimeout)); err != nil {
		return engineError(ctx, "handing the configuration over", err)
	}
	if err := cfg.handOver(v.console); err != nil {
		return fmt.Errorf("%w: %w", errNotTaken, err)
	}
	timer := time.NewTimer(workTimeout)
	defer timer.Stop()
	select {
	case <-v.configured:
		return nil
	case e := <-exit:
		if e.err != nil {
			return engineError(ctx, "starting the container", e.err)
		}
		return errNotTaken
	case <-ctx.Done():
		return fmt.Errorf("starting the container: %w", context.Cause(ctx))
	case <-timer.C:
		return machine.Errorf("boot.vmm_timeout", "look at the engine's log: `journalctl -u docker`", "the guest agent does not take its configuration")
	}
}

func containerShort(id string) string { return id[:min(len(id), 12)] }

// exited is how a container ended, or that this cannot be known any more.
type exited struct {
	code int
	err  error
}

// awaitExit has the engine say when the container, which does not run yet, has run.
func (v *vm) awaitExit(ctx context.Context) (<-chan exited, error) {
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(callTimeout, cancel) // the answer begins at once, and ends with the machine
	forever := *v.c
	forever.stall = 0
	resp, err := forever.do(ctx, http.MethodPost, "/containers/"+v.id+"/wait", url.Values{"condition": {"next-exit"}}, nil, "") //nolint:bodyclose // by the goroutine below
	if !late.Stop() && err == nil {
		_ = resp.Body.Close()
		err = context.DeadlineExceeded
	}
	if err != nil {
		cancel()
		return nil, err
	}
	exit := make(chan exited, 1)
	go func() {
		defer cancel()
		defer close(exit)
		var said struct{ StatusCode *int }
		err := json.NewDecoder(io.LimitReader(resp.Body, maxSaid)).Decode(&said)
		_ = resp.Body.Close() // before anybody hears of the end: nothing is left then
		if err == nil && said.StatusCode == nil {
			err = errors.New("the engine does not say how the container ended")
		}
		if err != nil {
			exit <- exited{err: err}
			return
		}
		exit <- exited{code: *said.StatusCode}
	}()
	return exit, nil
}

// identify finds the container's first process, and reports whether it is one of this host that
// we may signal. The number alone proves nothing: an engine may run in a virtual machine.
func (v *vm) identify(ctx context.Context) bool {
	var have inspected
	if v.c.get(ctx, "/containers/"+v.id+"/json", nil, &have) != nil || have.State.Pid <= 1 {
		return false
	}
	id, err := process.Identify(have.State.Pid)
	if err != nil {
		return false
	}
	groups, err := os.ReadFile("/proc/" + strconv.Itoa(have.State.Pid) + "/cgroup")
	if err != nil || !bytes.Contains(groups, []byte(v.id)) {
		return false
	}
	if !maySignal(have.State.Pid) {
		return false
	}
	v.process = id
	return true
}

// readConsole takes what the agent prints. It says with a line on its standard output that it has
// its configuration, and with another that it listens; a guest that lies about that gains a
// connection that fails.
func (v *vm) readConsole(console io.Writer) {
	defer close(v.drained)
	f := frames{r: v.console.r}
	buf := make([]byte, 32<<10)
	steps := []chan struct{}{v.configured, v.ready}
	for {
		n, kind, err := f.next(buf)
		if n > 0 && kind == frameStdout {
			for range bytes.Count(buf[:n], []byte("\n")) {
				if len(steps) > 0 {
					close(steps[0])
					steps = steps[1:]
				}
			}
		} else if n > 0 {
			_, _ = console.Write(buf[:n])
			v.mu.Lock()
			v.words.add(buf[:n])
			v.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// reap ends the machine when its container has ended, or when nobody can tell any more.
func (v *vm) reap(exit exited) {
	if exit.err != nil {
		exit = v.salvage(exit)
	}
	timer := time.NewTimer(drainTimeout)
	select {
	case <-v.drained:
	case <-timer.C:
	}
	timer.Stop()
	_ = v.console.Close()
	<-v.drained
	v.mu.Lock()
	killed := v.killed
	v.mu.Unlock()
	v.over()
	oom := exit.err == nil && exit.code == killedCode && !killed && v.outOfMemory()
	v.mu.Lock()
	current := v.current
	if !v.killed || exit.err != nil {
		v.err = v.failure(exit, oom)
	}
	close(v.ended)
	v.mu.Unlock()
	if current != nil {
		_ = current.Close()
	}
}

// failure explains an end that nobody asked for; v.mu is held.
func (v *vm) failure(exit exited, oom bool) error {
	switch {
	case exit.err != nil:
		return exit.err
	case exit.code == 0:
		return nil
	case oom:
		return machine.Errorf("guest.memory", "give it more with --memory", "the machine used up its memory, and the kernel ended its agent")
	case exit.code == killedCode:
		return machine.Errorf("boot.vmm_died", "look at `docker events` and the kernel's log for who did it", "the container was killed from outside")
	}
	return machine.Errorf("boot.vmm_died", "look at the console log", "the guest agent ended with exit code %d: %s", exit.code, v.words.lastLine())
}

func (v *vm) outOfMemory() bool {
	var have inspected
	return v.c.get(context.Background(), "/containers/"+v.id+"/json", nil, &have) == nil && have.State.OOMKilled
}

// salvage is for an engine that went away or hangs. One that ends in order ends its containers, and
// one that was killed ends them when it starts again, if it is not told to keep them; a process that
// we may signal is ended at once. An engine that does not come back soon may leave a container
// running, and the error says so.
func (v *vm) salvage(lost exited) exited {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	gone := v.endProcess()
	for try := 0; try < returnTries && !gone; try++ {
		err := v.c.end(ctx, v.id)
		gone = err == nil
		if !gone {
			timer := time.NewTimer(returnPause)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
		}
	}
	v.mu.Lock()
	killed := v.killed
	v.mu.Unlock()
	switch {
	case gone && killed:
		return exited{code: killedCode}
	case gone:
		return exited{err: machine.Errorf("backend.engine_lost", "start the machine again with `mvmctl up`; an engine that does not run: `sudo systemctl start docker`",
			"the Docker engine went away, and the machine with it: %w", lost.err)}
	}
	return exited{err: machine.Errorf("backend.engine_lost", "start the engine: `sudo systemctl start docker`; the next `mvmctl up` of the machine ends what is left of it",
		"the Docker engine went away, and the machine's container %s may still run: %w", containerShort(v.id), lost.err)}
}

// Dial implements driver.VM: each connection is a process in the container that passes bytes on to
// the agent's socket. One at a time: the older one is closed.
func (v *vm) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if port != driver.AgentPort {
		return nil, fmt.Errorf("port %d: %w", port, driver.ErrNoSuchPort)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("waiting for the guest: %w", err)
	}
	select {
	case <-v.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the guest: %w", ctx.Err())
	case <-v.ended:
		return nil, errEnded
	}
	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the guest: %w", ctx.Err())
	case <-v.ended:
		return nil, errEnded
	}
	v.mu.Lock()
	older := v.current
	v.mu.Unlock()
	if older != nil {
		_ = older.Close()
	}
	conn, err := v.bridge(ctx)
	if err != nil {
		return nil, v.dialError(ctx, err)
	}
	return conn, nil
}

// bridge starts the process that passes bytes on.
func (v *vm) bridge(ctx context.Context) (net.Conn, error) {
	var made struct {
		ID string `json:"Id"`
	}
	err := v.c.post(ctx, "/containers/"+v.id+"/exec", nil, map[string]any{
		"AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": false, "User": "0:0", "WorkingDir": "/",
		"Cmd": []string{agentproto.GuestAgent, agentproto.BridgeCommand},
	}, &made)
	if err != nil {
		return nil, err
	}
	if strings.Trim(made.ID, "0123456789abcdef") != "" || made.ID == "" {
		return nil, errors.New("the engine names a process that cannot be one")
	}
	s, err := v.c.hijack(ctx, "/exec/"+made.ID+"/start", nil, `{"Detach":false,"Tty":false}`)
	if err != nil {
		return nil, err
	}
	c := &execConn{stream: s, frames: frames{r: s.r}, closed: func() {}}
	c.failed = func(p []byte) {
		v.mu.Lock()
		v.words.add(p)
		v.mu.Unlock()
	}
	if err := c.greeted(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	c.closed = func() {
		v.mu.Lock()
		if v.current == c {
			v.current = nil
		}
		v.mu.Unlock()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.ended:
		_ = s.Close()
		return nil, errEnded
	default:
	}
	v.current = c
	return c, nil
}

// dialError tells a machine that has ended, which the engine may know before we do, from others.
func (v *vm) dialError(ctx context.Context, err error) error {
	if errors.Is(err, errEnded) || isStatus(err, http.StatusNotFound) || isStatus(err, http.StatusConflict) {
		return errEnded
	}
	return engineError(ctx, "connecting to the guest", err)
}

// Wait implements driver.VM.
func (v *vm) Wait() error {
	<-v.ended
	return v.err
}

// tail keeps the last bytes of what was said.
type tail struct{ buf []byte }

const maxTail = 2 << 10

func (t *tail) add(p []byte) {
	t.buf = append(t.buf, p[max(0, len(p)-maxTail):]...)
	if over := len(t.buf) - maxTail; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
}

func (t *tail) lastLine() string {
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	return quote(lines[len(lines)-1])
}
