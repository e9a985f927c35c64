package vz

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// Name is what --hypervisor takes, and Alias what it takes too.
const (
	Name  = "apple-container"
	Alias = "vz"
)

// Preferred reports whether this is a system on which the framework is the best there is: from macOS
// 26 on Apple runs its own Linux containers as virtual machines on it.
func Preferred() bool { return vmm.CompareVersions(thisSystem().macOS, "26") >= 0 }

// Options configure a Driver. The zero value works, but without BootProbe Probe believes that a Mac
// which has the framework can also boot a guest.
type Options struct {
	Binary   string // path of vfkit; "": search PATH, then Homebrew's places
	CacheDir string // where the answers of slow questions are remembered; "": they are not
	// BootProbe returns what to boot to find out whether the framework works. It is called only when
	// a probe must run.
	BootProbe func(ctx context.Context) (vmm.ProbeAssets, error)
	Log       *slog.Logger // nil: no log

	system  func() system // nil: this host. The tests of the double have another.
	silence time.Duration // of a probe's guest: the double's is slow, and says nothing before it has its modules
}

// system is what the operating system says of itself.
type system struct {
	macOS      string // version; "": it is none
	virtualise bool   // this Mac can
}

// Driver implements driver.Driver.
type Driver struct {
	opts   Options
	log    *slog.Logger
	memory vmm.Memory[remembered]

	mu    sync.Mutex // serialises probing
	found *host      // what was found out, for the life of the process
}

var _ driver.Driver = (*Driver)(nil)

// New returns a driver. It touches nothing.
func New(o Options) *Driver {
	d := &Driver{opts: o, log: o.Log, memory: vmm.Memory[remembered]{Dir: o.CacheDir, Name: "vfkit"}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.opts.system == nil {
		d.opts.system = thisSystem
	}
	return d
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return Name }

// Probe implements driver.Driver. The first call on a host may boot a guest; the answer is
// remembered in Options.CacheDir until the host boots again or vfkit changes.
func (d *Driver) Probe(ctx context.Context) (driver.Capabilities, error) {
	h, err := d.host(ctx)
	if err != nil {
		return driver.Capabilities{}, err
	}
	return driver.Capabilities{
		Version: h.bin.Version, Accelerator: "hvf", Isolation: driver.IsolationVM, Notes: h.notes,
		MaxCPUs: h.maxCPUs, NeedsKernel: true, Transport: "vsock", BinaryPath: h.bin.Path,
	}, nil
}

// Start implements driver.Driver.
func (d *Driver) Start(ctx context.Context, b machine.Boot, out driver.Output) (driver.VM, error) {
	h, err := d.host(ctx)
	if err != nil {
		return nil, err
	}
	return start(ctx, h, b, out, nil, d.log)
}

// start is launch with the contract's types.
func start(ctx context.Context, h host, b machine.Boot, out driver.Output, words []string, log *slog.Logger) (driver.VM, error) {
	v, err := launch(ctx, h, b, out, words, log)
	if err != nil {
		return nil, err // not v: a nil *vm in an interface is not nil
	}
	return v, nil
}

// host is what a machine depends on beside its Boot.
type host struct {
	bin     binary
	arch    string // GOARCH
	maxCPUs int    // the framework's limit: what the Mac has
	notes   []string
}

// remembered is what is kept across processes. Each part names what it is true for.
type remembered struct {
	Binary *binary    `json:"binary,omitempty"`
	Probe  *vmm.Trial `json:"probe,omitempty"`
}

// host returns what was found out, finding it out first if need be.
func (d *Driver) host(ctx context.Context) (host, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.found != nil {
		return *d.found, nil
	}
	h := host{arch: runtime.GOARCH, maxCPUs: runtime.NumCPU()}
	sys := d.opts.system()
	if err := sys.check(); err != nil { // first: without it there is no use in installing anything
		return host{}, err
	}
	if vmm.CompareVersions(sys.macOS, supported) < 0 {
		h.notes = append(h.notes, "vfkit is made for macOS "+supported+" and later, this is "+sys.macOS+": update macOS if a machine does not start")
	}
	var err error
	if h.bin, err = d.findBinary(ctx); err != nil {
		return host{}, err
	}
	if err := d.tryBoot(ctx, h, sys); err != nil {
		return host{}, err
	}
	d.found = &h
	return h, nil
}

// Releases of macOS. Disks by name need 12.3, the rest of what we ask for less; 13 is the oldest
// that vfkit is built for (its Makefile), 14 the oldest that it supports (its
// doc/supported_platforms.md).
const (
	oldest    = "13"
	supported = "14"
)

func (s system) check() error {
	switch {
	case s.macOS == "":
		return driver.Unavailable("backend.missing", "use another backend; `mvmctl doctor` lists them", "Apple's Virtualization.framework is on macOS only")
	case vmm.CompareVersions(s.macOS, oldest) < 0:
		return driver.Unavailable("backend.version", "update macOS, or use --hypervisor qemu", "this is macOS %s, Apple's Virtualization.framework is usable from %s on", s.macOS, oldest)
	case !s.virtualise:
		return driver.Unavailable("backend.accel", "use a Mac itself, or a virtual one on an M3 or later with nested virtualisation", "this Mac (or the VM that it is) cannot run virtual machines: kern.hv_support is 0")
	}
	return nil
}

// tryBoot boots a guest, unless that was done since the host booted: a vfkit without its signature,
// and a virtual Mac, look well until then. The answer is remembered. With nothing to boot the host is
// believed.
func (d *Driver) tryBoot(ctx context.Context, h host, sys system) error {
	if d.opts.BootProbe == nil {
		return nil
	}
	reason, err := vmm.Probe{
		Binary: h.bin.Stamp, How: "macOS " + sys.macOS, Known: d.memory.Load().Probe, Assets: d.opts.BootProbe, Silence: d.opts.silence,
		Keep: func(t vmm.Trial) {
			d.memory.Change(func(r *remembered) { r.Probe = &t })
			d.log.Info("tried vfkit", "problem", t.Reason)
		},
		Launch: func(ctx context.Context, b machine.Boot, out driver.Output, words []string) (driver.VM, error) {
			return start(ctx, h, b, out, words, d.log)
		},
	}.Try(ctx)
	if untried, ok := errors.AsType[*vmm.UntriedError](err); ok {
		return driver.Unavailable("backend.accel", untried.Remedy(), "whether vfkit can boot a guest could not be tried (%w)", untried.Cause)
	}
	if err != nil || reason == "" {
		return err
	}
	return driver.Unavailable("backend.accel", reinstall, "a test guest did not boot with vfkit (%s)", reason)
}
