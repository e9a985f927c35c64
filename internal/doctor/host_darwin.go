package doctor

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

func availableMemory() (int64, error) { return 0, errors.ErrUnsupported }

func platformChecks() []Check {
	return []Check{{Name: "hardware virtualisation", Run: func(context.Context) Finding {
		// kern.hv_support is 1 where Hypervisor.framework works.
		v, err := unix.SysctlUint32("kern.hv_support")
		if err != nil || v != 1 {
			return warn("use a Mac whose processor has virtualisation", "this Mac has no hypervisor support")
		}
		return ok("Hypervisor.framework is available")
	}}}
}
