package qemu

import (
	"context"
	"log/slog"
	"runtime"
	"sync"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// Accelerators.
const (
	accelKVM = "kvm"
	accelHVF = "hvf"
	accelTCG = "tcg"
)

// Machine types.
const (
	flavorMicroVM = "microvm" // virtio-mmio, no PCI, no firmware tables but ACPI
	flavorQ35     = "q35"
	flavorVirt    = "virt" // arm64
)

// Ways to the guest.
const (
	transportVsock  = "vsock"
	transportSerial = "virtio-serial"
)

// Options configure a Driver. The zero value works, but without BootProbe it never uses
// hardware virtualisation, since nothing can show that a guest boots with it.
type Options struct {
	Binary   string // QEMU's path; "": search PATH for qemu-system-<arch>
	CacheDir string // where the answers of slow questions are remembered; "": they are not
	// BootProbe returns what to boot to find out whether the accelerator works. It is called only
	// when a probe must run.
	BootProbe func(ctx context.Context) (vmm.ProbeAssets, error)
	Accel     string       // "kvm", "hvf" or "tcg" is used unasked; "": find out
	Log       *slog.Logger // nil: no log
}

// Driver implements driver.Driver.
type Driver struct {
	opts   Options
	log    *slog.Logger
	memory vmm.Memory[remembered]

	mu    sync.Mutex // serialises probing: two boot probes at once would only slow each other
	found *host      // what was found out, for the life of the process
}

var _ driver.Driver = (*Driver)(nil)

// New returns a driver. It touches nothing.
func New(o Options) *Driver {
	d := &Driver{opts: o, log: o.Log, memory: vmm.Memory[remembered]{Dir: o.CacheDir, Name: "qemu"}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	return d
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return "qemu" }

// Probe implements driver.Driver. The first call on a host may boot a guest, which takes
// about as long as it is silent at most ; the answer is remembered in Options.CacheDir until the host boots again
// or QEMU changes.
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

// host is everything that a command line depends on beside the Boot.
type host struct {
	bin       binary
	arch      string // GOARCH
	accel     string
	flavor    string
	transport string
	tscKHz    int // frequency of the host's cycle counter; 0: unknown or not constant
	notes     []string
}

func (h host) capabilities() driver.Capabilities {
	c := driver.Capabilities{
		Version: h.bin.Version, Accelerator: h.accel, Isolation: driver.IsolationVM, Notes: h.notes,
		MaxCPUs: maxCPUs, NeedsKernel: true, Transport: h.transport, BinaryPath: h.bin.Path, MachineFlavor: h.flavor,
	}
	if h.accel == accelTCG {
		// https://www.qemu.org/docs/master/system/security.html#non-virtualization-use-case
		c.Isolation, c.EmulatedSlow = driver.IsolationEmulated, true
	}
	return c
}

// maxCPUs is the limit of the machine types we use (microvm: 288, q35: 288, virt: 512), kept
// to what xAPIC ids can name.
const maxCPUs = 255

// host returns what was found out, finding it out first if need be.
func (d *Driver) host(ctx context.Context) (host, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.found != nil {
		return *d.found, nil
	}
	bin, err := d.findBinary(ctx)
	if err != nil {
		return host{}, err
	}
	h := host{bin: bin, arch: runtime.GOARCH, transport: transportSerial}
	if vsockAvailable() {
		h.transport = transportVsock
	}
	if err := d.chooseAccel(ctx, &h); err != nil {
		return host{}, err
	}
	d.found = &h
	return h, nil
}

// setAccel puts an accelerator and what follows from it into h.
func (d *Driver) setAccel(h *host, accel string) {
	h.accel, h.tscKHz = accel, 0
	if accel == accelTCG {
		h.tscKHz = d.hostTSC()
	}
	switch {
	case h.arch == "arm64":
		h.flavor = flavorVirt
	case h.bin.MicroVM && (accel == accelKVM || h.tscKHz != 0):
		// Without PIT and HPET the kernel cannot measure the TSC under emulation and often
		// hangs; it must be told. See kernelCommandLine.
		h.flavor = flavorMicroVM
	default:
		h.flavor = flavorQ35
	}
}
