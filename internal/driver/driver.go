// Package driver is the contract between the supervisor and a VMM: how to find out whether
// one can be used here, start a machine with it, reach the guest and stop it again.
//
// It is not a place for shared helpers: each backend lives in a folder of its own below this
// one, and drivertest holds the conformance suite that all of them run. The supervisor and
// the engine call it; cmd/mvmctl decides which drivers a binary has.
package driver

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// AgentPort is the guest port on which the agent serves its channel, on every backend.
const AgentPort = 52

// ErrUnavailable is in the chain of every Probe error that means "not on this host". The
// error is a *machine.Error whose message says exactly what is missing and whose remedy says
// how to get it.
var ErrUnavailable = errors.New("backend unavailable")

// Unavailable is machine.Errorf for a Probe error with ErrUnavailable in its chain.
func Unavailable(code, remedy, format string, args ...any) *machine.Error {
	e := machine.Errorf(code, remedy, format, args...)
	e.Err = errors.Join(ErrUnavailable, e.Err)
	return e
}

// ErrNoSuchPort is returned by VM.Dial for a port that the backend cannot reach directly.
var ErrNoSuchPort = errors.New("no such guest port")

// Isolation is what stands between a guest and the host, by the backend's own claim.
type Isolation string

// Isolation levels, strongest first.
const (
	IsolationVMJail    Isolation = "vm+jail"   // hardware virtualisation and a jailed VMM
	IsolationVM        Isolation = "vm"        // hardware virtualisation
	IsolationEmulated  Isolation = "emulated"  // QEMU TCG: no security boundary
	IsolationContainer Isolation = "container" // a Linux container: shared kernel
	IsolationNone      Isolation = "none"      // the fake driver: a plain process
)

// Feature is something that a machine may need and that not every backend has.
type Feature string

// Features. Names are the words of the error and of the documentation.
const (
	FeatureVolumes Feature = "volumes" // storage that outlives the machine
	FeatureImages  Feature = "volumes that are disk images"
	FeatureInit    Feature = "--init" // the image's own init beside the agent
)

// Capabilities are facts about a backend on this host.
type Capabilities struct {
	Version       string    `json:"version"`               // of the VMM, as it prints itself
	Accelerator   string    `json:"accelerator,omitempty"` // "kvm", "hvf", "tcg"; "" where the word has no meaning
	Isolation     Isolation `json:"isolation"`
	Notes         []string  `json:"notes,omitempty"` // why nothing better was chosen; each with its remedy
	MaxCPUs       int       `json:"max_cpus"`        // 0: no limit known
	NeedsKernel   bool      `json:"needs_kernel"`    // Boot.Kernel and Boot.Initrd must be set
	Transport     string    `json:"transport"`       // "vsock", "virtio-serial", "socketpair", "exec-stream"
	BinaryPath    string    `json:"binary_path,omitempty"`
	EmulatedSlow  bool      `json:"emulated_slow"` // deadlines should be generous
	MachineFlavor string    `json:"machine_flavor,omitempty"`
	Lacks         []Feature `json:"lacks,omitempty"` // a machine that needs one of them is refused by Start
}

// Driver starts machines with one VMM. Implementations are safe for concurrent use.
type Driver interface {
	// Name is what --hypervisor takes: lower case, stable.
	Name() string

	// Probe finds out, by doing, whether machines can run here. It may be slow the first time
	// (it may boot a tiny guest) and remembers the answer across processes for as long as it
	// can be trusted. An error wraps ErrUnavailable when the host lacks something.
	Probe(ctx context.Context) (Capabilities, error)

	// Start starts the machine and returns as soon as the VMM runs; it does not wait for the
	// guest. When it returns an error nothing of the machine is left running. ctx bounds only
	// the starting, not the machine's life.
	Start(ctx context.Context, b machine.Boot, out Output) (VM, error)
}

// Output says where a VMM's own words and the guest's console go. The writers are owned by
// the caller, are safe for concurrent use, never block for long and are bounded by it.
type Output struct {
	Console io.Writer // raw bytes of the guest's serial console
	VMM     io.Writer // what the VMM process prints itself

	// Trouble hears of what goes wrong with a machine that goes on: one line for people, safe to
	// print, each time it changes, and "" when it is over. nil: nobody listens.
	Trouble func(text string)

	// Began hears the pid of a VMM that is a process of this host, before it can outlive this process:
	// what notes it down can be found when this process is killed in the middle of Start. nil: nobody
	// listens.
	Began func(pid int)
}

// VM is a machine that a Driver started. It lives in the supervisor process. All methods are
// safe for concurrent use.
type VM interface {
	// Dial connects to a guest port. For AgentPort it waits until the guest listens or ctx
	// ends; the returned connection is raw bytes, not yet authenticated. Closing it wakes a
	// blocked Read. A backend with one byte pipe allows one connection at a time and closes
	// the older one.
	Dial(ctx context.Context, port uint32) (net.Conn, error)

	// Shutdown asks the guest to stop, as a power button would, and returns at once. It is
	// not an error when the machine has already ended.
	Shutdown(ctx context.Context) error

	// Kill ends the VMM now. It is idempotent and returns nil when the VMM is already gone.
	Kill() error

	// Wait returns once the VMM has ended and everything that Start made is gone: nil after a
	// guest power-off, Shutdown or Kill; otherwise an error with the VMM's last words. It may
	// be called by many and answers all of them the same.
	Wait() error
}

// ProcessOwner is implemented by a VM whose VMM is a process of this host. The supervisor
// records it, so that a later command can end what a dead supervisor left behind.
type ProcessOwner interface {
	Pid() int
}

// Agentless is implemented by a VM whose guest may have no agent: it is up as soon as its VMM runs,
// and AgentPort cannot be dialled.
type Agentless interface {
	Agentless() bool
}

// RunnerStarter is implemented by a Driver that starts what Boot.Runner names, and nothing else.
type RunnerStarter interface {
	// Means reports whether a user who asks for this backend by name gets the driver, when the
	// machine has a runner.
	Means(name string) bool
}

// Remover is implemented by a Driver that keeps something of a stopped machine outside of the
// machine's folder, such as its disk.
type Remover interface {
	// Remove deletes all that is kept of the machine with this ID and folder, which does not run:
	// its next start begins with an empty disk. It is idempotent, and success for a machine that
	// was never started.
	Remove(ctx context.Context, id, dir string) error
}

// Forgetter is implemented by a Remover whose Remove may have to wait, for an engine that does not
// answer.
type Forgetter interface {
	// Forget notes that Remove is to be made up for, at the next occasion on which that can be done.
	// The folder may be gone by then.
	Forget(id, dir string) error
}

// Exporter is implemented by a Remover that can show what it keeps of a stopped machine.
type Exporter interface {
	// Export returns the machine's whole root file system, its own writes included, as a tar
	// stream. A stream that was cut ends with an error. Close ends a Read that is under way.
	Export(ctx context.Context, id, dir string) (io.ReadCloser, error)
}

// Differ is implemented by a Remover that can say what a machine has changed.
type Differ interface {
	// Changes reports what the machine has changed against its image, by path, until emit fails.
	Changes(ctx context.Context, id, dir string, emit func(Change) error) error
}

// VolumeKeeper is implemented by a Driver whose machines cannot attach disk images: it keeps the
// data of volumes itself, and takes a machine.Disk with Kept for each. What is in such a volume
// cannot be had by another backend.
type VolumeKeeper interface {
	// KeepVolume makes a volume, empty, and says where it has it and the size that it holds it to,
	// 0 for none. It is idempotent.
	KeepVolume(ctx context.Context, v Volume) (at string, size int64, err error)

	// DropVolume deletes a volume with its data. at is what KeepVolume said, "" when it was
	// interrupted. It is success when there is no such volume.
	DropVolume(ctx context.Context, id, at string) error
}

// Volume is one that a backend is to keep.
type Volume struct {
	ID   string // unique, 16 lower-case hex digits
	Name string // for people
	Size int64  // bytes that were asked for, whole blocks of 4096; 0: the backend's choice
}

// Pauser is implemented by a VM that can make its guest stand still: it uses no processor, and
// goes on where it was. Both are idempotent, and an error when the machine has ended. Kill works
// at any time.
type Pauser interface {
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
}

// KernelChecker is implemented by a Driver with NeedsKernel that cannot boot every kernel of its
// processor.
type KernelChecker interface {
	// SuitsKernel says why a kernel does not boot here, nil when it does as far as its files show.
	SuitsKernel(k machine.Kernel) error
}

// ErrInstallable is in the chain of a Probe error of an Installer that Install mends, when its code
// is not "backend.missing".
var ErrInstallable = errors.New("it can be installed")

// Installer is implemented by a Driver that can fetch its VMM itself.
type Installer interface {
	// Install fetches the release that this program pins, by its digest, to where Probe finds it.
	// It is idempotent, and what it leaves is complete or nothing.
	Install(ctx context.Context) error
}

// Change is one difference between a machine and its image.
type Change struct {
	Kind string // "A" added, "M" modified, "D" deleted
	Path string // absolute, in the machine
	Type string // "file", "dir", "symlink", "other"; "" when it is not known
	Size int64  // of a file
}

// Thawer is implemented by a Driver of whose paused machine a later command cannot end the process
// that ProcessOwner names, when its supervisor has died.
type Thawer interface {
	// Thaw ends a machine that was paused, or at least lets it go on, so that it can be ended.
	Thaw(ctx context.Context, id, dir string) error
}

// Pruner is implemented by a Driver that keeps copies of images outside of our cache.
type Pruner interface {
	// Prune removes the copies that no machine uses, also no stopped one, and returns how many. They
	// are made again when they are needed. With dryRun it only counts.
	Prune(ctx context.Context, dryRun bool) (int, error)
}
