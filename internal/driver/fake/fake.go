package fake

import (
	"context"
	"os"
	"path/filepath"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// Fault is a way to misbehave, for tests of everything above a driver.
type Fault string

// Faults.
const (
	FaultNone        Fault = ""
	FaultNeverAnswer Fault = "never-answer" // the guest's console speaks, its agent never does
	FaultWrongKey    Fault = "wrong-key"    // the guest holds another key than the host expects
	FaultDieEarly    Fault = "die-early"    // the VMM ends before the agent answers
	FaultFlood       Fault = "flood"        // the console never stops
	FaultBusyDisk    Fault = "full"         // starting fails as on a full disk
)

// Faults lists the faults that Options takes.
func Faults() []Fault {
	return []Fault{FaultNeverAnswer, FaultWrongKey, FaultDieEarly, FaultFlood, FaultBusyDisk}
}

// Options configure a Driver.
type Options struct {
	Fault Fault
}

// Driver implements driver.Driver.
type Driver struct{ opts Options }

var _ driver.Driver = (*Driver)(nil)

// New returns a driver. It touches nothing.
func New(o Options) *Driver { return &Driver{opts: o} }

// Name implements driver.Driver.
func (d *Driver) Name() string { return "fake" }

// Probe implements driver.Driver: a child process runs everywhere that mvmctl does.
func (d *Driver) Probe(context.Context) (driver.Capabilities, error) {
	return driver.Capabilities{
		Version: "1", Isolation: driver.IsolationNone, Transport: "socketpair",
		Notes: []string{"the fake driver isolates nothing: it is for tests and for trying the commands"},
	}, nil
}

// Start implements driver.Driver.
func (d *Driver) Start(ctx context.Context, b machine.Boot, out driver.Output) (driver.VM, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if d.opts.Fault == FaultBusyDisk {
		return nil, machine.Errorf("limit.disk", "free some space", "making the guest's files: %w", syscall.ENOSPC)
	}
	v := &vm{dir: filepath.Join(b.RuntimeDir, "fake"), fault: d.opts.Fault, ended: make(chan struct{})}
	if err := v.start(b, out); err != nil {
		_ = os.RemoveAll(v.dir)
		return nil, err
	}
	return v, nil
}
