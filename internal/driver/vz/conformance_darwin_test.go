package vz

import (
	"context"
	"os"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// TestConformance runs with a real vfkit, and is skipped where there is none.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it boots some forty guests")
	}
	drivertest.Run(t, drivertest.Harness{New: func(t testing.TB, a drivertest.Assets) driver.Driver {
		return New(Options{Binary: os.Getenv("MVM_VFKIT"), CacheDir: a.Cache, BootProbe: func(context.Context) (vmm.ProbeAssets, error) {
			a := a.WithKernel(t)
			return vmm.ProbeAssets{Kernel: a.Kernel, Initrd: a.Initrd}, nil
		}})
	}})
}
