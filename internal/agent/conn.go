//go:build unix

package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// clockSlack is how far the guest's clock may be off before the host's time replaces it.
const clockSlack = 250 * time.Millisecond

// server is one Serve.
type server struct {
	agent    *Agent
	tls      *tls.Config
	http2    *http2.Server
	conns    sync.WaitGroup
	handlers gate
}

// serve authenticates a connection and answers its requests until it ends. It holds a place
// in agent.pending, which it gives back after the hello.
func (s *server) serve(ctx context.Context, conn net.Conn) {
	a := s.agent
	done := sync.OnceFunc(func() { <-a.pending })
	defer done()
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	limit := agentproto.HandshakeTimeout
	if a.opts.Slow {
		limit = agentproto.SlowHandshake
	}
	deadline := time.Now().Add(limit)
	limited, lift := agentproto.LimitHandshake(conn)
	tc := tls.Server(limited, s.tls)
	hctx, cancel := context.WithDeadline(ctx, deadline)
	err := tc.HandshakeContext(hctx)
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			a.refuse(err)
		}
		return
	}
	lift()
	// Without a hello in time the connection ends, in whatever state it is.
	timer := time.AfterFunc(time.Until(deadline), func() { conn.Close() })
	defer timer.Stop()
	h := &hostConn{server: s, helloDone: func() { timer.Stop(); done() }}
	defer h.close()
	s.http2.ServeConn(tc, &http2.ServeConnOpts{
		Context: ctx,
		Handler: h,
		BaseConfig: &http.Server{
			ErrorLog:       log.New(io.Discard, "", 0), // its errors are the peer's; the end of the connection says enough
			MaxHeaderBytes: maxHeader,
		},
	})
}

// hostConn answers the requests of one connection.
type hostConn struct {
	server    *server
	helloDone func()
	mu        sync.Mutex
	greeted   atomic.Bool
}

// close gives back the connection's place.
func (h *hostConn) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.greeted.Swap(false) {
		h.server.agent.conns.Add(-1)
	}
}

// ServeHTTP implements http.Handler.
func (h *hostConn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.server.handlers.enter() {
		return
	}
	defer h.server.handlers.leave()
	a := h.server.agent
	defer a.handlerPanic()
	if r.URL.Path == agentproto.PathHello && r.Method == http.MethodPost {
		h.hello(w, r)
		return
	}
	if !h.greeted.Load() {
		refuse(w, agentproto.Errorf(agentproto.CodeProtocol, "", "the first request of a connection must be the hello"))
		return
	}
	if a.opts.Greeted != nil {
		a.greeted.Do(a.opts.Greeted)
	}
	switch r.Method + " " + r.URL.Path {
	case "GET " + agentproto.PathStatus:
		answer(w, a.Status())
	case "GET " + agentproto.PathEvents:
		a.serveEvents(w, r)
	case "GET " + agentproto.PathLogs:
		a.serveLogs(w, r)
	case "POST " + agentproto.PathExec:
		a.dataStream(w, &a.busy, a.opts.Config.Access.Exec, "exec", func() { a.serveExec(w, r) })
	case "POST " + agentproto.PathConsole:
		a.dataStream(w, &a.busy, a.opts.Config.Access.Console, "console", func() { a.serveConsole(w, r) })
	case "POST " + agentproto.PathMain:
		a.dataStream(w, nil, true, "", func() { a.serveMain(w, r) })
	case "POST " + agentproto.PathForward:
		a.dataStream(w, nil, a.opts.Config.Access.Forward, "forward", func() { a.serveForward(w, r) })
	case "GET " + agentproto.PathFiles:
		a.dataStream(w, &a.busy, a.opts.Config.Access.Copy, "copy", func() { a.serveCopyOut(w, r) })
	case "PUT " + agentproto.PathFiles:
		a.dataStream(w, &a.busy, a.opts.Config.Access.Copy, "copy", func() { a.serveCopyIn(w, r) })
	case "GET " + agentproto.PathDiff:
		a.dataStream(w, nil, true, "", func() { a.serveDiff(w, r) })
	case "POST " + agentproto.PathShutdown:
		a.serveShutdown(w, r)
	case "POST " + agentproto.PathHeard:
		a.hear.Do(func() { close(a.heard) })
		w.WriteHeader(http.StatusAccepted)
	default:
		refuse(w, agentproto.Errorf(agentproto.CodeInvalid, "", "no such request: %.10s %.100s", r.Method, r.URL.Path))
	}
}

// hello checks that the host means this machine and this generation. It may be repeated.
func (h *hostConn) hello(w http.ResponseWriter, r *http.Request) {
	var in agentproto.Hello
	if !readJSON(w, r, &in) {
		return
	}
	a := h.server.agent
	c := a.opts.Config
	mine := agentproto.Hello{
		Protocol: agentproto.Version, MachineID: c.MachineID, Generation: c.Generation,
		Build: a.opts.Build, Time: time.Now().UTC(), MainError: a.main.failure(), Run: a.run(),
	}
	switch {
	case in.Protocol != agentproto.Version:
		refuse(w, agentproto.Errorf(agentproto.CodeVersion, "restart the machine: it then boots with this version's agent",
			"the host speaks protocol %d, this agent speaks %d", in.Protocol, agentproto.Version))
		return
	case in.MachineID != c.MachineID || in.Generation != c.Generation:
		refuse(w, agentproto.Errorf(agentproto.CodeWrongMachine, "restart the machine",
			"this is machine %s generation %d, not %.64q generation %d", c.MachineID, c.Generation, in.MachineID, in.Generation))
		return
	}
	if !h.greet() {
		refuse(w, agentproto.Errorf(agentproto.CodeBusy, "close other connections", "%d connections are open already", maxConns))
		return
	}
	h.helloDone()
	a.setClock(in.Time)
	answer(w, mine)
}

func (h *hostConn) greet() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.greeted.Load() {
		return true
	}
	if h.server.agent.conns.Add(1) > maxConns {
		h.server.agent.conns.Add(-1)
		return false
	}
	h.greeted.Store(true)
	return true
}

// setClock takes the host's time, which is the authenticated one; a guest has no other.
func (a *Agent) setClock(host time.Time) {
	if a.opts.SetClock == nil || host.IsZero() || host.Year() < 2020 || host.Year() > 2200 {
		return
	}
	if d := time.Until(host); d.Abs() < clockSlack {
		return
	}
	if err := a.opts.SetClock(host); err != nil {
		a.logf("err", "setting the clock: %v", err)
	}
}

// dataStream runs serve if the policy allows it and a place is free.
func (a *Agent) dataStream(w http.ResponseWriter, busy *atomic.Int64, allowed bool, what string, serve func()) {
	if !allowed {
		refuse(w, agentproto.Errorf(agentproto.CodeDenied,
			"the machine was started with --sealed; start it with --dev to allow it",
			"this machine's policy does not allow %s", what))
		return
	}
	select {
	case a.data <- struct{}{}:
	default:
		refuse(w, agentproto.Errorf(agentproto.CodeBusy, "wait for one of them to end", "%d streams are open already", maxData))
		return
	}
	defer func() { <-a.data }()
	if what != "" || busy != nil {
		a.streams.Add(1)
		defer a.streams.Add(-1)
	}
	if busy != nil {
		busy.Add(1)
		defer busy.Add(-1)
		a.work.add(1)
		defer a.work.add(-1)
	}
	serve()
}

// answer sends v as JSON.
func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // an error means that the host is gone
}

// refuse sends e with the HTTP status of its code.
func refuse(w http.ResponseWriter, e *agentproto.Error) {
	status := http.StatusUnprocessableEntity
	switch e.Code {
	case agentproto.CodeDenied, agentproto.CodeProtocol, agentproto.CodeVersion, agentproto.CodeWrongMachine:
		status = http.StatusForbidden
	case agentproto.CodeInvalid:
		status = http.StatusBadRequest
	case agentproto.CodeBusy:
		status = http.StatusServiceUnavailable
	case agentproto.CodeConsoleBusy, agentproto.CodeMainAttached:
		status = http.StatusConflict
	case agentproto.CodeNoMain, agentproto.CodePath, agentproto.CodeNoOverlay:
		status = http.StatusNotFound
	case agentproto.CodeInternal:
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e)
}

// readJSON decodes a request's body; false: it was malformed and has been refused.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	data, err := io.ReadAll(io.LimitReader(r.Body, agentproto.MaxRequest+1))
	if err == nil && len(data) > agentproto.MaxRequest {
		err = errors.New("it is too large")
	}
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		refuse(w, agentproto.Errorf(agentproto.CodeInvalid, "", "malformed request: %.200s", err))
		return false
	}
	return true
}

// gate counts those inside and lets nobody in once somebody waits for it to be empty.
type gate struct {
	mu     sync.Mutex
	n      int
	closed bool
	empty  chan struct{}
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.n++
	}
	return !g.closed
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	if g.closed && g.n == 0 {
		close(g.empty)
	}
}

func (g *gate) wait() {
	g.mu.Lock()
	g.closed = true
	g.empty = make(chan struct{})
	if g.n == 0 {
		close(g.empty)
	}
	g.mu.Unlock()
	<-g.empty
}
