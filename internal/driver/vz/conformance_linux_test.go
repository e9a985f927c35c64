package vz

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// aMac is what the double's tests say of this host.
func aMac() system { return system{macOS: "26.1", virtualise: true} }

// TestDoubleConformance runs with the double. e2e/macos.sh runs TestConformance on a Mac.
func TestDoubleConformance(t *testing.T) {
	drivertest.NeedDouble(t, "vfkit")
	drivertest.Run(t, drivertest.Harness{SeesPanic: true, Patience: drivertest.EmulatedPatience, New: func(t testing.TB, a drivertest.Assets) driver.Driver {
		d := New(Options{
			Binary: drivertest.MakeDouble(t, filepath.Join(a.Dir, "vmm"), doubleName), CacheDir: a.Cache, system: aMac, silence: time.Minute,
			BootProbe: func(context.Context) (vmm.ProbeAssets, error) {
				a := a.WithKernel(t)
				return vmm.ProbeAssets{Kernel: a.Kernel, Initrd: a.Initrd}, nil
			},
		})
		// The suite takes it for a host without vfkit; of the double nothing may be missing.
		if _, err := d.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		return drivertest.Slow(d)
	}})
}
