package store

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

func TestAFullDiskLosesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a small tmpfs")
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("needs a mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := New(paths.Paths{State: dir + "/state"})
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	rec := record("web")
	if err := s.Save(rec); err != nil {
		t.Fatal(err)
	}
	st := machine.Status{State: machine.StateRunning, Generation: 3}
	if err := s.SaveStatus("web", st); err != nil {
		t.Fatal(err)
	}
	fill, err := os.Create(dir + "/fill")
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := fill.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	_ = fill.Close()
	rec.Generation = 99
	err = s.Save(rec)
	if machine.CodeOf(err) != "limit.disk" || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Save on a full disk: %v, want limit.disk", err)
	}
	// What a supervisor says of it has to be readable all the same.
	st.Problem = "the host's disk is full"
	if err := s.SaveStatus("web", st); err != nil {
		t.Errorf("SaveStatus on a full disk: %v", err)
	}
	if got := s.Status("web"); got == nil || got.Problem != st.Problem {
		t.Errorf("the status after it: %+v", got)
	}
	got, err := s.Load("web")
	if err != nil || got.Generation != 3 {
		t.Errorf("after it: generation %d, %v; want the old 3", got.Generation, err)
	}
	left, _ := os.ReadDir(s.paths.Machine("web", "").Dir)
	for _, d := range left {
		if strings.HasPrefix(d.Name(), ".") {
			t.Errorf("a temporary file was left: %s", d.Name())
		}
	}
	if err := s.Delete("web"); err != nil {
		t.Errorf("deleting on a full disk: %v", err)
	}
}

func TestAReadOnlyStateDirectoryIsSaidSo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a read-only bind mount")
	}
	s, p := newStore(t)
	if err := s.Save(record("web")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(p.State, p.State, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("needs a mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(p.State, syscall.MNT_DETACH) })
	if err := syscall.Mount("", p.State, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load("web"); err != nil {
		t.Errorf("reading must work: %v", err)
	}
	if err := s.Save(record("web")); machine.CodeOf(err) != "state.readonly" {
		t.Errorf("Save: %v, want state.readonly", err)
	}
	if _, err := s.Lock(context.Background(), "new", "test"); machine.CodeOf(err) != "state.readonly" {
		t.Errorf("Lock: %v, want state.readonly", err)
	}
}
