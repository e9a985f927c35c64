package firecracker

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// siteBoot is a machine with real files, and a host that can start it.
func siteBoot(t *testing.T) (host, machine.Boot) {
	t.Helper()
	dir := t.TempDir()
	put := func(path string, mode os.FileMode) string {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(path), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// Sockets need a short path.
	run, err := os.MkdirTemp("", "fc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	b := everyBoot()[0]
	b.Dir, b.RuntimeDir = filepath.Join(dir, "m"), run
	b.Kernel.VMLinux, b.Initrd = put("c/vmlinux", 0o644), put("c/initrd", 0o600)
	b.Disks = []machine.Disk{
		{Role: machine.RoleRoot, Path: put("i/root.ext4", 0o644), ReadOnly: true},
		{Role: machine.RoleUpper, Path: put("m/upper.img", 0o600)},
		{Role: machine.RoleConfig, Path: put("m/config.img", 0o400), ReadOnly: true},
		{Role: "vol-0", Path: put("v/shared.img", 0o400), ReadOnly: true},
	}
	return host{bin: binary{Stamp: vmm.Stamp{Path: "/opt/fc/firecracker"}}, arch: "amd64"}, b
}

func stat(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return &st
}

// running puts into the machine's folder what is there while it runs.
func running(t *testing.T, b machine.Boot) {
	t.Helper()
	for _, name := range []string{apiSocket, vsockSocket} {
		ln, err := net.Listen("unix", filepath.Join(b.RuntimeDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		_ = ln.Close()
	}
	if err := unix.Mkfifo(filepath.Join(b.RuntimeDir, logPipe), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A supervisor that was killed leaves sockets and the pipe behind; Firecracker would not bind.
func TestLeftoversAreCleared(t *testing.T) {
	h, b := siteBoot(t)
	running(t, b)
	s, err := newSite(h, b, b.Kernel.VMLinux)
	if err != nil {
		t.Fatal(err)
	}
	running(t, b) // which fails if anything is left
	if err := s.remove(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(b.RuntimeDir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(b.Disks[1].Path); err != nil {
		t.Error(err)
	}
}

func TestSocketPathTooLong(t *testing.T) {
	h, b := siteBoot(t)
	b.RuntimeDir = filepath.Join(b.RuntimeDir, strings.Repeat("x", 107-len(b.RuntimeDir)-len("//fc.vsock")))
	if err := os.Mkdir(b.RuntimeDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := newSite(h, b, b.Kernel.VMLinux); err != nil {
		t.Errorf("the longest path: %v", err)
	}
	b.RuntimeDir += "x"
	_, err := newSite(h, b, b.Kernel.VMLinux)
	e, ok := errors.AsType[*machine.Error](err)
	if !ok || e.Code != "env.path" || !strings.Contains(e.Remedy, "MVM_RUNTIME_DIR") {
		t.Errorf("one more: %v", err)
	}
}

func TestJail(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to the user of a jail")
	}
	h, b := siteBoot(t)
	h.jailer = "/opt/fc/jailer"
	upper := b.Disks[1].Path
	// What a killed supervisor left: the disk has a second name, and belongs to the jail's user.
	left := filepath.Join(jailBase(b), "firecracker", b.ID, "root", "disk-upper")
	uid, err := jailUID(b.ID)
	if err := errors.Join(err, os.MkdirAll(filepath.Dir(left), 0o700), os.Link(upper, left), os.Chown(upper, uid, uid)); err != nil {
		t.Fatal(err)
	}
	s, err := newSite(h, b, b.Kernel.VMLinux)
	if err != nil {
		t.Fatal(err)
	}
	root := s.jail.root
	for _, tt := range []struct {
		name, from string
		linked     bool
		uid        int
	}{
		{"kernel", b.Kernel.VMLinux, true, 0},
		{"initrd", b.Initrd, false, s.uid},
		{"disk-root", b.Disks[0].Path, true, 0},
		{"disk-upper", upper, true, s.uid},
		{"disk-config", b.Disks[2].Path, true, s.uid},
		{"disk-vol-0", b.Disks[3].Path, false, s.uid},
	} {
		in, out := stat(t, filepath.Join(root, tt.name)), stat(t, tt.from)
		if linked := in.Ino == out.Ino; linked != tt.linked || int(in.Uid) != tt.uid {
			t.Errorf("%s: linked %v, owner %d; want %v and %d", tt.name, linked, in.Uid, tt.linked, tt.uid)
		}
	}
	for i, path := range s.layout.disks {
		st := stat(t, root+path)
		if want := fmt.Sprintf("%d%d%d", st.Dev, st.Rdev, st.Ino); s.serial[i] != want[:min(len(want), vmm.MaxSerial)] {
			t.Errorf("%s: serial %s, want %s", path, s.serial[i], want)
		}
	}
	if err := s.opened(); err != nil {
		t.Error(err)
	}
	if st := stat(t, upper); st.Nlink != 1 || int(st.Uid) != s.uid {
		t.Errorf("while it runs the disk has %d names and owner %d", st.Nlink, st.Uid)
	}
	if err := s.remove(); err != nil {
		t.Error(err)
	}
	if st := stat(t, upper); st.Uid != 0 {
		t.Errorf("afterwards the disk belongs to %d", st.Uid)
	}
	if _, err := os.Stat(jailBase(b)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the jail is still there: %v", err)
	}
	if rest, _ := os.ReadDir(b.RuntimeDir); len(rest) != 0 {
		t.Errorf("left: %v", rest)
	}
}

// A jailed process owns the folder of its sockets and could put a link to another there.
func TestForeignSocketIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := checkPeer(c, os.Geteuid()); err != nil {
		t.Error(err)
	}
	if err := checkPeer(c, firstUID); err == nil {
		t.Error("a socket of another user is accepted")
	}
}
