package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// smallState gives the lab a state directory on a file system of its own with room for size, as
// a mount option has it.
func (l *lab) smallState(size string) string {
	l.t.Helper()
	if os.Geteuid() != 0 {
		l.t.Skip("needs root: mounts a small tmpfs")
	}
	dir := filepath.Join(l.dir, "state")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	if err := syscall.Mount("none", dir, "tmpfs", 0, "mode=700,size="+size); err != nil {
		l.t.Skipf("needs a mount: %v", err)
	}
	l.t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// A host disk that fills up under a running guest is an error for the guest's program and a
// problem that `ls` and `inspect` show, and nothing stands still.
func TestAFullHostDiskUnderAGuest(t *testing.T) {
	l := newLab(t, "qemu", false)
	state := l.smallState("48m")
	l.must("up", "-d", "--name", "m", "minimal")
	r := l.run("exec", "--timeout", "2m", "m", "--", "dd", "if=/dev/zero", "of=/root/big", "bs=1M", "count=200", "conv=fsync")
	// Which one depends on whether the journal or the data meets the full disk first: a file system
	// that cannot write its journal goes on read-only.
	said := strings.ToLower(r.stderr)
	if r.code != 1 || !strings.Contains(said, "input/output error") && !strings.Contains(said, "read-only file system") {
		t.Errorf("writing more than fits: %v", r)
	}
	const problem = "the host's disk is full"
	if m := l.machine("m"); m == nil || m.State != string(machine.StateRunning) || !strings.Contains(m.Problem, problem) {
		t.Errorf("ls --json: %+v", m)
	}
	if r := l.run("ls"); !strings.Contains(r.stderr, "note: m: "+problem) {
		t.Errorf("ls: %v", r)
	}
	if out := l.must("inspect", "m"); !strings.Contains(out, problem) {
		t.Errorf("inspect: %s", out)
	}
	if out := l.must("exec", "m", "--", "echo", "alive"); out != "alive\n" {
		t.Errorf("exec says %q", out)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(state, &fs); err != nil || fs.Bavail != 0 {
		t.Errorf("%d blocks of the host's disk are free, %v: it was to be full", fs.Bavail, err)
	}
	begin := time.Now()
	l.must("down", "--time", "10s", "m")
	if d := time.Since(begin); d > longWait {
		t.Errorf("down took %s", d)
	}
	if m := l.machine("m"); m == nil || m.State != string(machine.StateExited) {
		t.Errorf("after down: %+v", m)
	}
	// With room again it starts anew, and the problem is over.
	if err := syscall.Mount("none", state, "", syscall.MS_REMOUNT, "size=1g"); err != nil {
		t.Fatal(err)
	}
	l.must("up", "-d", "--name", "m", "minimal")
	if m := l.machine("m"); m == nil || m.State != string(machine.StateRunning) || m.Problem != "" {
		t.Errorf("after a restart: %+v", m)
	}
	l.must("exec", "m", "--", "sh", "-c", "echo kept > /root/after && cat /root/after")
	l.must("rm", "--force", "m")
	l.nothingLeft()
}
