package vmm

import (
	"errors"
	"io/fs"
	"os"

	"github.com/mvmctl/mvmctl/internal/driver"
)

// KVM is the device of Linux's hardware virtualisation.
const KVM = "/dev/kvm"

// CheckKVM opens the device.
func CheckKVM(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, fs.ErrNotExist):
		return driver.Unavailable("backend.kvm", "switch on virtualisation in the firmware, or nested virtualisation in the cloud or the hypervisor below (kvm_intel.nested=1), then `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`",
			"there is no %s", device)
	case errors.Is(err, fs.ErrPermission):
		return driver.Unavailable("backend.kvm", "run `sudo usermod -aG kvm $USER` and log in again; for this boot only: `sudo setfacl -m u:$USER:rw "+device+"`",
			"%s may not be opened by you", device)
	}
	return driver.Unavailable("backend.kvm", "look at `dmesg | grep -i kvm`: another hypervisor may hold the processor, or the firmware forbids it", "%s cannot be opened (%w)", device, err)
}
