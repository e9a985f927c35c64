package drivertest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// refused starts a machine that must not start, and checks that nothing is left of it.
func (g *guest) refused(ctx context.Context) error {
	g.t.Helper()
	warmUp(g)
	before := takeStock(g)
	vm, err := g.s.driver.Start(ctx, g.boot, driver.Output{Console: &g.console, VMM: &g.vmm})
	if err == nil {
		_ = vm.Kill()
		_ = vm.Wait()
		g.t.Fatal("Start succeeded")
	}
	before.compare(g)
	return err
}

// warmUp makes what the first use of a driver makes for good (the runtime's poller, say), so
// that it is not taken for a leak.
func warmUp(g *guest) {
	g.t.Helper()
	other := g.s.newGuest(g.t, "")
	other.start()
	_ = other.vm.Kill()
	_ = other.vm.Wait()
}

func testMissingDisk(s *suite, t *testing.T) {
	for _, role := range []machine.Role{machine.RoleRoot, machine.RoleConfig} {
		g := s.newGuest(t, "")
		for i := range g.boot.Disks {
			if g.boot.Disks[i].Role == role {
				g.boot.Disks[i].Path = filepath.Join(g.boot.Dir, "no-such.img")
			}
		}
		if err := g.refused(s.patient(t)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("without %s: %v, want a file that does not exist", role, err)
		}
	}
}

// testMissingBoot: the kernel and the initramfs, or the agent for drivers without a kernel.
func testMissingBoot(s *suite, t *testing.T) {
	breaks := map[string]func(*machine.Boot, string){
		"agent": func(b *machine.Boot, path string) { b.Agent = path },
	}
	switch {
	case s.Runner != nil:
		breaks = map[string]func(*machine.Boot, string){
			"runner": func(b *machine.Boot, path string) { b.Runner = path },
		}
	case s.caps.NeedsKernel:
		breaks = map[string]func(*machine.Boot, string){
			"kernel":    func(b *machine.Boot, path string) { b.Kernel = machine.Kernel{BzImage: path} },
			"initramfs": func(b *machine.Boot, path string) { b.Initrd = path },
		}
	}
	for what, change := range breaks {
		g := s.newGuest(t, "")
		change(&g.boot, filepath.Join(g.boot.Dir, "no-such"))
		if err := g.refused(s.patient(t)); machine.CodeOf(err) == "" {
			t.Errorf("without %s: an error without a code: %v", what, err)
		}
	}
	if !s.caps.NeedsKernel {
		return
	}
	for what, bytes := range map[string][]byte{"an empty file": {}, "text": []byte("this is no kernel\n"), "zeros": make([]byte, 1<<20)} {
		g := s.newGuest(t, "")
		path := filepath.Join(g.boot.Dir, "kernel")
		if err := os.WriteFile(path, bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		g.boot.Kernel = machine.Kernel{BzImage: path}
		if err := g.refused(s.patient(t)); machine.CodeOf(err) != "boot.kernel_invalid" {
			t.Errorf("%s as kernel: %q (%v), want boot.kernel_invalid", what, machine.CodeOf(err), err)
		}
	}
}

// testSwappedDisk: what is at a disk's path is not the plain file that was prepared
// (threats.md A054).
func testSwappedDisk(s *suite, t *testing.T) {
	if !s.boots() {
		t.Skip("the driver reads drives once, before the guest runs")
	}
	swaps := map[string]func(path string) error{
		"symlink": func(path string) error {
			return errors.Join(os.Rename(path, path+".real"), os.Symlink(path+".real", path))
		},
		"hard link": func(path string) error { return os.Link(path, path+".other") },
		"folder":    func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	}
	for what, swap := range swaps {
		g := s.newGuest(t, "")
		for _, d := range g.boot.Disks {
			if d.Role == machine.RoleUpper {
				if err := swap(d.Path); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := g.refused(s.patient(t)); machine.CodeOf(err) == "" {
			t.Errorf("%s: an error without a code: %v", what, err)
		}
	}
}

func testStartContext(s *suite, t *testing.T) {
	g := s.newGuest(t, "")
	ctx, cancel := context.WithCancel(s.patient(t))
	cancel()
	if err := g.refused(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
