package engine

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/kernel"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
	"github.com/mvmctl/mvmctl/internal/volume"
)

// Records is what the engine needs of the machines' memory.
type Records interface {
	Load(name string) (machine.Record, error)
	Save(rec machine.Record) error
	Delete(name string) error
	Names() ([]string, error)
	Status(name string) *machine.Status
	SaveStatus(name string, st machine.Status) error
}

// Lock is the right to change one machine.
type Lock interface {
	Release()
	Remove() // the machine is gone: forget the lock too
}

// Locks is what the engine needs to be alone with a machine and to know who is alive.
type Locks interface {
	Lock(ctx context.Context, name, what string) (Lock, error)
	TryLock(name, what string) Lock // nil when somebody holds it
	Alive(name string) bool
	TakeAlive(name string) (*os.File, error)
	WaitDead(ctx context.Context, name string) error
}

// Launch is one machine to be started under a new supervisor.
type Launch struct {
	Boot      machine.Boot
	HostSeed  []byte
	GuestKey  []byte
	Ports     []machine.Port
	Isolation string
	Slow      bool
	Alive     *os.File
	Log       string
	Started   func()              // the supervisor process runs
	OnPhase   func(machine.Phase) // a phase of the start has ended
}

// Supervisors starts supervisors and reaches them.
type Supervisors interface {
	// Launch returns when the machine's agent answers, or with the reason why it never will.
	Launch(ctx context.Context, l Launch) (machine.Status, error)
	Connect(ctx context.Context, socket string) (Control, error)
}

// Control is one supervisor's API.
type Control interface {
	Status(ctx context.Context) (machine.Status, error)
	Stop(ctx context.Context, grace time.Duration, force bool) error
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Forwards(ctx context.Context) ([]machine.Port, error)
	AddForwards(ctx context.Context, ports []machine.Port) ([]machine.Port, error)
	RemoveForward(ctx context.Context, p machine.Port) error
	Agent() http.RoundTripper
	Close()
}

// Parts are what an Engine is made of.
type Parts struct {
	Paths       paths.Paths
	Records     Records
	Locks       Locks
	Supervisors Supervisors
	Drivers     []driver.Driver   // in order of preference
	Explicit    map[string]bool   // drivers that are used only when they are asked for by name
	Aliases     map[string]string // other names of drivers
	Elsewhere   map[string]string // names of drivers that this system does not have, and the system that does
	KernelStore *kernel.Store
	ImageStore  *image.Store
	VolumeStore *volume.Store
	LayersInUse func(ctx context.Context) (files map[string]bool, release func(), err error) // by imports under way
	Agent       func(ctx context.Context) (path, digest string, err error)                   // the guest agent's binary
	KeepRunner  func(ctx context.Context, storePath, link string) error                      // from Nix's garbage collector, while link exists
	Build       string                                                                       // version of this program
	Log         *slog.Logger
}

// Engine carries out the verbs. It is safe for concurrent use.
type Engine struct{ Parts }

// New returns an engine. It touches nothing.
func New(p Parts) *Engine { return &Engine{Parts: p} }

// ProbeAssets returns what a driver boots to find out whether it can: the default kernel and
// an initramfs with the agent. c is the driver, when it cannot boot every kernel.
func (p Parts) ProbeAssets(ctx context.Context, c driver.KernelChecker) (machine.Kernel, string, error) {
	k, err := p.defaultKernel(ctx, c)
	if err != nil {
		return machine.Kernel{}, "", err
	}
	path, digest, err := p.Agent(ctx)
	if err != nil {
		return machine.Kernel{}, "", err
	}
	rd, err := buildInitrd(ctx, p.Paths.Cache, k, path, digest)
	if err != nil {
		return machine.Kernel{}, "", err
	}
	return bootKernel(k), rd, nil
}

func (e *Engine) places(rec machine.Record) paths.Machine { return e.Paths.Machine(rec.Name, rec.ID) }
