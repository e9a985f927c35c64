package firecracker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// Options configure a Driver. The zero value works, but without BootProbe Probe believes that a
// /dev/kvm which opens can also boot a guest.
type Options struct {
	Binary   string // path of firecracker; "": search PATH
	CacheDir string // where the answers of slow questions are remembered; "": they are not
	// InstallDir is where Install puts Firecracker, and where it is found when PATH has none.
	InstallDir string
	URL        string // what is fetched is below it; "": the project's release page
	// BootProbe returns what to boot to find out whether KVM works. It is called only when a probe
	// must run.
	BootProbe func(ctx context.Context) (vmm.ProbeAssets, error)
	Log       *slog.Logger // nil: no log

	kvm      string             // the device; "": /dev/kvm. The tests of the double have none.
	releases map[string]release // what Install fetches; nil: releases()
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
	_ driver.Driver    = (*Driver)(nil)
	_ driver.Installer = (*Driver)(nil)
)

// New returns a driver. It touches nothing.
func New(o Options) *Driver {
	d := &Driver{opts: o, log: o.Log, memory: vmm.Memory[remembered]{Dir: o.CacheDir, Name: "firecracker"}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.opts.releases == nil {
		d.opts.releases = releases()
	}
	d.opts.URL = strings.TrimSuffix(cmp.Or(d.opts.URL, releasePage), "/")
	if d.opts.kvm == "" {
		d.opts.kvm = vmm.KVM
	}
	return d
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return "firecracker" }

// Probe implements driver.Driver. The first call on a host may boot a guest; the answer is
// remembered in Options.CacheDir until the host boots again or Firecracker changes.
func (d *Driver) Probe(ctx context.Context) (driver.Capabilities, error) {
	h, err := d.host(ctx)
	if err != nil {
		return driver.Capabilities{}, err
	}
	return h.capabilities(), nil
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
	bin    binary
	arch   string // GOARCH
	jailer string // path; "": no jail
	cgroup bool   // version 2 is there
	notes  []string
}

func (h host) capabilities() driver.Capabilities {
	c := driver.Capabilities{
		Version: h.bin.Version, Accelerator: "kvm", Isolation: driver.IsolationVM, Notes: h.notes,
		MaxCPUs: maxCPUs, NeedsKernel: true, Transport: "vsock", BinaryPath: h.bin.Path,
	}
	if h.jailer != "" {
		c.Isolation = driver.IsolationVMJail
	}
	return c
}

// host returns what was found out, finding it out first if need be.
func (d *Driver) host(ctx context.Context) (host, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.found != nil {
		return *d.found, nil
	}
	if runtime.GOOS != "linux" {
		return host{}, driver.Unavailable("backend.missing", "use another backend, or mvmctl inside a Linux machine", "Firecracker runs on Linux only")
	}
	if err := vmm.CheckKVM(d.opts.kvm); err != nil { // first: without it there is no use in installing anything
		return host{}, err
	}
	bin, err := d.findBinary(ctx)
	if err != nil {
		return host{}, err
	}
	h := host{bin: bin, arch: runtime.GOARCH}
	d.findJailer(ctx, &h, os.Geteuid())
	if err := d.tryBoot(ctx, h); err != nil {
		return host{}, err
	}
	d.found = &h
	return h, nil
}

// remembered is what is kept across processes. Each part names what it is true for.
type remembered struct {
	Binary *binary    `json:"binary,omitempty"`
	Probe  *vmm.Trial `json:"probe,omitempty"`
}

const nestedRemedy = "on a cloud machine choose a type with nested virtualisation (or metal); below another hypervisor switch nesting on there; `mvmctl up --hypervisor qemu` emulates meanwhile"

// tryBoot boots a guest, unless that was done since the host booted: a /dev/kvm that opens may
// still be unable to. The answer is remembered. With nothing to boot the device is believed.
func (d *Driver) tryBoot(ctx context.Context, h host) error {
	if d.opts.BootProbe == nil {
		return nil
	}
	reason, err := vmm.Probe{
		// A user id stands for a jail or not, and for another way to the device.
		Binary: h.bin.Stamp, How: "user " + strconv.Itoa(os.Geteuid()), Known: d.memory.Load().Probe, Assets: d.opts.BootProbe,
		Keep: func(t vmm.Trial) {
			d.memory.Change(func(r *remembered) { r.Probe = &t })
			d.log.Info("tried KVM", "problem", t.Reason)
		},
		Launch: func(ctx context.Context, b machine.Boot, out driver.Output, words []string) (driver.VM, error) {
			return start(ctx, h, b, out, words, d.log)
		},
	}.Try(ctx)
	if untried, ok := errors.AsType[*vmm.UntriedError](err); ok {
		return driver.Unavailable("backend.kvm", untried.Remedy(), "whether KVM works could not be tried (%w)", untried.Cause)
	}
	if err != nil || reason == "" {
		return err
	}
	return driver.Unavailable("backend.kvm", nestedRemedy, "a test guest did not boot with KVM (%s)", reason)
}
