package drivertest

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/initrd"
	"github.com/mvmctl/mvmctl/internal/kernel"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Assets are what all machines of one run share. It is plain JSON.
type Assets struct {
	Dir    string         // of the run; other users may pass through it
	Cache  string         // for the driver to remember things
	Agent  string         // the guest agent, built from this source
	Root   string         // the image "minimal"
	Kernel machine.Kernel // with Initrd, once it is known that the driver boots one
	Initrd string
}

// makeAssets builds the agent and the root image. On a host without Go, MVM_AGENT names an agent.
func makeAssets(t *testing.T) Assets {
	t.Helper()
	// Not t.TempDir: its parent is closed to other users, and its name too long for sockets.
	dir, err := os.MkdirTemp("", "mvm-driver")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // other users are let in on purpose
		t.Fatal(err)
	}
	a := Assets{Dir: dir, Cache: filepath.Join(dir, "cache"), Agent: filepath.Join(dir, "mvm-agent")}
	if err := os.Mkdir(a.Cache, 0o755); err != nil { //nolint:gosec // as above
		t.Fatal(err)
	}
	if ready := os.Getenv("MVM_AGENT"); ready != "" {
		mustCopy(t, a.Agent, ready, 0o755)
	} else {
		buildAgent(t, a.Agent)
	}
	img, err := image.New(a.Cache).Ensure(t.Context(), "minimal")
	if err != nil {
		t.Fatalf("making the root image: %v", err)
	}
	a.Root = filepath.Join(dir, "root.ext4")
	mustCopy(t, a.Root, img.Path, 0o644)
	return a
}

func buildAgent(t *testing.T, to string) {
	t.Helper()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", to,
		"github.com/mvmctl/mvmctl/cmd/mvm-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, out)
	}
}

// addKernel finds a kernel, in the user's own cache or where that gets it from, and builds its
// initramfs. Both end up where other users can read them.
func (a *Assets) addKernel(t *testing.T) {
	t.Helper()
	if a.Initrd != "" {
		return
	}
	p, err := paths.Find(os.Getenv, os.Getuid())
	if err != nil {
		t.Skipf("no place to look for a kernel: %v", err)
	}
	k, err := kernel.New(p.Cache).Find(t.Context(), "")
	if err != nil {
		t.Skipf("no guest kernel: %v", err)
	}
	missing := new(kernel.MissingModulesError)
	modules, err := k.ModuleFiles(kernel.WantedModules())
	if err != nil && !errors.As(err, &missing) {
		t.Fatal(err)
	}
	rd, err := initrd.Build(t.Context(), a.Cache, initrd.Input{Agent: a.Agent, KernelID: k.ID, Modules: modules})
	if err != nil {
		t.Fatal(err)
	}
	a.Initrd = filepath.Join(a.Dir, "initrd.cpio")
	mustCopy(t, a.Initrd, rd, 0o644)
	a.Kernel = machine.Kernel{ID: k.ID, Release: k.Release}
	if k.BzImage != "" {
		a.Kernel.BzImage = filepath.Join(a.Dir, "vmlinuz")
		mustCopy(t, a.Kernel.BzImage, k.BzImage, 0o644)
	}
	if k.PVH {
		a.Kernel.VMLinux = filepath.Join(a.Dir, "vmlinux")
		mustCopy(t, a.Kernel.VMLinux, k.VMLinux, 0o644)
	}
}

// WithKernel returns the assets with kernel and initramfs, for a driver whose Probe boots one.
func (a Assets) WithKernel(t testing.TB) Assets {
	if tt, ok := t.(*testing.T); ok {
		a.addKernel(tt)
	}
	return a
}

// mustCopy copies a file and gives it its mode whatever the umask is.
func mustCopy(t testing.TB, to, from string, mode os.FileMode) {
	t.Helper()
	if err := copyFile(to, from, mode); err != nil {
		t.Fatalf("copying %s: %v", from, err)
	}
}

func copyFile(to, from string, mode os.FileMode) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Chmod(mode)
}

// needLinux skips a test that looks into /proc.
func needLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("this test needs Linux's /proc, this is " + runtime.GOOS)
	}
}

var errNoPid = errors.New("the driver's VM names no process")
