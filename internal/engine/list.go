package engine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/process"
)

// Names returns all machines' names, sorted, for completion: none when they cannot be read. It
// reads no record.
func (e *Engine) Names(context.Context) []string {
	names, _ := e.Records.Names()
	return names
}

// List returns all machines, sorted by name, with the truth about each. It starts and changes
// nothing.
func (e *Engine) List(ctx context.Context) ([]machine.View, error) {
	names, err := e.Records.Names()
	if err != nil {
		return nil, err
	}
	views := make([]machine.View, len(names))
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(len(names), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(names); i = int(next.Add(1)) - 1 {
				rec, err := e.Records.Load(names[i])
				if machine.CodeOf(err) != "machine.not_found" {
					views[i] = e.view(ctx, names[i], rec, err)
				}
			}
		})
	}
	wg.Wait()
	e.askRunning(ctx, views)
	// A machine that was removed while we looked has no name.
	return slices.DeleteFunc(views, func(v machine.View) bool { return v.Name == "" }), nil
}

// view puts record, status and lock together.
func (e *Engine) view(ctx context.Context, name string, rec machine.Record, err error) machine.View {
	v := machine.View{Record: rec, Dir: e.Paths.Machine(name, "").Dir}
	if err != nil {
		v.Name, v.State, v.Problem = name, machine.StateCorrupt, err.Error()
		if machine.CodeOf(err) == "state.newer" {
			v.State = machine.StateNewer
		}
		return v
	}
	st := e.Records.Status(name)
	v.Status = st
	switch {
	case st != nil && !st.State.Live():
		v.State, v.Problem = st.State, st.Reason
		if st.State == machine.StateExited {
			v.Problem = ""
		}
		// Between the last status and the lock falling free, or a start that has the lock but
		// has not said so yet.
		if st.Generation < rec.Generation && e.Locks.Alive(name) {
			v.State = machine.StateStarting
		}
	case e.Locks.Alive(name):
		if st == nil {
			st = e.askStatus(ctx, rec)
			v.Status = st
		}
		v.State = machine.StateStarting
		if st != nil {
			v.State, v.Problem = st.State, st.Problem
		}
	case st == nil && rec.Intent == machine.IntentStarting:
		v.State, v.Problem = machine.StateCreated, "its start was interrupted; `mvmctl up` starts it again"
	case st == nil && rec.Generation == 0:
		v.State = machine.StateCreated
	case st == nil:
		v.State, v.Problem = machine.StateFailed, "how its last run ended is not known: its status is missing or damaged"
	default:
		v.State, v.Problem = machine.StateCrashed, "its supervisor was killed; the next command cleans up"
		if boot, err := process.BootID(); err == nil && st.Supervisor.BootID != boot {
			v.State, v.Problem = machine.StateExited, "the host was rebooted"
		}
	}
	return v
}

const (
	// askTime is how long a supervisor, or the agent behind it, may take to say what it is doing.
	askTime = time.Second
	// maxAsked is how many machines are asked at a time.
	maxAsked = 64
)

// askStatus asks a living supervisor for the status that its file does not tell: it has not been
// written yet, and then there is nobody to answer, or it is damaged. nil when there is no answer.
func (e *Engine) askStatus(ctx context.Context, rec machine.Record) *machine.Status {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := e.Supervisors.Connect(ctx, e.places(rec).Control())
	if err != nil {
		return nil
	}
	defer c.Close()
	st, err := c.Status(ctx)
	if err != nil || st.Generation != rec.Generation {
		return nil
	}
	return &st
}

// askRunning asks the machines that their status calls running whether they are: a guest that
// stands still cannot say so, and neither can a supervisor that was stopped. All are asked at the
// same time and have the same moment for an answer.
func (e *Engine) askRunning(ctx context.Context, views []machine.View) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxAsked)
	for i := range views {
		v := &views[i]
		if v.State != machine.StateRunning || v.Problem != "" || v.Status.NoAgent {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			v.Problem = e.silence(ctx, v.Record)
		})
	}
	wg.Wait()
}

// silence says who of a running machine does not answer, or "".
func (e *Engine) silence(ctx context.Context, rec machine.Record) string {
	c, err := e.Supervisors.Connect(ctx, e.places(rec).Control())
	if err != nil {
		return e.unreachable(ctx, rec)
	}
	defer c.Close()
	answered := make(chan bool, 1)
	go func() {
		_, err := c.Status(ctx)
		answered <- err == nil
	}()
	_, err = agentclient.NewClient(c.Agent()).Status(ctx)
	switch {
	case !<-answered && ctx.Err() != nil:
		return "its supervisor does not answer; mvmctl down --force " + rec.Name + " ends it"
	case err != nil && ctx.Err() != nil:
		return "its agent does not answer: the guest stands still, or is very busy"
	}
	return ""
}

// unreachable says what is wrong with a running machine at whose socket nobody is, or "" when it
// is on its way out: then its lock is free in a moment.
func (e *Engine) unreachable(ctx context.Context, rec machine.Record) string {
	if e.Locks.WaitDead(ctx, rec.Name) == nil {
		return ""
	}
	if st := e.statusOf(rec); st == nil || st.State != machine.StateRunning {
		return "" // it ends slowly, or was started again
	}
	return "its supervisor cannot be reached, as if its socket had been deleted; mvmctl down --force " + rec.Name + " ends it"
}

// Inspect returns everything known about one machine.
func (e *Engine) Inspect(ctx context.Context, name string) (Detail, error) {
	rec, err := e.Records.Load(name)
	if err != nil {
		return Detail{}, err
	}
	p := e.places(rec)
	d := Detail{View: e.view(ctx, name, rec, nil), Files: map[string]string{
		"guest_log": p.GuestLog(), "console_log": p.ConsoleLog(), "vmm_log": p.VMMLog(), "supervisor_log": p.SupervisorLog(), "disk": p.Upper(),
	}}
	if n, err := disk.UsedBytes(p.Upper()); err == nil {
		d.DiskUsed = n
	}
	if data, err := os.ReadFile(p.Boot()); err == nil {
		var b machine.Boot
		if json.Unmarshal(data, &b) == nil {
			d.Boot = &b
		}
	}
	if d.State.Live() {
		d.Files["control_socket"] = p.Control()
	}
	if d.State != machine.StateRunning {
		return d, nil
	}
	if d.Status.NoAgent {
		d.Memory = memoryOf(d.Status)
		return d, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if c, err := e.Supervisors.Connect(ctx, p.Control()); err == nil {
		defer c.Close()
		if st, err := agentclient.NewClient(c.Agent()).Status(ctx); err == nil {
			d.Agent = &st
		} else {
			if d.Problem != "" {
				d.Problem += "; "
			}
			d.Problem += "its agent does not answer: " + err.Error()
		}
	}
	d.Memory = memoryOf(d.Status)
	return d, nil
}

func memoryOf(st *machine.Status) *Memory {
	sup, err := process.PSS(st.Supervisor.Pid)
	if err != nil {
		return nil
	}
	m := &Memory{Supervisor: sup}
	if vmm, err := process.PSS(st.VMM.Pid); err == nil {
		m.VMM = vmm
	}
	return m
}

// Wait returns the machine's last status once it has ended.
func (e *Engine) Wait(ctx context.Context, name string) (machine.Status, error) {
	rec, err := e.Records.Load(name)
	if err != nil {
		return machine.Status{}, err
	}
	if err := e.Locks.WaitDead(ctx, name); err != nil {
		return machine.Status{}, err
	}
	st := e.Records.Status(name)
	switch {
	case st == nil && rec.Spec.Ephemeral:
		return machine.Status{}, machine.Errorf("machine.removed", "leave out --rm to keep a machine's exit code", "machine %q ended and was removed", name)
	case st == nil:
		return machine.Status{State: machine.StateCreated}, nil
	case st.State.Live():
		st.State, st.Reason = machine.StateCrashed, "its supervisor was killed"
	}
	return *st, nil
}

// running returns the record of a machine whose agent can be asked, or an error that says why
// not.
func (e *Engine) running(name string) (machine.Record, error) {
	rec, err := e.Records.Load(name)
	if err != nil {
		return rec, err
	}
	if !e.Locks.Alive(name) {
		return rec, machine.Errorf("machine.not_running", "mvmctl up --name "+name+" -d starts it", "machine %q is not running", name)
	}
	switch st := e.Records.Status(name); {
	case st == nil || st.Generation < rec.Generation: // an older word, or none
	case st.State == machine.StateStarting:
		return rec, machine.Errorf("machine.starting", "wait until `mvmctl ls` shows it running", "machine %q is still starting", name)
	case st.State == machine.StatePaused:
		return rec, machine.Errorf("machine.paused", "mvmctl resume "+name, "machine %q is paused", name)
	}
	return rec, nil
}

// control connects to a running machine's supervisor.
func (e *Engine) control(ctx context.Context, name string) (Control, machine.Record, error) {
	rec, err := e.running(name)
	if err != nil {
		return nil, rec, err
	}
	c, err := e.Supervisors.Connect(ctx, e.places(rec).Control())
	if err != nil && ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return c, rec, err
}
