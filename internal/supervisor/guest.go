package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// guest is the connection to the agent: it is made, kept, made again when it breaks, and
// pumped for events and log lines while it holds.
type guest struct {
	opts    Options
	vm      driver.VM
	onExit  func(code int) // the main program ended
	logFile io.Writer      // JSON lines of agentproto.LogEntry

	rebooted chan struct{} // closed when the guest has booted again by itself

	mu       sync.Mutex
	client   *agentclient.Client
	changed  chan struct{} // closed when client changes, and replaced
	mainBusy int           // attached streams to the main program under way
	mainIdle chan struct{} // closed while mainBusy is 0

	logged   chan struct{} // closed when the first connection has been read to its end
	logOnce  sync.Once
	exitOnce sync.Once
	exits    sync.WaitGroup // telling of the main program's end
	lastLog  uint64
	lastEvt  uint64
}

func newGuest(o Options, vm driver.VM, logFile io.Writer, onExit func(int)) *guest {
	idle := make(chan struct{})
	close(idle)
	return &guest{opts: o, vm: vm, onExit: onExit, logFile: logFile, mainIdle: idle, rebooted: make(chan struct{}), logged: make(chan struct{}), changed: make(chan struct{})}
}

// connect makes the first connection. It tries again while the guest's end is not sane yet,
// until ctx ends; a wrong key is final at once.
func (g *guest) connect(ctx context.Context) (*agentclient.Client, error) {
	var last error
	for {
		c, err := g.connectOnce(ctx)
		if err == nil {
			return c, nil
		}
		var pe *agentproto.Error
		if errors.As(err, &pe) && (pe.Code == agentproto.CodeAuth || pe.Code == agentproto.CodeVersion || pe.Code == agentproto.CodeWrongMachine) {
			return nil, agentFailure(pe)
		}
		if ctx.Err() != nil {
			if last == nil {
				last = err
			}
			return nil, last
		}
		last = err
		select {
		case <-ctx.Done():
		case <-time.After(reconnectPause):
		}
	}
}

func (g *guest) connectOnce(ctx context.Context) (*agentclient.Client, error) {
	conn, err := g.vm.Dial(ctx, driver.AgentPort)
	if err != nil {
		return nil, err
	}
	fault.Point(fault.SupChannel)
	handshake := agentproto.HandshakeTimeout
	if g.opts.Request.Slow {
		handshake = agentproto.SlowHandshake
	}
	b := g.opts.Request.Boot
	c, err := agentclient.Connect(ctx, conn, agentclient.Identity{
		HostSeed: g.opts.Request.HostSeed, GuestKey: g.opts.Request.GuestKey,
		MachineID: b.ID, Generation: b.Generation, Build: g.opts.Build, Handshake: handshake,
	})
	if err != nil {
		return nil, err
	}
	g.use(c)
	return c, nil
}

// keep pumps the connection and makes it again when it breaks, until ctx ends or the guest turns out
// to have booted again.
func (g *guest) keep(ctx context.Context, c *agentclient.Client) {
	pause := reconnectPause
	run := c.Hello().Run
	for ctx.Err() == nil {
		began := time.Now()
		g.pump(ctx, c)
		if time.Since(began) > steadyTime {
			pause = reconnectPause
		}
		_ = c.Close()
		g.use(nil)
		if ctx.Err() != nil {
			return
		}
		g.opts.Log.Warn("agent connection lost, connecting again", "after", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause): // a guest that greets and hangs up must not make us spin
		}
		pause = min(2*pause, maxReconnectPause)
		next, err := g.connect(ctx)
		if err != nil {
			g.opts.Log.Warn("no agent connection", "error", err)
			return
		}
		if next.Hello().Run != run {
			_ = next.Close()
			g.use(nil)
			close(g.rebooted)
			return
		}
		c = next
	}
}

// pump reads events and log lines until the connection ends.
func (g *guest) pump(ctx context.Context, c *agentclient.Client) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var lastEvent, lastLine bool
	wg.Go(func() {
		err := c.Events(ctx, g.lastEvt, func(e agentproto.Event) error {
			g.lastEvt = e.Seq
			lastEvent = lastEvent || e.Type == agentproto.EventStopped
			if e.Type == "main" && e.State == "exited" && e.ExitCode != nil {
				code := *e.ExitCode
				g.exitOnce.Do(func() { g.exits.Go(func() { g.mainExited(code) }) }) // a hostile guest says it a million times
			}
			return nil
		})
		g.opts.Log.Debug("event stream ended", "error", err)
	})
	wg.Go(func() {
		enc := json.NewEncoder(g.logFile)
		err := c.Logs(ctx, g.lastLog, func(e agentproto.LogEntry) error {
			g.lastLog = e.Seq
			if e.End {
				lastLine = true
				return nil
			}
			return enc.Encode(e)
		})
		g.opts.Log.Debug("log stream ended", "error", err)
	})
	read := make(chan struct{})
	go func() {
		wg.Wait()
		if lastEvent && lastLine {
			_ = c.Heard(ctx) // a guest that does not wait for it is gone already
		}
		close(read)
	}()
	select {
	case <-c.Closed():
		// What has arrived is still being read; the streams end by themselves.
		select {
		case <-read:
		case <-time.After(drainLogs):
		}
	case <-ctx.Done():
	}
	cancel()
	<-read
	g.exits.Wait() // a guest that ends at once must not be forgotten how it ended
	g.logOnce.Do(func() { close(g.logged) })
}

// mainExited reports the main program's end once whoever is attached has had its output.
func (g *guest) mainExited(code int) {
	g.mu.Lock()
	idle := g.mainIdle
	g.mu.Unlock()
	select {
	case <-idle:
	case <-time.After(drainMain):
	}
	g.onExit(code)
}

// current returns the connection, or nil.
func (g *guest) current() *agentclient.Client {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.client
}

// use makes c the connection; nil: there is none.
func (g *guest) use(c *agentclient.Client) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.client = c
	close(g.changed)
	g.changed = make(chan struct{})
}

// other waits for a connection that is not old, and returns nil when ctx ends first.
func (g *guest) other(ctx context.Context, old *agentclient.Client) *agentclient.Client {
	for {
		g.mu.Lock()
		c, changed := g.client, g.changed
		g.mu.Unlock()
		if c != nil && c != old {
			return c
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// RoundTrip implements http.RoundTripper for the control socket's requests to the agent.
func (g *guest) RoundTrip(r *http.Request) (*http.Response, error) {
	c := g.current()
	if c == nil {
		return nil, machine.Errorf("agent.unready", "wait until `mvmctl ls` shows it running", "the guest agent has not answered yet")
	}
	if r.URL.Path != agentproto.PathMain {
		return c.RoundTripper().RoundTrip(r)
	}
	g.attached(+1)
	resp, err := c.RoundTripper().RoundTrip(r)
	if err != nil {
		g.attached(-1)
		return nil, err
	}
	resp.Body = &countedBody{ReadCloser: resp.Body, done: func() { g.attached(-1) }}
	return resp, nil
}

func (g *guest) attached(delta int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.mainBusy
	g.mainBusy += delta
	switch {
	case before == 0:
		g.mainIdle = make(chan struct{})
	case g.mainBusy == 0:
		close(g.mainIdle)
	}
}

// countedBody tells when a response body is no longer read.
type countedBody struct {
	io.ReadCloser
	once sync.Once
	done func()
}

// Close implements io.Closer.
func (b *countedBody) Close() error {
	b.once.Do(b.done)
	return b.ReadCloser.Close()
}

// mainFailure explains a machine that is up and has nothing to do.
func mainFailure(e *agentproto.Error) error {
	out := machine.Errorf(e.Code, e.Remedy, "the machine's program cannot be started: %w", e)
	switch e.Code {
	case agentproto.CodeNotFound:
		out.Exit = machine.ExitNotFound
	case agentproto.CodeNotExecutable:
		out.Exit = machine.ExitNotExec
	}
	return out
}

// agentFailure makes an agent's refusal an error of the host.
func agentFailure(e *agentproto.Error) error {
	out := machine.Errorf(e.Code, e.Remedy, "%w", e)
	if out.Remedy == "" {
		out.Remedy = "the guest is not what was started: `mvmctl logs --source console` shows what it printed"
	}
	return out
}
