package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// The file descriptors that a supervisor process inherits beside its standard ones. Standard
// input carries the Request.
const (
	EventsFD = 3 // write end of the Event pipe
	AliveFD  = 4 // the open, locked file that proves it alive
)

// maxEvent bounds one Event line, in bytes.
const maxEvent = 1 << 20

// Process says how to start a supervisor process.
type Process struct {
	Exe  string   // this program
	Args []string // what makes it a supervisor
	Env  []string
	Log  string // where its own words go
	// Alive is the locked file that proves it alive. The process inherits it; the caller closes
	// its own copy afterwards.
	Alive *os.File
}

// Spawn starts a supervisor process in a session of its own and waits until its machine is
// ready or has failed. onPhase hears of the phases of the start; it may be nil. started is
// called as soon as the process runs; it may be nil. When ctx ends first, the process is told
// to stop and Spawn waits for it.
func Spawn(ctx context.Context, p Process, r Request, started func(), onPhase func(machine.Phase)) (machine.Status, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return machine.Status{}, fmt.Errorf("encoding request: %w", err)
	}
	log, err := os.OpenFile(p.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return machine.Status{}, fmt.Errorf("opening the supervisor's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	events, eventsOut, err := os.Pipe()
	if err != nil {
		return machine.Status{}, fmt.Errorf("making the event pipe: %w", err)
	}
	defer func() { _ = events.Close() }()
	request, requestIn, err := os.Pipe()
	if err != nil {
		_ = eventsOut.Close()
		return machine.Status{}, fmt.Errorf("making the request pipe: %w", err)
	}
	// The process outlives this call, and a cancelled start is stopped in order below.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.Exe, p.Args...)
	cmd.Env, cmd.Dir = p.Env, "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = request, log, log
	cmd.ExtraFiles = []*os.File{eventsOut, p.Alive}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = eventsOut.Close()
	_ = request.Close()
	if err != nil {
		_ = requestIn.Close()
		return machine.Status{}, fmt.Errorf("starting the supervisor: %w", err)
	}
	reaped := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its status and its events
		close(reaped)
	}()
	_, err = requestIn.Write(body)
	_ = requestIn.Close()
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		return machine.Status{}, fmt.Errorf("handing over the request: %w", err)
	}
	if started != nil {
		started()
	}
	return follow(ctx, cmd.Process, events, reaped, onPhase, p.Log)
}

// stopTime is how long a supervisor may take to stop when its start is cancelled.
const stopTime = 10 * time.Second

// follow reads events until the machine is ready or has failed.
func follow(ctx context.Context, proc *os.Process, events io.Reader, reaped <-chan struct{}, onPhase func(machine.Phase), log string) (machine.Status, error) {
	stop := context.AfterFunc(ctx, func() {
		_ = proc.Signal(syscall.SIGTERM)
		select {
		case <-reaped:
		case <-time.After(stopTime):
			_ = proc.Kill()
		}
	})
	defer stop()
	sc := bufio.NewScanner(events)
	sc.Buffer(nil, maxEvent)
	for sc.Scan() {
		var e Event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			return machine.Status{}, fmt.Errorf("reading the supervisor's events: %w", err)
		}
		switch {
		case e.Type == EventPhase && e.Phase != nil && onPhase != nil:
			onPhase(*e.Phase)
		case e.Type == EventReady && e.Status != nil:
			if !stop() { // ctx ended just now: the process has been told to stop
				<-reaped
				return machine.Status{}, ctx.Err()
			}
			return *e.Status, nil
		case e.Type == EventFailed && e.Failure != nil:
			<-reaped
			if ctx.Err() != nil { // told to stop: what it could not finish is no failure
				return machine.Status{}, ctx.Err()
			}
			return machine.Status{}, e.Failure.Err()
		}
	}
	<-reaped
	if ctx.Err() != nil {
		return machine.Status{}, ctx.Err()
	}
	return machine.Status{}, &machine.Error{
		Code: "supervisor.died", Message: "the machine's supervisor ended without a word", Log: log,
		Remedy: "try again; if it happens again, the log says why",
	}
}

// ReadRequest reads the Request of a supervisor process from its standard input.
func ReadRequest(r io.Reader) (Request, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxEvent))
	if err != nil {
		return Request{}, fmt.Errorf("reading request: %w", err)
	}
	var req Request
	if err := json.Unmarshal(data, &req); err != nil {
		return Request{}, fmt.Errorf("reading request: %w", err)
	}
	return req, nil
}
