//go:build unix

package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

const (
	maxConns     = 16                        // authenticated connections at once
	maxFollowers = 8                         // event and log readers at once
	maxData      = agentproto.MaxStreams     // exec, console, main, forward, copy and diff streams at once
	spareStreams = maxFollowers + 8          // HTTP/2 streams beyond those, for control requests
	streamWindow = agentproto.StdinWindow    // bytes a host may send ahead on one stream
	maxFrame     = 64 << 10                  // bytes of one HTTP/2 frame
	maxHeader    = 16 << 10                  // bytes of one request's header
	acceptPause  = 10 * time.Millisecond     // after a failed accept, doubled each time …
	acceptLong   = time.Second               // … up to this
	connWindow   = streamWindow * maxStreams // no stream can take the room of another
	maxStreams   = maxData + spareStreams    // HTTP/2 streams of one connection
)

// Services is what the agent asks of the service manager.
type Services interface {
	Status() []agentproto.ServiceStatus
	CheckStatus() []agentproto.CheckStatus
	// Stop ends all services and checks: their stop signal, and SIGKILL after grace.
	Stop(ctx context.Context, grace time.Duration)
}

// Options are the parts and settings of an Agent. Config, Procs, Log and Events are needed,
// the others have useful zero values.
type Options struct {
	Config   *agentproto.Config
	Build    string // version of this program
	Procs    *guestproc.Table
	Resolver guestproc.Resolver
	// Root is the folder that copies and differences are confined to: "" or "/" in a guest,
	// the machine's folder where the agent is an ordinary process.
	Root  string
	Upper string // upper directory of the root's overlay; "": there is none
	Lower string // lower directory of it; "": changes of the image's files count as added

	Services Services // nil: none
	Log      *Log
	Events   *Events

	PowerOff func(reboot bool)          // ends the machine; nil: nothing does
	SetClock func(time.Time) error      // sets the wall clock; nil: it is left alone
	Timings  func() []agentproto.Timing // phases of the guest's boot; nil: none
	Shell    []string                   // console shell; nil: the image's /bin/sh, else our own
	Slow     bool                       // emulated: deadlines are longer
	Shared   bool                       // the kernel is the host's: its disks are not ours to flush
	Greeted  func()                     // called once, with the first request after a hello: the host has its answer; may be nil
}

// Agent serves one guest.
type Agent struct {
	opts    Options
	started time.Time
	phase   atomic.Value // string
	buffers sync.Pool    // *[]byte of outputChunk bytes

	begin       sync.Once // main program and "ready", with the first Serve
	main        *mainProgram
	console     consoleSlot
	pending     chan struct{} // handshakes under way
	data        chan struct{} // data streams
	follow      chan struct{} // followers
	conns       atomic.Int64  // authenticated connections
	busy        atomic.Int64  // exec, console and copy streams
	streams     atomic.Int64  // those, attached and forward streams
	refused     limiter       // of log lines about refused connections
	lastReaders readers
	hear        sync.Once
	heard       chan struct{} // closed when a host has said that it has all of the last words
	work        readers       // busy streams, which are told how they ended
	stopping    chan struct{} // closed when the guest begins to stop
	stop        sync.Once
	greeted     sync.Once
	stopped     chan struct{} // closed when PowerOff has been called
	run         func() string // says which run of the agent this is
}

// New returns an agent that does nothing until Serve.
func New(o Options) *Agent {
	if o.Root == "" {
		o.Root = "/"
	}
	a := &Agent{
		opts: o, started: time.Now(),
		pending:  make(chan struct{}, agentproto.MaxPendingConns),
		data:     make(chan struct{}, maxData),
		follow:   make(chan struct{}, maxFollowers),
		stopping: make(chan struct{}),
		stopped:  make(chan struct{}),
		heard:    make(chan struct{}),
		run:      sync.OnceValue(rand.Text), // not now: a guest that has just booted may have no randomness yet
	}
	a.buffers.New = func() any { b := make([]byte, outputChunk); return &b }
	a.phase.Store("booting")
	if o.Config.Main != nil {
		a.main = newMain(a, *o.Config.Main)
	}
	return a
}

// Serve accepts connections on ln until ctx ends or ln is closed, and returns nil then. The
// first Serve reports the guest as ready and starts the main program. Serve closes ln, ends
// all connections and waits for their streams. It may run on several listeners at once.
func (a *Agent) Serve(ctx context.Context, ln net.Listener) error {
	o := a.opts
	cfg, err := agentproto.GuestTLS(o.Config.GuestSeed, o.Config.HostKey)
	if err != nil {
		return fmt.Errorf("preparing the channel: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &server{agent: a, tls: cfg, http2: &http2.Server{
		MaxConcurrentStreams:         maxStreams,
		MaxUploadBufferPerConnection: connWindow,
		MaxUploadBufferPerStream:     streamWindow,
		MaxReadFrameSize:             maxFrame,
	}}
	defer s.handlers.wait()
	defer s.conns.Wait()
	defer cancel()
	defer ln.Close()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()

	a.begin.Do(func() {
		a.phase.CompareAndSwap("booting", "ready")
		o.Events.Add(agentproto.Event{Type: "ready"})
		if a.main != nil && !a.main.spec.Attach {
			a.main.start(agentproto.AttachStart{})
		}
	})
	return s.accept(ctx, ln)
}

// accept hands connections to s.serve. A failed accept is tried again after a growing pause:
// the guest may be out of files for a moment.
func (s *server) accept(ctx context.Context, ln net.Listener) error {
	pause := acceptPause
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			pause = acceptPause
		case ctx.Err() != nil, errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrClosed):
			return nil
		default:
			s.agent.logf("err", "accepting a connection: %v", err)
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return nil
			}
			pause = min(2*pause, acceptLong)
			continue
		}
		select {
		case s.agent.pending <- struct{}{}:
			s.conns.Go(func() { guestproc.Guard(s.agent.blame, func() { s.serve(ctx, conn) }) })
		default:
			conn.Close()
			s.agent.refuse(errors.New("too many handshakes are under way"))
		}
	}
}

func (a *Agent) logf(stream, format string, args ...any) {
	a.opts.Log.Add("agent", stream, fmt.Sprintf(format, args...))
}

// refuse notes a refused connection, at most one a second: whoever causes them shall not push
// everything else out of the log.
func (a *Agent) refuse(err error) {
	if n, ok := a.refused.pass(time.Now()); ok {
		a.logf("err", "refused a connection (%d since the last note): %.200s", n, err)
	}
}

// limiter lets one thing a second pass and counts the others.
type limiter struct {
	mu   sync.Mutex
	last time.Time
	n    int
}

func (l *limiter) pass(now time.Time) (n int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	if now.Sub(l.last) < time.Second {
		return 0, false
	}
	n, l.n, l.last = l.n, 0, now
	return n, true
}
