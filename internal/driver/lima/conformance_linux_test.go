package lima_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
	"github.com/mvmctl/mvmctl/internal/driver/lima"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// TestConformance runs the suite with the real limactl, in a real virtual machine and with a real
// VMM in it.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it boots a virtual machine and some forty guests in it")
	}
	drivertest.Run(t, drivertest.Harness{SeesPanic: true, New: func(t testing.TB, a drivertest.Assets) driver.Driver {
		return lima.New(lima.Options{
			VM: realVM(t, a), CacheDir: a.Cache, Progress: testWriter{t},
			BootProbe: func(context.Context) (vmm.ProbeAssets, error) {
				a := a.WithKernel(t)
				return vmm.ProbeAssets{Kernel: a.Kernel, Initrd: a.Initrd}, nil
			},
		})
	}})
}

func realVM(t testing.TB, a drivertest.Assets) *linuxenv.VM {
	t.Helper()
	program := filepath.Join(a.Cache, "mvmctl")
	if _, err := os.Stat(program); err != nil {
		build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "github.com/mvmctl/mvmctl/cmd/mvmctl")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building mvmctl: %v\n%s", err, out)
		}
	}
	return linuxenv.New(linuxenv.Options{
		Limactl: os.Getenv("MVM_LIMACTL"), Instance: os.Getenv("MVM_LIMA_INSTANCE"),
		Program: func() (string, error) { return program, nil },
	})
}

type testWriter struct{ testing.TB }

// Write implements io.Writer.
func (w testWriter) Write(p []byte) (int, error) {
	w.Logf("%s", p)
	return len(p), nil
}
