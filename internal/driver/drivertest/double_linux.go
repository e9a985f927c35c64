package drivertest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
)

// EmulatedPatience is how long a guest of a double may take to answer.
const EmulatedPatience = 5 * time.Minute

// NeedDouble skips where the double of a VMM cannot boot guests.
func NeedDouble(t *testing.T, vmm string) {
	t.Helper()
	switch _, err := exec.LookPath("qemu-system-x86_64"); {
	case testing.Short():
		t.Skip("-short: it boots some forty guests")
	case runtime.GOARCH != "amd64":
		t.Skipf("the double of %s is for linux/amd64, this is %s/%s", vmm, runtime.GOOS, runtime.GOARCH)
	case err != nil:
		t.Skipf("the double of %s boots guests by QEMU: %v", vmm, err)
	}
}

// MakeDouble puts this test's own program into a folder under other names, by which its TestMain
// knows what to be, and returns the path of the first. A child of the test finds what its parent has
// made.
func MakeDouble(t testing.TB, dir string, names ...string) string {
	t.Helper()
	first := filepath.Join(dir, names[0])
	if _, err := os.Stat(first); err == nil {
		return first
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // other users are let in on purpose
		t.Fatal(err)
	}
	for _, name := range names {
		mustCopy(t, filepath.Join(dir, name), self, 0o755)
	}
	return first
}

// Slow is a driver with the truth about its double: the guests are emulated.
func Slow(d driver.Driver) driver.Driver { return slow{d} }

type slow struct{ driver.Driver }

// Probe implements driver.Driver.
func (s slow) Probe(ctx context.Context) (driver.Capabilities, error) {
	c, err := s.Driver.Probe(ctx)
	c.EmulatedSlow = true
	return c, err
}
