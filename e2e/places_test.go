package e2e

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// longest is how many bytes the path of the runtime directory may have: 103 for a socket
// (macOS has 104, with a closing NUL), less "/", a machine's id, and "/ctl".
const longest = 103 - len("/0123456789abcdef/ctl")

// inRuntime moves the lab's runtime directory to a path of a length.
func (l *lab) inRuntime(length int) string {
	l.t.Helper()
	dir := filepath.Join(l.dir, "run")
	if len(dir) > length {
		l.t.Skipf("missing: a folder for temporary files with a shorter path than %s", l.dir)
	}
	dir += strings.Repeat("x", length-len(dir))
	l.env = append(l.env, "MVM_RUNTIME_DIR="+dir)
	return dir
}

// errorCode is the code of the error that a command printed with --json.
func (r result) errorCode() string {
	_, rest, _ := strings.Cut(r.stderr, `"code":"`)
	code, _, _ := strings.Cut(rest, `"`)
	return code
}

// The longest path at which a socket can be works; one byte more, and 120 bytes, are refused
// before anything is made, and a machine that exists is what it was.
func TestSocketPathTooLong(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		fits := l.inRuntime(longest)
		l.must("up", "-d", "--name", "m", "minimal")
		l.must("exec", "m", "--", "true")
		l.must("down", "m")
		for _, length := range []int{longest + 1, 120} {
			long := l.inRuntime(length)
			for _, name := range []string{"m", "new"} {
				r := l.run("up", "-d", "--json", "--name", name, "minimal")
				if r.code != 125 || r.errorCode() != "env.path" || !strings.Contains(r.stderr, "MVM_RUNTIME_DIR") {
					t.Errorf("%d bytes, up %s: %v", length, name, r)
				}
			}
			if list := l.list(); len(list) != 1 || list[0].State != "exited" {
				t.Errorf("%d bytes: ls says %+v", length, list)
			}
			if left, _ := os.ReadDir(long); len(left) != 0 {
				t.Errorf("%d bytes: left: %v", length, left)
			}
		}
		l.env = append(l.env, "MVM_RUNTIME_DIR="+fits)
		l.must("up", "-d", "--name", "m")
		l.must("rm", "--force", "m")
		if left, _ := os.ReadDir(fits); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
		l.nothingLeft()
	})
}

// runtimeOf returns the runtime folder of a machine.
func (l *lab) runtimeOf(name string) string {
	l.t.Helper()
	var record struct{ Body struct{ ID string } }
	data, err := os.ReadFile(filepath.Join(l.dir, "state/machines", name, "record.json"))
	if err == nil {
		err = json.Unmarshal(data, &record)
	}
	if err != nil || record.Body.ID == "" {
		l.t.Fatalf("the record of %s: %q, %v", name, data, err)
	}
	return filepath.Join(l.dir, "run", record.Body.ID)
}

// deadSocket leaves a socket that nobody serves, as a killed process does.
func deadSocket(path string) error {
	s, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	s.SetUnlinkOnClose(false)
	return s.Close()
}

// Whatever is where a machine's sockets will be, left by a process that was killed or put there
// by somebody, does not keep it from starting, and is neither used nor followed.
func TestLeftoversBeforeAStart(t *testing.T) {
	l := newLab(t, "fake", false)
	l.must("up", "-d", "--name", "m", "minimal")
	l.must("down", "m")
	run, other := l.runtimeOf("m"), filepath.Join(l.dir, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(other, "kept")
	if err := os.WriteFile(kept, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, leave := range map[string]func() error{
		"a dead socket": func() error { return deadSocket(filepath.Join(run, "ctl")) },
		"sockets, a FIFO and folders of other backends": func() error {
			for _, s := range []string{"ctl", "fc.api", "fc.vsock", "qmp"} {
				if err := deadSocket(filepath.Join(run, s)); err != nil {
					return err
				}
			}
			if err := syscall.Mkfifo(filepath.Join(run, "fc.log"), 0o600); err != nil {
				return err
			}
			return os.MkdirAll(filepath.Join(run, "fake", "root"), 0o700)
		},
		"a plain file as the socket": func() error { return os.WriteFile(filepath.Join(run, "ctl"), nil, 0o600) },
		"a folder as the socket":     func() error { return os.Mkdir(filepath.Join(run, "ctl"), 0o700) },
		"a link as the socket":       func() error { return os.Symlink(kept, filepath.Join(run, "ctl")) },
		"a plain file as the folder": func() error { _ = os.Remove(run); return os.WriteFile(run, nil, 0o600) },
		"a link as the folder":       func() error { _ = os.Remove(run); return os.Symlink(other, run) },
		"an open folder":             func() error { return os.Chmod(run, 0o777) }, //nolint:gosec // what is tested
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.Mkdir(run, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := leave(); err != nil {
				t.Fatal(err)
			}
			if v := l.machine("m"); v == nil || v.State != "exited" {
				t.Errorf("ls says %+v", v)
			}
			l.must("up", "-d", "--name", "m")
			l.must("exec", "m", "--", "true")
			info, err := os.Lstat(run)
			if err != nil || info.Mode() != os.ModeDir|0o700 {
				t.Errorf("the folder is %v, %v", info, err)
			}
			l.must("down", "m")
			if data, err := os.ReadFile(kept); err != nil || string(data) != "kept" {
				t.Errorf("what a link led to: %q, %v", data, err)
			}
			if left, _ := os.ReadDir(other); len(left) != 1 {
				t.Errorf("made where a link led to: %v", left)
			}
			if _, err := os.Lstat(run); err == nil {
				t.Error("the runtime folder is left")
			}
		})
	}
	l.must("rm", "m")
	l.nothingLeft()
}

// A runtime directory that somebody else could put things into is refused.
func TestRuntimeDirectoryOfOthers(t *testing.T) {
	l := newLab(t, "fake", false)
	dir, other := filepath.Join(l.dir, "strange"), filepath.Join(l.dir, "other")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		make func() error
		code string
	}{
		"open":           {func() error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)) }, "env.ownership"}, //nolint:gosec // what is tested
		"a link":         {func() error { return os.Symlink(other, dir) }, "env.ownership"},
		"a file":         {func() error { return os.WriteFile(dir, nil, 0o600) }, "env.path"},
		"another user's": {func() error { return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 65534, 65534)) }, "env.ownership"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() { _ = os.Remove(dir) }()
			if err := tt.make(); errors.Is(err, os.ErrPermission) {
				t.Skip("missing: root, who can give a folder away")
			} else if err != nil {
				t.Fatal(err)
			}
			inner := *l
			inner.t = t
			r := inner.with([]string{"MVM_RUNTIME_DIR=" + dir}, "up", "-d", "--json", "--name", "m", "minimal")
			if r.code != 125 || r.errorCode() != tt.code || !strings.Contains(r.stderr, dir) {
				t.Errorf("%v", r)
			}
			if left, _ := os.ReadDir(other); len(left) != 0 {
				t.Errorf("made where the link leads: %v", left)
			}
			inner.nothingLeft()
		})
	}
}

// The folder of a running machine's sockets is deleted under it: it is said, nothing hangs, and
// the machine can be ended and started again.
func TestRuntimeFolderDeletedUnderAMachine(t *testing.T) {
	l := newLab(t, "qemu", false)
	l.must("up", "-d", "--name", "m", "minimal")
	if err := os.RemoveAll(l.runtimeOf("m")); err != nil {
		t.Fatal(err)
	}
	if v := l.machine("m"); v == nil || v.State != "running" || !strings.Contains(v.Problem, "mvmctl down --force m") {
		t.Errorf("ls says %+v", v)
	}
	if r := l.run("exec", "m", "--", "true"); r.code != 125 || !strings.Contains(r.stderr, "does not answer") {
		t.Errorf("exec: %v", r)
	}
	l.must("down", "--force", "m")
	l.must("up", "-d", "--name", "m")
	l.must("exec", "m", "--", "true")
	l.must("rm", "--force", "m")
	l.nothingLeft()
}
