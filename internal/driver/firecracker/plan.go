package firecracker

import (
	"fmt"
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
	args, err := kernelCommandLine(arch, append(driveWords(b, serials), kernelArgs...)...)
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

// driveWords tells the agent which drive is which. Firecracker gives a drive no serial of our
// choice: see fileSerial.
func driveWords(b machine.Boot, serials []string) []string {
	if len(b.Disks) == 0 {
		return nil
	}
	var pairs []string
	for i, d := range b.Disks {
		pairs = append(pairs, string(d.Role)+":"+serials[i])
	}
	return []string{"mvm.drives=" + strings.Join(pairs, ",")}
}

// fileSerial is the serial that Firecracker makes up for a file: device, device type and inode
// number in decimal, without anything between them, cut to what fits
// (src/vmm/src/devices/virtio/block/virtio/device.rs, build_device_id; unchanged from its first
// version to 1.16).
func fileSerial(dev, rdev, ino uint64) string {
	s := fmt.Sprintf("%d%d%d", dev, rdev, ino)
	return s[:min(len(s), vmm.MaxSerial)]
}

// checkSerials refuses disks that the guest could not tell apart. It takes inode numbers of more
// than 14 digits that begin alike.
func checkSerials(b machine.Boot, serials []string) error {
	seen := map[string]machine.Role{}
	for i, s := range serials {
		if other, ok := seen[s]; ok {
			return machine.Errorf("disk.serial", "set MVM_STATE_DIR to a folder on another file system (ext4, xfs), or use --hypervisor qemu",
				"the file system numbers its files such that Firecracker shows disks %s and %s to the guest by the same serial", other, b.Disks[i].Role)
		}
		seen[s] = b.Disks[i].Role
	}
	return nil
}
