package guestinit

import (
	"io/fs"
	"path"
	"strings"
)

// The serials of a machine's drives. The order of drives says nothing: a VMM may attach them
// in any order, and a kernel may find them in another.
const (
	serialRoot    = "mvm-root"
	serialUpper   = "mvm-upper"
	serialConfig  = "mvm-config"
	serialSecrets = "mvm-secrets"
)

// Virtio device types, virtio specification section 5.
const (
	virtioBlock = "0x0002"
	virtioVsock = "0x0013"
)

// drives are block device names (vda) by serial.
type drives map[string]string

// findDrives returns the drives that sysfs (as a file system) shows, and whether every virtio
// block device has become a disk already, so that a missing drive is a drive that is not
// there. The first of two drives with the same serial counts, by name. A serial in names stands
// for the serial that names has for it: not every VMM lets us choose.
func findDrives(sys fs.FS, names map[string]string) (found drives, settled bool) {
	found = drives{}
	blocks, err := fs.ReadDir(sys, "block")
	if err != nil {
		blocks = nil // nothing there yet
	}
	for _, b := range blocks {
		serial, err := fs.ReadFile(sys, path.Join("block", b.Name(), "serial"))
		if err != nil {
			continue // a disk of another kind
		}
		s := strings.TrimRight(string(serial), "\x00\n ")
		if ours := names[s]; ours != "" {
			s = ours
		}
		if _, ok := found[s]; !ok && strings.HasPrefix(s, "mvm-") {
			found[s] = b.Name()
		}
	}
	for _, dev := range virtioDevices(sys, virtioBlock) {
		disks, err := fs.ReadDir(sys, path.Join(dev, "block"))
		if err != nil || len(disks) == 0 {
			return found, false
		}
	}
	return found, true
}

// virtioDevices returns the sysfs folders of the virtio devices of one type, or of all for "".
func virtioDevices(sys fs.FS, kind string) []string {
	const bus = "bus/virtio/devices"
	devs, err := fs.ReadDir(sys, bus)
	if err != nil {
		return nil
	}
	var out []string
	for _, d := range devs {
		dir := path.Join(bus, d.Name())
		id, err := fs.ReadFile(sys, path.Join(dir, "device"))
		if err == nil && (kind == "" || strings.TrimSpace(string(id)) == kind) {
			out = append(out, dir)
		}
	}
	return out
}

// findPort returns the device name (vport2p1) of the virtio-serial port called name, "" when
// there is none yet.
func findPort(sys fs.FS, name string) string {
	const class = "class/virtio-ports"
	ports, err := fs.ReadDir(sys, class)
	if err != nil {
		return ""
	}
	for _, p := range ports {
		got, err := fs.ReadFile(sys, path.Join(class, p.Name(), "name"))
		if err == nil && strings.TrimSpace(string(got)) == name {
			return p.Name()
		}
	}
	return ""
}
