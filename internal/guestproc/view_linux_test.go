package guestproc

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Links of a guest's root mean the guest's files, whatever they say.
func TestRootConfinesLinks(t *testing.T) {
	root := testRoot(t)
	link := func(to, name string) {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("/bin/tool", "usr/bin/abs")                         // exists inside
	link("../../../../../../../../bin/tool", "usr/bin/deep") // stays inside
	link("/usr/bin/env", "usr/bin/outside")                  // exists on the host only
	link("loop", "usr/bin/loop")
	r := Resolver{Root: root, Path: "/usr/bin"}
	for name, code := range map[string]string{
		"abs": "", "deep": "", "outside": agentproto.CodeNotFound, "loop": agentproto.CodeNotExecutable,
	} {
		_, err := r.Resolve(agentproto.Process{Args: []string{name}})
		if got := ""; err != nil {
			if got = err.Code; got != code {
				t.Errorf("%s: got %v, want code %q", name, err, code)
			}
		} else if code != "" {
			t.Errorf("%s: resolved, want code %q", name, code)
		}
	}
}

// A passwd that is a FIFO, a device or a folder is no passwd, and holds nobody up.
func TestHostileDatabases(t *testing.T) {
	for name, plant := range map[string]func(path string) error{
		"FIFO":   func(p string) error { return syscall.Mkfifo(p, 0o644) },
		"folder": func(p string) error { return os.Mkdir(p, 0o755) },
		"link":   func(p string) error { return os.Symlink("/proc/self/environ", p) },
		"hole":   func(p string) error { f, err := os.Create(p); _ = f.Truncate(1 << 40); _ = f.Close(); return err },
	} {
		root := testRoot(t)
		passwd := filepath.Join(root, "etc/passwd")
		if err := os.Remove(passwd); err != nil {
			t.Fatal(err)
		}
		if err := plant(passwd); err != nil {
			t.Fatal(err)
		}
		r := Resolver{Root: root, Path: "/bin"}
		if _, err := r.Resolve(agentproto.Process{Args: []string{"tool"}, User: "alice"}); err == nil || err.Code != agentproto.CodeUser {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := r.Resolve(agentproto.Process{Args: []string{"tool"}}); err != nil {
			t.Errorf("%s: root cannot run: %v", name, err)
		}
	}
}
