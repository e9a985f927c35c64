package krun

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"sync"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// Name is what --hypervisor takes.
const Name = "libkrun"

// RunnerName is the program that becomes the VMM.
const RunnerName = "mvm-krun"

// Options configure a Driver. Without BootProbe Probe believes that a /dev/kvm which opens can also
// boot a guest.
type Options struct {
	Library  string // path of libkrun; "": search where systems and Homebrew have it
	CacheDir string // where the answers of slow questions are remembered; "": they are not
	// Runner returns the path of mvm-krun. It is called only when it is needed.
	Runner func(ctx context.Context) (string, error)
	// BootProbe returns what to boot to find out whether KVM works, with a kernel that suits the driver.
	// It is called only when a probe must run.
	BootProbe func(ctx context.Context, suits driver.KernelChecker) (vmm.ProbeAssets, error)
	Log       *slog.Logger // nil: no log

	kvm     string   // the device; "": /dev/kvm. The tests of the double have none.
	folders []string // where libkrun is searched; nil: libraryFolders()
	arch    string   // "": this host's
}

// Driver implements driver.Driver.
type Driver struct {
	opts   Options
	log    *slog.Logger
	memory vmm.Memory[remembered]

	mu    sync.Mutex // serialises probing
	found *host      // what was found out, for the life of the process
}

var (
	_ driver.Driver        = (*Driver)(nil)
	_ driver.KernelChecker = (*Driver)(nil)
)

// New returns a driver. It touches nothing.
func New(o Options) *Driver {
	d := &Driver{opts: o, log: o.Log, memory: vmm.Memory[remembered]{Dir: o.CacheDir, Name: "libkrun"}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.opts.kvm == "" {
		d.opts.kvm = vmm.KVM
	}
	if d.opts.arch == "" {
		d.opts.arch = runtime.GOARCH
	}
	if d.opts.folders == nil {
		d.opts.folders = libraryFolders(d.opts.arch)
	}
	return d
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return Name }

// Probe implements driver.Driver. The first call on a host may boot a guest; the answer is
// remembered in Options.CacheDir until the host boots again or the library changes.
func (d *Driver) Probe(ctx context.Context) (driver.Capabilities, error) {
	h, err := d.host(ctx)
	if err != nil {
		return driver.Capabilities{}, err
	}
	return driver.Capabilities{
		Version: cmp.Or(h.lib.Version, floor+" or later"), Accelerator: "kvm", Isolation: driver.IsolationVM, MaxCPUs: h.lib.MaxCPUs,
		NeedsKernel: true, Transport: "vsock", BinaryPath: h.lib.Path,
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
	lib    library
	runner string // path of mvm-krun
	arch   string // GOARCH
}

// remembered is what is kept across processes. Each part names what it is true for.
type remembered struct {
	Library *library   `json:"library,omitempty"`
	Probe   *vmm.Trial `json:"probe,omitempty"`
}

// host returns what was found out, finding it out first if need be.
func (d *Driver) host(ctx context.Context) (host, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.found != nil {
		return *d.found, nil
	}
	if runtime.GOOS != "linux" {
		return host{}, driver.Unavailable("backend.missing", "use another backend, or mvmctl inside a Linux machine", "libkrun's machines of ours run on Linux only")
	}
	if err := vmm.CheckKVM(d.opts.kvm); err != nil { // first: without it there is no use in installing anything
		return host{}, err
	}
	h := host{arch: d.opts.arch}
	path, err := d.findLibrary()
	if err != nil {
		return host{}, err
	}
	if h.runner, err = d.opts.Runner(ctx); err != nil {
		return host{}, runnerError(err)
	}
	if h.lib, err = d.examine(ctx, path, h.runner); err != nil {
		return host{}, err
	}
	if err := d.tryBoot(ctx, h); err != nil {
		return host{}, err
	}
	d.found = &h
	return h, nil
}

// runnerError makes an error of the runner one that says "not on this host".
func runnerError(err error) error {
	e, ok := errors.AsType[*machine.Error](err)
	if !ok {
		return driver.Unavailable("backend.broken", "look at the cache folder's owner and mode", "mvm-krun, which runs libkrun, cannot be had: %w", err)
	}
	return driver.Unavailable(e.Code, e.Remedy, "%w", err)
}

const nestedRemedy = "on a cloud machine choose a type with nested virtualisation (or metal); below another hypervisor switch nesting on there; `mvmctl up --hypervisor qemu` emulates meanwhile"

// tryBoot boots a guest, unless that was done since the host booted: a /dev/kvm that opens may
// still be unable to. The answer is remembered. With nothing to boot the device is believed: a
// kernel may come with the machine.
func (d *Driver) tryBoot(ctx context.Context, h host) error {
	if d.opts.BootProbe == nil {
		return nil
	}
	reason, err := vmm.Probe{
		// A user id stands for another way to the device.
		Binary: h.lib.Stamp, How: "user " + strconv.Itoa(os.Geteuid()), Known: d.memory.Load().Probe,
		Assets: func(ctx context.Context) (vmm.ProbeAssets, error) { return d.opts.BootProbe(ctx, d) },
		Keep: func(t vmm.Trial) {
			d.memory.Change(func(r *remembered) { r.Probe = &t })
			d.log.Info("tried libkrun", "problem", t.Reason)
		},
		Launch: func(ctx context.Context, b machine.Boot, out driver.Output, words []string) (driver.VM, error) {
			return start(ctx, h, b, out, words, d.log)
		},
	}.Try(ctx)
	if untried, ok := errors.AsType[*vmm.UntriedError](err); ok {
		remedy := "run `mvmctl kernel build`, then `mvmctl doctor`"
		if e, ok := errors.AsType[*machine.Error](untried.Cause); ok && e.Remedy != "" {
			remedy = e.Remedy
		}
		return driver.Unavailable("backend.kvm", remedy, "whether KVM works with libkrun could not be tried (%w)", untried.Cause)
	}
	if err != nil || reason == "" {
		return err
	}
	return driver.Unavailable("backend.kvm", nestedRemedy, "a test guest did not boot with libkrun (%s)", reason)
}
