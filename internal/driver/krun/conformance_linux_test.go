package krun

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// TestConformance runs with a real libkrun on real KVM, and is skipped where there is none.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it boots some forty guests")
	}
	drivertest.Run(t, drivertest.Harness{SeesPanic: true, New: func(t testing.TB, a drivertest.Assets) driver.Driver {
		return New(Options{
			Library: os.Getenv("MVM_LIBKRUN"), CacheDir: a.Cache,
			Runner: func(ctx context.Context) (string, error) { return builtRunner(ctx, a.Dir) },
			BootProbe: func(_ context.Context, suits driver.KernelChecker) (vmm.ProbeAssets, error) {
				a := a.WithKernel(t)
				return vmm.ProbeAssets{Kernel: a.Kernel, Initrd: a.Initrd}, suits.SuitsKernel(a.Kernel)
			},
		})
	}})
}

// builtRunner builds the runner from this source. On a host without Go, MVM_KRUN_RUNNER names one.
func builtRunner(ctx context.Context, dir string) (string, error) {
	if ready := os.Getenv("MVM_KRUN_RUNNER"); ready != "" {
		return ready, nil
	}
	path := filepath.Join(dir, RunnerName)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", path, "github.com/mvmctl/mvmctl/cmd/mvm-krun")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	return path, nil
}
