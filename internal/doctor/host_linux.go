package doctor

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// availableMemory returns MemAvailable of /proc/meminfo (proc(5)), in bytes.
func availableMemory() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if rest, found := bytes.CutPrefix(line, []byte("MemAvailable:")); found {
			fields := bytes.Fields(rest)
			if len(fields) == 0 {
				break
			}
			kib, err := strconv.ParseInt(string(fields[0]), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

// platformChecks: whether hardware virtualisation is within reach. That it also works is
// found out by the backends, which boot something.
func platformChecks() []Check {
	return []Check{{Name: "hardware virtualisation", Run: func(context.Context) Finding {
		const dev = "/dev/kvm"
		info, err := os.Stat(dev)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return warn("enable virtualisation in the firmware, or nested virtualisation on the host above; then: modprobe kvm_intel || modprobe kvm_amd",
				"%s does not exist; machines run emulated, slower and without a security boundary", dev)
		case err != nil:
			return warn("", "%v", err)
		}
		if err := unix.Access(dev, unix.R_OK|unix.W_OK); err != nil {
			return warn(`sudo usermod -aG kvm "$USER", then log in again`, "%s (%04o) is not open to you: %v", dev, info.Mode().Perm(), err)
		}
		return ok("%s is open to you", dev)
	}}}
}
