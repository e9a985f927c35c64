package guestinit

import (
	"io/fs"
	"slices"
	"strings"
)

// need says when a module is worth loading. Checking signatures makes each cost several
// milliseconds of an emulated guest, so those without a device are left alone.
type need struct {
	device string // virtio device type without which it has nothing to do; "": always needed
	late   bool   // nothing that the host waits for depends on it
	aside  bool   // the drives do not depend on it: it can load while their driver waits for them
}

// needOf knows the modules that can be left out or come later; everything else is loaded.
func needOf(name string) need {
	switch name {
	case "virtio_net", "net_failover", "failover":
		return need{device: "0x0001", aside: true}
	case "virtio_console":
		return need{device: "0x0003", aside: true}
	case "virtio_rng", "rng_core":
		return need{device: "0x0004", late: true}
	case "virtio_balloon":
		return need{device: "0x0005", late: true}
	case "vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport":
		return need{device: virtioVsock, aside: true}
	case "overlay":
		return need{aside: true}
	case "button", "evdev":
		return need{late: true}
	}
	return need{}
}

// wanted reports whether a module should be loaded now, given the devices in sysfs.
func (n need) wanted(sys fs.FS, late bool) bool {
	return n.late == late && (n.device == "" || len(virtioDevices(sys, n.device)) > 0)
}

// moduleFiles sorts module files (NNN-name.ko) by their order and drops what is none.
func moduleFiles(names []string) []string {
	files := slices.DeleteFunc(slices.Clone(names), func(f string) bool { return !strings.HasSuffix(f, ".ko") })
	slices.Sort(files)
	return files
}

// moduleName is the kernel's name for the module in a file: without order and with
// underscores.
func moduleName(file string) string {
	name := strings.TrimSuffix(file, ".ko")
	if order, rest, ok := strings.Cut(name, "-"); ok && strings.Trim(order, "0123456789") == "" {
		name = rest
	}
	return strings.ReplaceAll(name, "-", "_")
}

// isBus reports whether a module is needed before any virtio device is known.
func isBus(name string) bool {
	switch name {
	case "virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_mmio":
		return true
	}
	return false
}
