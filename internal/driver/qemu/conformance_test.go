package qemu_test

import (
	"context"
	"os"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
	"github.com/mvmctl/mvmctl/internal/driver/qemu"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it boots some forty guests")
	}
	drivertest.Run(t, drivertest.Harness{SeesPanic: true, New: func(t testing.TB, a drivertest.Assets) driver.Driver {
		return qemu.New(qemu.Options{
			CacheDir: a.Cache, Accel: os.Getenv("MVM_QEMU_ACCEL"), Binary: os.Getenv("MVM_QEMU"),
			BootProbe: func(context.Context) (vmm.ProbeAssets, error) {
				a := a.WithKernel(t)
				return vmm.ProbeAssets{Kernel: a.Kernel, Initrd: a.Initrd}, nil
			},
		})
	}})
}
