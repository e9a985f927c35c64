package firecracker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// TestConformance runs with a real Firecracker on real KVM, and is skipped where there is none.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it boots some forty guests")
	}
	drivertest.Run(t, drivertest.Harness{SeesPanic: true, New: func(t testing.TB, a drivertest.Assets) driver.Driver {
		return New(Options{Binary: os.Getenv("MVM_FIRECRACKER"), CacheDir: a.Cache, BootProbe: func(context.Context) (vmm.ProbeAssets, error) {
			a := a.WithKernel(t)
			return vmm.ProbeAssets{Kernel: a.Kernel, Initrd: a.Initrd}, nil
		}})
	}})
}

// TestDoubleConformance runs with the double, as the user that runs the test.
func TestDoubleConformance(t *testing.T) {
	drivertest.NeedDouble(t, "Firecracker")
	conformDouble(t, false)
}

// TestDoubleJailConformance runs with doubles of Firecracker and of the jailer.
func TestDoubleJailConformance(t *testing.T) {
	drivertest.NeedDouble(t, "Firecracker")
	if os.Getenv("MVM_DRIVERTEST_JOB") == "" && os.Geteuid() != 0 {
		t.Skip("only root can make jails")
	}
	conformDouble(t, true)
}

func conformDouble(t *testing.T, jailer bool) {
	t.Helper()
	var assets drivertest.Assets
	var double *Driver
	drivertest.Run(t, drivertest.Harness{SeesPanic: true, Patience: drivertest.EmulatedPatience, New: func(t testing.TB, a drivertest.Assets) driver.Driver {
		names := []string{doubleName}
		if jailer {
			names = append(names, "jailer")
		}
		d := New(Options{
			Binary: drivertest.MakeDouble(t, filepath.Join(a.Dir, "vmm"), names...), CacheDir: a.Cache, kvm: os.DevNull,
			BootProbe: func(context.Context) (vmm.ProbeAssets, error) {
				a := a.WithKernel(t)
				return vmm.ProbeAssets{Kernel: a.Kernel, Initrd: a.Initrd}, nil
			},
		})
		// The suite takes it for a host without Firecracker; of the double nothing may be missing.
		if _, err := d.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		assets, double = a, d
		return drivertest.Slow(d)
	}})
	if jailer && os.Getenv("MVM_DRIVERTEST_JOB") == "" && double != nil {
		acrossFileSystems(t, double, assets)
	}
	// The suite looks for the process that the driver names. Of a jail that is only the first.
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		left := programsBelow(t, assets.Dir)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still running: %q", left)
		}
	}
}

// acrossFileSystems boots a jailed machine whose secrets and volume are on another file system than
// its folder, as they are where the runtime directory is in memory.
func acrossFileSystems(t *testing.T, d *Driver, assets drivertest.Assets) {
	t.Helper()
	assets = assets.WithKernel(t)
	state := filepath.Join(assets.Dir, "across")
	run, err := os.MkdirTemp("/dev/shm", "fc")
	if err != nil {
		t.Skipf("no file system in memory: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	put := func(path string) string {
		if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	b := machine.Boot{
		Name: "across", ID: machine.NewID(), CPUs: 1, MemoryBytes: 256 << 20, Kernel: assets.Kernel, Initrd: assets.Initrd,
		Dir: state, RuntimeDir: run, Disks: []machine.Disk{
			{Role: machine.RoleUpper, Path: put(filepath.Join(state, "upper.img"))},
			{Role: machine.RoleSecrets, Path: put(filepath.Join(run, "secrets.img")), ReadOnly: true},
			{Role: "vol-0", Path: put(filepath.Join(run, "volume.img"))},
		},
	}
	ctx, cancel := context.WithTimeout(t.Context(), drivertest.EmulatedPatience)
	defer cancel()
	console := vmm.NewProbeWatch(func() {})
	v, err := launch(ctx, *d.found, b, driver.Output{Console: console}, []string{vmm.ProbeWord}, d.log)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(v.site.jail.binds); n != 4 {
		t.Errorf("%d paths of bind mounts, want 4: %q", n, v.site.jail.binds)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), state) {
		t.Errorf("a mount of the jail is seen outside: %v", err)
	}
	select {
	case <-console.Seen:
	case <-v.done:
	case <-ctx.Done():
	}
	_ = v.Kill()
	err = v.Wait()
	select {
	case <-console.Seen:
	default:
		t.Error("the guest did not boot")
	}
	if err != nil {
		t.Errorf("the guest did not end well: %v; %s", err, v.words.String())
	}
	for _, disk := range b.Disks {
		if info, err := os.Stat(disk.Path); err != nil || info.Size() != 4096 {
			t.Errorf("%s: %v", disk.Role, err)
		} else if uid, _ := owner(info); uid != os.Geteuid() {
			t.Errorf("%s belongs to %d", disk.Role, uid)
		}
	}
}

// programsBelow lists the processes other than this one whose program lies below dir.
func programsBelow(t *testing.T, dir string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		if exe, err := os.Readlink(l); err == nil && strings.HasPrefix(exe, dir+"/") && l != fmt.Sprintf("/proc/%d/exe", os.Getpid()) {
			out = append(out, l+" "+exe)
		}
	}
	return out
}
