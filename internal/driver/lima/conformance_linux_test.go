package lima_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
	"github.com/mvmctl/mvmctl/internal/driver/lima"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

const nobody = 65534

// TestConformance runs the suite with the real limactl, in a real virtual machine and with a real
// VMM in it: KVM that the outer QEMU emulates.
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it boots a virtual machine and some forty guests in it")
	}
	drivertest.Run(t, drivertest.Harness{SeesPanic: true, Flood: 40, New: func(t testing.TB, a drivertest.Assets) driver.Driver {
		return lima.New(lima.Options{
			VM: realVM(t, a), CacheDir: a.Cache,
			BootProbe: func(context.Context) (vmm.ProbeAssets, error) {
				a := a.WithKernel(t)
				return vmm.ProbeAssets{Kernel: a.Kernel, Initrd: a.Initrd}, nil
			},
		})
	}})
}

// limaImage is where scripts/lima-image.sh puts the image, or the folder that MVM_LIMA_IMAGE names.
func limaImage() (string, error) {
	dir := os.Getenv("MVM_LIMA_IMAGE")
	if dir == "" {
		var err error
		if dir, err = filepath.Abs("../../../.tools/lima"); err != nil {
			return "", err
		}
	}
	_, err := os.Stat(filepath.Join(dir, "disk.raw"))
	return dir, err
}

// realVM makes a virtual machine for this run, and removes it at its end. The children of the test
// find it made.
func realVM(t testing.TB, a drivertest.Assets) *linuxenv.VM {
	t.Helper()
	limactl, program, home := filepath.Join(a.Cache, "limactl-unprivileged"), filepath.Join(a.Cache, "mvmctl"), filepath.Join(a.Dir, "h")
	opts := linuxenv.Options{
		Limactl: limactl, Instance: "t", Program: func() (string, error) { return program, nil },
		Environ: []string{"HOME=" + home, "LIMA_HOME=" + filepath.Join(home, "l"), "USER=nobody", "LOGNAME=nobody", "PATH=" + os.Getenv("PATH")},
	}
	if _, err := os.Stat(limactl); err == nil {
		return linuxenv.New(opts)
	}
	image, err := limaImage()
	if err != nil {
		t.Logf("looking for an image: %v", err)
		t.Skip("missing: an image for a Lima virtual machine; scripts/lima-image.sh makes it")
	}
	real, err := exec.LookPath(cmp.Or(os.Getenv("MVM_LIMACTL"), "limactl"))
	if err != nil {
		t.Skipf("limactl is not installed: %v", err)
	}
	for _, tool := range []string{"qemu-system-x86_64", "qemu-img", "ssh"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("limactl needs %s: %v", tool, err)
		}
	}
	switch {
	case runtime.GOARCH != "amd64":
		t.Skip("the image is for amd64, this is " + runtime.GOARCH)
	case os.Getuid() != 0:
		t.Skip("the test makes files for another user, which needs root")
	}
	for _, path := range []string{real, filepath.Join(image, "disk.raw")} {
		if exec.CommandContext(t.Context(), "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "test", "-r", path).Run() != nil {
			t.Skipf("limactl refuses to run as root, and another user cannot reach %s", path)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "github.com/mvmctl/mvmctl/cmd/mvmctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building mvmctl: %v\n%s", err, out)
	}
	// limactl refuses to run as root.
	script := fmt.Sprintf("#!/bin/sh\nif [ \"$(id -u)\" = 0 ]; then exec setpriv --reuid %d --regid %d --clear-groups '%s' \"$@\"; fi\nexec '%s' \"$@\"\n", nobody, nobody, real, real)
	if err := errors.Join(
		os.WriteFile(limactl, []byte(script), 0o755), os.Chmod(limactl, 0o755), //nolint:gosec // a program, for other users too
		os.Mkdir(home, 0o700), os.Chown(home, nobody, nobody),
	); err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(image, name) }
	opts.Template = linuxenv.Template{
		Images: []linuxenv.Image{{
			Location: file("disk.raw"), Arch: "x86_64", Initrd: &linuxenv.File{Location: file("initrd")},
			Kernel: &linuxenv.Kernel{Location: file("vmlinuz"), Cmdline: "root=/dev/vda rw console=ttyS0 net.ifnames=0"},
		}},
		// A name that begins so has Lima emulate: the KVM of a host for tests is not to be relied on.
		CPUType: map[string]string{"x86_64": "qemu64,+svm,+npt,+nrip-save"},
		CPUs:    2, Memory: "3GiB", Disk: "6GiB", Firmware: linuxenv.Firmware{LegacyBIOS: true},
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, limactl, "delete", "--force", "--tty=false", "t")
		cmd.Env = opts.Environ
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("deleting the virtual machine: %v\n%s", err, out)
		}
	})
	vm := linuxenv.New(opts)
	begun := time.Now()
	if err := vm.Ensure(t.Context(), testWriter{t}); err != nil {
		t.Fatal(err)
	}
	t.Logf("the virtual machine was up after %v", time.Since(begun).Round(time.Second))
	return vm
}

type testWriter struct{ testing.TB }

// Write implements io.Writer.
func (w testWriter) Write(p []byte) (int, error) {
	w.Logf("%s", p)
	return len(p), nil
}
