package lima

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// Options configure a Driver.
type Options struct {
	VM       *linuxenv.VM
	CacheDir string // where the answers of slow questions are remembered; "": they are not
	StateDir string // where it is noted what is left to delete; "": nowhere
	// BootProbe returns what to boot to find out whether KVM works in the virtual machine.
	BootProbe func(ctx context.Context) (vmm.ProbeAssets, error)
	Progress  io.Writer // what is said while the virtual machine is made; nil: nowhere
}

// Driver implements driver.Driver.
type Driver struct {
	opts   Options
	memory vmm.Memory[remembered]
	mu     sync.Mutex // one probe at a time
}

var (
	_ driver.Driver    = (*Driver)(nil)
	_ driver.Remover   = (*Driver)(nil)
	_ driver.Exporter  = (*Driver)(nil)
	_ driver.Installer = (*Driver)(nil)
	_ driver.Pruner    = (*Driver)(nil)
)

// New returns a driver. It touches nothing.
func New(o Options) *Driver {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	return &Driver{opts: o, memory: vmm.Memory[remembered]{Dir: o.CacheDir, Name: "lima"}}
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return "lima" }

// remembered is what the virtual machine can do, so that a Probe need not start it, and what it is
// true for.
type remembered struct {
	Tool     linuxenv.Tool `json:"tool"`
	Instance string        `json:"instance"`
	Made     string        `json:"made"`    // identity of the virtual machine
	Program  string        `json:"program"` // identity of the program in it
	Probed   probed        `json:"probed"`
}

const makeIt = "`mvmctl doctor --fix --hypervisor lima` makes it (it downloads some 300 MB)"

// Probe implements driver.Driver. It neither makes nor starts the virtual machine: one that is
// stopped can do what it could when it last ran, and Start starts it.
func (d *Driver) Probe(ctx context.Context) (driver.Capabilities, error) {
	p, tool, err := d.probe(ctx)
	if err != nil {
		return driver.Capabilities{}, err
	}
	return p.capabilities(tool, d.opts.VM.Instance()), nil
}

func (p probed) capabilities(tool linuxenv.Tool, instance string) driver.Capabilities {
	c := p.Caps
	c.Version = tool.Version + ", " + clean(p.Driver+" "+c.Version, 80)
	c.BinaryPath = tool.Path
	c.EmulatedSlow = c.EmulatedSlow || p.Slow
	lacks := []driver.Feature{driver.FeatureImages} // the disk images of volumes are this host's
	for _, f := range []driver.Feature{driver.FeatureVolumes, driver.FeatureInit} {
		if slices.Contains(c.Lacks, f) {
			lacks = append(lacks, f)
		}
	}
	c.Lacks = lacks
	notes := []string{"machines run in the Lima instance " + instance + ", under " + clean(p.Driver, 40)}
	for _, n := range c.Notes[:min(len(c.Notes), 16)] {
		notes = append(notes, "in the virtual machine: "+clean(n, 400))
	}
	c.Notes = notes
	c.Transport, c.Accelerator, c.MachineFlavor = clean(c.Transport, 40), clean(c.Accelerator, 40), clean(c.MachineFlavor, 40)
	if p.Slow && (c.Isolation == driver.IsolationVM || c.Isolation == driver.IsolationVMJail) {
		c.Isolation = driver.IsolationEmulated // its KVM is emulated itself
	}
	if !slices.Contains([]driver.Isolation{driver.IsolationVMJail, driver.IsolationVM, driver.IsolationEmulated}, c.Isolation) {
		c.Isolation = driver.IsolationNone
	}
	return c
}

// probe returns what the virtual machine can do.
func (d *Driver) probe(ctx context.Context) (probed, linuxenv.Tool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	tool, state, err := d.look(ctx)
	if err != nil {
		return probed{}, tool, err
	}
	now := d.identity(tool, state)
	if r := d.memory.Load(); r.Probed.Driver != "" && r.Tool == now.Tool && r.Instance == now.Instance && r.Made == now.Made && r.Program == now.Program {
		return r.Probed, tool, nil
	}
	if state.Status == linuxenv.StatusStopped {
		return probed{}, tool, installs(driver.Unavailable("lima.stopped", "start it: `mvmctl doctor --fix --hypervisor lima`, or `limactl start "+d.opts.VM.Instance()+"`",
			"the Lima instance %s is stopped, and what it can do is not known", d.opts.VM.Instance()))
	}
	s, err := d.opts.VM.Connect(ctx, nil)
	if err != nil {
		return probed{}, tool, unavailable(err)
	}
	defer func() { _ = s.Close() }()
	now.Probed, err = d.ask(ctx, s)
	switch {
	case machine.CodeOf(err) == "backend.none": // Install fetches one
		return probed{}, tool, installs(unavailable(err))
	case err != nil:
		return probed{}, tool, unavailable(err)
	}
	d.memory.Change(func(r *remembered) { *r = now })
	return now.Probed, tool, nil
}

// look finds limactl and the virtual machine.
func (d *Driver) look(ctx context.Context) (linuxenv.Tool, linuxenv.State, error) {
	tool, err := d.opts.VM.Find(ctx)
	if err != nil {
		return tool, linuxenv.State{}, unavailable(err)
	}
	state, err := d.opts.VM.State(ctx, tool)
	switch {
	case err != nil:
		return tool, state, unavailable(err)
	case state.Status == linuxenv.StatusNone:
		return tool, state, installs(driver.Unavailable("backend.missing", makeIt, "there is no Lima instance %s", d.opts.VM.Instance()))
	case state.Status != linuxenv.StatusRunning && state.Status != linuxenv.StatusStopped:
		return tool, state, driver.Unavailable("lima.instance", "look at `limactl list`", "the Lima instance %s is %s", d.opts.VM.Instance(), clean(state.Status, 40))
	}
	return tool, state, nil
}

// identity is what an answer is true for.
func (d *Driver) identity(tool linuxenv.Tool, s linuxenv.State) remembered {
	r := remembered{Tool: tool, Instance: d.opts.VM.Instance()}
	if info, err := os.Stat(filepath.Join(s.Dir, "lima.yaml")); err == nil { // made and edited then
		r.Made = info.ModTime().UTC().String()
	}
	r.Program = d.opts.VM.ProgramID()
	return r
}

// ask has the virtual machine find out what it can do.
func (d *Driver) ask(ctx context.Context, s *linuxenv.Session) (probed, error) {
	var k kernel
	if d.opts.BootProbe != nil {
		assets, err := d.opts.BootProbe(ctx)
		if err != nil {
			return probed{}, err
		}
		files := newFiles()
		defer files.close()
		if k, err = files.kernel(assets.Kernel, assets.Initrd); err != nil {
			return probed{}, err
		}
		if _, err := files.send(ctx, s, ""); err != nil {
			return probed{}, err
		}
	}
	var p probed
	err := call(ctx, s, pathProbe, k, &p)
	return p, err
}

// unavailable marks an error as "not on this host".
func unavailable(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, driver.ErrUnavailable) {
		return err
	}
	e, ok := errors.AsType[*machine.Error](err)
	if !ok {
		e = machine.Errorf("lima.session", "look at the virtual machine: `limactl list`", "using the Lima virtual machine: %w", err)
	}
	out := *e
	out.Err = errors.Join(driver.ErrUnavailable, e.Err)
	return &out
}

// installs says that Install mends what an error says.
func installs(err error) error {
	if e, ok := errors.AsType[*machine.Error](err); ok {
		out := *e
		out.Err = errors.Join(driver.ErrInstallable, e.Err)
		return &out
	}
	return err
}

// Install implements driver.Installer: it makes and starts the virtual machine and has it fetch
// what it needs to run machines. A VMM that is there and boots nothing is not enough: then it has what
// emulates fetched as well.
func (d *Driver) Install(ctx context.Context) error {
	if err := d.opts.VM.Ensure(ctx, d.opts.Progress); err != nil {
		return err
	}
	s, err := d.opts.VM.Connect(ctx, d.opts.Progress)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	if err := d.provide(ctx, s, installRequest{}); err != nil {
		return err
	}
	_, err = d.ask(ctx, s)
	if machine.CodeOf(err) != codeNoBackend {
		return err
	}
	_, _ = io.WriteString(d.opts.Progress, cleanLines(err.Error(), maxJSON)+"\n")
	if err := d.provide(ctx, s, installRequest{Emulate: true}); err != nil {
		return err
	}
	_, err = d.ask(ctx, s)
	return err
}

// provide has the virtual machine fetch something, and passes on what that says.
func (d *Driver) provide(ctx context.Context, s *linuxenv.Session, q installRequest) error {
	data, err := json.Marshal(q)
	if err != nil {
		return err
	}
	body, err := request(ctx, s, http.MethodPost, pathInstall, bytes.NewReader(data))
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	for {
		kind, data, err := linuxenv.ReadFrame(body)
		switch {
		case err != nil:
			return machine.Errorf("backend.install", "try again: `mvmctl doctor --fix --hypervisor lima`", "the session ended: %s: %w", s.LastWords(), err)
		case kind == eventEnded:
			return endOf(data)
		}
		_, _ = io.WriteString(d.opts.Progress, cleanLines(string(data), len(data)))
	}
}

// endOf decodes the end of a stream of events.
func endOf(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	var f failed
	if err := json.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("reading the virtual machine's answer: %w", err)
	}
	return f.err()
}

// Start implements driver.Driver.
func (d *Driver) Start(ctx context.Context, b machine.Boot, out driver.Output) (driver.VM, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n, _, err := readNote(filepath.Join(b.Dir, marker))
	if err == nil {
		err = n.elsewhere(d.opts.VM.Instance())
	}
	if err != nil {
		return nil, err
	}
	p, _, err := d.probe(ctx)
	if err != nil {
		return nil, err
	}
	files := newFiles()
	defer files.close()
	order, err := files.boot(p, b)
	if err != nil {
		return nil, err
	}
	order.instance = d.opts.VM.Instance()
	v := newVM(out)
	if err := d.opts.VM.Ensure(ctx, v.out.VMM); err != nil { // it may be stopped
		return nil, err
	}
	if v.session, err = d.opts.VM.Connect(ctx, v.out.VMM); err != nil {
		return nil, err
	}
	d.clearLeftovers(ctx, v.session)
	if err := v.begin(ctx, files, order); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("starting the machine: %w", context.Cause(ctx))
		}
		return nil, errors.Join(err, v.session.Close())
	}
	return v, nil
}

// session opens a session for a machine that does not run. A virtual machine that is not there has
// nothing of it: none is returned then.
func (d *Driver) session(ctx context.Context) (*linuxenv.Session, error) {
	_, state, err := d.look(ctx)
	if machine.CodeOf(err) == "backend.missing" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if state.Status == linuxenv.StatusStopped {
		if err := d.opts.VM.Ensure(ctx, d.opts.Progress); err != nil {
			return nil, err
		}
	}
	return d.opts.VM.Connect(ctx, nil)
}

// Remove implements driver.Remover.
func (d *Driver) Remove(ctx context.Context, id, dir string) error {
	if dir != "" {
		n, there, err := readNote(filepath.Join(dir, marker))
		if machine.CodeOf(err) == "state.corrupt" {
			err = nil // whatever it said, the disk is to go
		}
		if err == nil && there {
			err = n.elsewhere(d.opts.VM.Instance())
		}
		if err != nil || !there { // it was never started here
			return err
		}
	}
	s, err := d.session(ctx)
	if err != nil {
		return err
	}
	if s != nil {
		defer func() { _ = s.Close() }()
		if err := call(ctx, s, pathRemove, opening{ID: id}, nil); err != nil {
			return err
		}
		d.clearLeftovers(ctx, s)
	}
	if err := os.Remove(filepath.Join(dir, marker)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return machine.Errorf("state.readonly", "make the machine's folder writable", "forgetting where the machine's disk is: %w", err)
	}
	return nil
}

// Export implements driver.Exporter.
func (d *Driver) Export(ctx context.Context, id, _ string) (io.ReadCloser, error) {
	s, err := d.session(ctx)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, machine.Errorf("machine.unchanged", "start it first", "the machine has never been started, so it has no changes")
	}
	ctx, cancel := context.WithCancel(ctx)
	body, err := request(ctx, s, http.MethodPost, pathExport+"?"+url.Values{"id": {id}}.Encode(), http.NoBody)
	if err != nil {
		cancel()
		return nil, errors.Join(err, s.Close())
	}
	return newExport(s, body, cancel), nil
}

// Prune implements driver.Pruner.
func (d *Driver) Prune(ctx context.Context, dryRun bool) (int, error) {
	_, state, err := d.look(ctx)
	if err != nil || state.Status != linuxenv.StatusRunning { // not worth a start
		return 0, nil //nolint:nilerr // there is nothing to prune then
	}
	s, err := d.opts.VM.Connect(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Close() }()
	if !dryRun {
		d.clearLeftovers(ctx, s)
	}
	var p pruned
	path := pathPrune
	if dryRun {
		path += "?dry=1"
	}
	err = call(ctx, s, path, nil, &p)
	return p.Count, err
}
