package vmm

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// FileSerial is the serial that Firecracker and the VMMs that descend from it make up for a disk's
// file: device, device type and inode number in decimal, without anything between them, cut to what
// fits. Firecracker: src/vmm/src/devices/virtio/block/virtio/device.rs, build_device_id, unchanged
// from its first version to 1.16. libkrun: src/devices/src/virtio/block/device.rs, 1.17 to 1.19.
func FileSerial(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("examining disk: %w", err)
	}
	return makeSerial(uint64(st.Dev), uint64(st.Rdev), st.Ino), nil //nolint:unconvert,nolintlint // int32 on darwin
}

func makeSerial(dev, rdev, ino uint64) string {
	s := fmt.Sprintf("%d%d%d", dev, rdev, ino)
	return s[:min(len(s), MaxSerial)]
}

// CheckSerials refuses disks that the guest could not tell apart, serials being those of the
// machine's disks. It takes inode numbers of more than 14 digits that begin alike.
func CheckSerials(vmm string, b machine.Boot, serials []string) error {
	seen := map[string]machine.Role{}
	for i, s := range serials {
		if other, ok := seen[s]; ok {
			return machine.Errorf("disk.serial", "set MVM_STATE_DIR to a folder on another file system (ext4, xfs), or use another --hypervisor",
				"the file system numbers its files such that %s shows disks %s and %s to the guest by the same serial", vmm, other, b.Disks[i].Role)
		}
		seen[s] = b.Disks[i].Role
	}
	return nil
}

// DriveWords tells the agent by the kernel's command line which drive is which, for a VMM that gives
// drives no serial of our choice.
func DriveWords(b machine.Boot, serials []string) []string {
	if len(b.Disks) == 0 {
		return nil
	}
	var pairs []string
	for i, d := range b.Disks {
		pairs = append(pairs, string(d.Role)+":"+serials[i])
	}
	return []string{"mvm.drives=" + strings.Join(pairs, ",")}
}
