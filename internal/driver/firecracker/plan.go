package firecracker

import (
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// maxCPUs is Firecracker's own limit.
const maxCPUs = 32

// guestCID is the guest's vsock address. Each Firecracker has a vsock of its own, made of unix
// sockets, so all guests can have the same.
const guestCID = 3

// layout is where Firecracker finds things, as it sees them: in a jail that is not where we do.
type layout struct {
	kernel, initrd string
	log            string   // named pipe
	vsock          string   // socket that Firecracker makes
	disks          []string // one per Boot.Disks
}

// plan returns the requests that build the machine, without the one that starts it. It is pure.
// serials are what Firecracker will show the guest as the serials of Boot.Disks.
func plan(b machine.Boot, l layout, arch string, serials []string, kernelArgs ...string) ([]request, error) {
	args, err := kernelCommandLine(arch, append(vmm.DriveWords(b, serials), kernelArgs...)...)
	if err != nil {
		return nil, err
	}
	out := []request{
		{"PUT", "/logger", loggerConfig{LogPath: l.log, Level: "Warning", ShowLevel: true}},
		{"PUT", "/machine-config", machineConfig{VCPUCount: b.CPUs, MemSizeMiB: b.MemoryBytes >> 20}},
		{"PUT", "/boot-source", bootSource{KernelImagePath: l.kernel, InitrdPath: l.initrd, BootArgs: args}},
	}
	for i, d := range b.Disks {
		id := driveID(d)
		out = append(out, request{"PUT", "/drives/" + id, drive{
			DriveID: id, PathOnHost: l.disks[i], IsReadOnly: d.ReadOnly,
			// Never a root device: that adds words to the kernel's command line and the agent mounts
			// the root itself.
			IsRootDevice: false,
			CacheType:    "Writeback", // the guest's flush is an fsync; "Unsafe" ignores it
			IOEngine:     "Sync",      // "Async" is a developer preview
		}})
	}
	return append(out,
		request{"PUT", "/vsock", vsockDevice{GuestCID: guestCID, UDSPath: l.vsock}},
		request{"PUT", "/entropy", entropyDevice{}},
		// Empty: it is there so that memory can be taken back while the machine runs.
		request{"PUT", "/balloon", balloon{DeflateOnOOM: true}},
	), nil
}

func stateRequest(s string) request { return request{"PATCH", "/vm", vmState{s}} }

func startRequest() request  { return request{"PUT", "/actions", action{actionStart}} }
func ctrlADRequest() request { return request{"PUT", "/actions", action{actionCtrlAD}} }

// driveID is Firecracker's name for a disk: letters, digits and underscores.
func driveID(d machine.Disk) string { return strings.ReplaceAll(string(d.Role), "-", "_") }

// checkBoot refuses what Firecracker would not take or the guest would not understand.
func checkBoot(b machine.Boot) error {
	return vmm.CheckBoot(b, maxCPUs, ", or --hypervisor qemu for more")
}

// maxCmdline leaves room for what Firecracker adds: the virtio-mmio devices of kernels without
// ACPI, 40 bytes each, and its own words.
const maxCmdline = vmm.MaxKernelCommandLine - 512

// kernelCommandLine joins the words that a guest kernel needs here.
func kernelCommandLine(arch string, more ...string) (string, error) {
	words := []string{
		"console=ttyS0", // the same device on arm64
		"quiet",         // each console byte is an exit; errors and panics are printed all the same
		"panic=-1",      // reset at once, which ends Firecracker
		"mvm.poweroff=reboot",
	}
	if arch == "amd64" {
		// By the keyboard controller, which is how Firecracker is told that the machine has ended
		// (docs/getting-started.md there); a triple fault it takes for a failure. Nothing else of that
		// controller exists, and probing for it takes time.
		words = append(words, "reboot=k", "i8042.noaux", "i8042.nomux", "i8042.dumbkbd")
	}
	return vmm.KernelCommandLine(maxCmdline, words, more...)
}
