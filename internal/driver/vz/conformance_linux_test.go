package vz

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
	switch _, err := exec.LookPath("qemu-system-x86_64"); {
	case testing.Short():
		t.Skip("-short: it boots some forty guests")
	case runtime.GOARCH != "amd64":
		t.Skip("the double of vfkit is for linux/amd64, this is " + runtime.GOOS + "/" + runtime.GOARCH)
	case err != nil:
		t.Skipf("the double of vfkit boots guests by QEMU: %v", err)
	}
	drivertest.Run(t, drivertest.Harness{SeesPanic: true, Patience: 5 * time.Minute, New: func(t testing.TB, a drivertest.Assets) driver.Driver {
		d := New(Options{
			Binary: makeDouble(t, filepath.Join(a.Dir, "vmm")), CacheDir: a.Cache, system: aMac, silence: time.Minute,
			BootProbe: func(context.Context) (vmm.ProbeAssets, error) {
				a := a.WithKernel(t)
				return vmm.ProbeAssets{Kernel: a.Kernel, Initrd: a.Initrd}, nil
			},
		})
		// The suite takes it for a host without vfkit; of the double nothing may be missing.
		if _, err := d.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		return emulated{d}
	}})
}

// makeDouble puts the double into a folder. A child of the test finds what its parent has made.
func makeDouble(t testing.TB, dir string) string {
	t.Helper()
	path := filepath.Join(dir, doubleName)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // other users are let in on purpose
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o755); err != nil { //nolint:gosec // a program for other users
		t.Fatal(err)
	}
	return path
}

// emulated is the driver with the truth about the double: its guests are slow.
type emulated struct{ *Driver }

// Probe implements driver.Driver.
func (e emulated) Probe(ctx context.Context) (driver.Capabilities, error) {
	c, err := e.Driver.Probe(ctx)
	c.EmulatedSlow = true
	return c, err
}
