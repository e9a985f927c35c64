package firecracker

import (
	"fmt"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
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
		id, err := driveID(d)
		if err != nil {
			return nil, err
		}
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

func startRequest() request  { return request{"PUT", "/actions", action{actionStart}} }
func ctrlADRequest() request { return request{"PUT", "/actions", action{actionCtrlAD}} }

// driveID is Firecracker's name for a disk: letters, digits and underscores.
func driveID(d machine.Disk) (string, error) {
	if d.Role == "" || len(d.Serial()) > 20 || strings.Trim(string(d.Role), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return "", machine.Errorf("boot.disk_role", "this is a bug in mvmctl; please report it", "%q is not a disk role", d.Role)
	}
	return strings.ReplaceAll(string(d.Role), "-", "_"), nil
}

// checkBoot refuses what Firecracker would not take or the guest would not understand.
func checkBoot(b machine.Boot) error {
	if err := machine.CheckName(b.Name); err != nil {
		return err
	}
	switch {
	case b.CPUs < 1 || b.CPUs > maxCPUs:
		return machine.Usagef("input.range", fmt.Sprintf("use --cpus 1 to --cpus %d, or --hypervisor qemu for more", maxCPUs), "%d CPUs are not within 1..%d", b.CPUs, maxCPUs)
	case b.MemoryBytes < machine.MinMemory || b.MemoryBytes > machine.MaxMemory:
		return machine.Usagef("input.range", "use --memory 96M or more", "memory of %s is not within %s..%s",
			machine.FormatSize(b.MemoryBytes), machine.FormatSize(machine.MinMemory), machine.FormatSize(machine.MaxMemory))
	case b.Kernel.VMLinux == "" && b.Kernel.BzImage == "":
		return machine.Errorf("boot.kernel_missing", "run `mvmctl kernel fetch`", "the machine has no kernel")
	case b.Initrd == "":
		return machine.Errorf("boot.initrd_missing", "this is a bug in mvmctl; please report it", "the machine has no initramfs")
	}
	seen := map[machine.Role]bool{}
	for _, d := range b.Disks {
		if seen[d.Role] {
			return machine.Errorf("boot.disk_twice", "this is a bug in mvmctl; please report it", "two disks are called %q", d.Role)
		}
		seen[d.Role] = true
	}
	return nil
}

// maxCmdline is COMMAND_LINE_SIZE of the x86 and arm64 kernels, less what Firecracker adds (the
// virtio-mmio devices of kernels without ACPI, 40 bytes each, and its own words).
const maxCmdline = 2048 - 512

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
	for _, w := range more {
		if !validWord(w) {
			return "", machine.Usagef("input.cmdline", "remove spaces, quotes and control characters", "%q is not a kernel parameter", clip(w, 80))
		}
	}
	line := strings.Join(append(words, more...), " ")
	if len(line) >= maxCmdline {
		return "", machine.Usagef("input.cmdline", "use fewer or shorter parameters", "a kernel command line of %d bytes is longer than %d", len(line), maxCmdline-1)
	}
	return line, nil
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

// maxSerial is VIRTIO_BLK_ID_BYTES of linux/virtio_blk.h.
const maxSerial = 20

// fileSerial is the serial that Firecracker makes up for a file: device, device type and inode
// number in decimal, without anything between them, cut to what fits
// (src/vmm/src/devices/virtio/block/virtio/device.rs, build_device_id; unchanged from its first
// version to 1.16).
func fileSerial(dev, rdev, ino uint64) string {
	s := fmt.Sprintf("%d%d%d", dev, rdev, ino)
	return s[:min(len(s), maxSerial)]
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

// validWord accepts name or name=value in printable ASCII without quotes or spaces. Words that
// choose another init would take the guest away from its agent.
func validWord(w string) bool {
	if w == "" || w[0] == '-' {
		return false
	}
	for i := range len(w) {
		if c := w[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\'' || c == '\\' {
			return false
		}
	}
	name, _, _ := strings.Cut(w, "=")
	return name != "init" && name != "rdinit"
}
