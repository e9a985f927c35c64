package machine

import (
	"strconv"
	"strings"
	"time"
)

// Boot is a Spec with every question answered: paths exist, addresses are chosen. It is plain
// JSON. The engine makes it, the supervisor and the driver only read it; a driver never looks
// anything up.
type Boot struct {
	Name       string `json:"name"`
	ID         string `json:"id"`         // 16 lower-case hex digits, unique per machine
	Generation uint64 `json:"generation"` // counts boots and restores of this machine, from 1
	Driver     string `json:"driver"`     // name of the driver that must start it

	CPUs        int   `json:"cpus"`
	MemoryBytes int64 `json:"memory_bytes"`

	Kernel Kernel `json:"kernel"`
	Initrd string `json:"initrd"` // initramfs with the agent and the modules
	Agent  string `json:"agent"`  // the agent binary itself, for drivers without a kernel

	Disks []Disk `json:"disks"` // in attach order

	// Runner is the store path of a microvm.nix runner, for the driver that runs those; "" for all
	// others.
	Runner string `json:"runner,omitempty"`

	Dir        string `json:"dir"`         // the machine's state directory, absolute
	RuntimeDir string `json:"runtime_dir"` // short directory for sockets, 0700

	Timeout time.Duration `json:"timeout"` // from VMM start to agent ready
}

// Kernel is what a driver needs to know about the guest kernel.
type Kernel struct {
	ID      string `json:"id"`      // digest that names kernel and modules
	Release string `json:"release"` // as `uname -r` prints it
	BzImage string `json:"bzimage"` // compressed kernel, "" when there is none
	VMLinux string `json:"vmlinux"` // ELF kernel with a PVH entry (arm64: Image), "" when there is none
}

// Role says what a disk is for. The guest finds its drives by this name (virtio serial
// "mvm-<role>"), never by their order.
type Role string

// The roles of a machine's drives.
const (
	RoleRoot    Role = "root"    // the image: ext4, read-only, shared by many machines
	RoleUpper   Role = "upper"   // the machine's own writes: sparse ext4, read-write
	RoleConfig  Role = "config"  // identity, keys, services: small ext4, read-only
	RoleSecrets Role = "secrets" // secrets: small ext4, read-only
)

// Disk is one raw disk image.
type Disk struct {
	Role     Role   `json:"role"`
	Path     string `json:"path"` // raw image file, absolute
	ReadOnly bool   `json:"read_only"`
	// ID names the content of a root disk, for a driver that keeps a copy of it elsewhere; "" when
	// it is not known.
	ID string `json:"id,omitempty"`
	// Kept names a volume whose data the driver itself keeps; "" for a disk image. Path is then a
	// file that stands for it: who holds a lock on that has the volume.
	Kept string `json:"kept,omitempty"`
}

// IsVolume reports whether a disk is one that a volume of the machine's settings asks for.
func (r Role) IsVolume() bool { return strings.HasPrefix(string(r), roleVolume) }

// RoleOfVolume returns the role of the i-th volume's disk.
func RoleOfVolume(i int) Role { return Role(roleVolume + strconv.Itoa(i)) }

const roleVolume = "volume"

// Serial returns the virtio serial under which the guest finds the disk (≤ 20 bytes).
func (d Disk) Serial() string { return "mvm-" + string(d.Role) }
