package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/agentbin"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/docker"
	"github.com/mvmctl/mvmctl/internal/driver/fake"
	"github.com/mvmctl/mvmctl/internal/driver/firecracker"
	"github.com/mvmctl/mvmctl/internal/driver/krun"
	"github.com/mvmctl/mvmctl/internal/driver/lima"
	"github.com/mvmctl/mvmctl/internal/driver/qemu"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/paths"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// drivers are the backends in this binary, in order of preference, and the names of those that
// are used only when they are asked for. QEMU stands where it belongs with hardware
// virtualisation; when it can only emulate, the engine takes it last.
func drivers(p paths.Paths, e *engine.Parts, log *slog.Logger) ([]driver.Driver, map[string]bool) {
	probeWith := func(ctx context.Context, c driver.KernelChecker) (vmm.ProbeAssets, error) {
		k, rd, err := e.ProbeAssets(ctx, c)
		return vmm.ProbeAssets{Kernel: k, Initrd: rd}, err
	}
	probe := func(ctx context.Context) (vmm.ProbeAssets, error) { return probeWith(ctx, nil) }
	fc := firecracker.New(firecracker.Options{
		CacheDir: p.Cache, Binary: os.Getenv("MVM_FIRECRACKER"), Log: log,
		InstallDir: filepath.Join(p.Data, "vmm"), URL: os.Getenv("MVM_FIRECRACKER_URL"),
		BootProbe: probe,
	})
	q := qemu.New(qemu.Options{
		CacheDir: p.Cache, Accel: os.Getenv("MVM_QEMU_ACCEL"), Binary: os.Getenv("MVM_QEMU"), Log: log,
		BootProbe: probe,
	})
	f := fake.New(fake.Options{Fault: fake.Fault(os.Getenv("MVM_FAKE_FAULT"))})
	c := docker.New(docker.Options{StateDir: p.State})
	l := lima.New(lima.Options{
		VM: limaVM(p.State), CacheDir: p.Cache, StateDir: p.State, Progress: os.Stderr,
		BootProbe: probe,
	})
	r := qemu.NewRunner(log) // of a flake; no image runs there
	k := krun.New(krun.Options{
		CacheDir: p.Cache, Library: os.Getenv("MVM_LIBKRUN"), Log: log, BootProbe: probeWith,
		Runner: func(ctx context.Context) (string, error) { return agentbin.Helper(ctx, p.Cache, krun.RunnerName) },
	})
	return withApple([]driver.Driver{fc, q, c, l, r, k, f}, p, probe, log), map[string]bool{f.Name(): true, r.Name(): true, k.Name(): true}
}
