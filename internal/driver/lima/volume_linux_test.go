package lima_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/lima"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// TestVolumesDouble: a volume is in the virtual machine from its making until it is dropped, a machine
// without its volume does not start, and nothing of a drive that passes through memory is left.
func TestVolumesDouble(t *testing.T) {
	dir := shortDir(t)
	vm := doubleVM(t, dir)
	d := lima.New(lima.Options{VM: vm})
	v := driver.Volume{ID: machine.NewID(), Name: "data", Size: 32 << 20}
	if _, _, err := d.KeepVolume(t.Context(), v); machine.CodeOf(err) != "backend.missing" || !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("without a virtual machine: %v", err)
	}
	if err := vm.Ensure(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if at, size, err := d.KeepVolume(t.Context(), v); err != nil || at != doubleName || size != v.Size {
			t.Fatalf("KeepVolume: %q, %d, %v", at, size, err)
		}
	}
	inside := func(path string) string {
		found, _ := filepath.Glob(filepath.Join(dir, "lima*", doubleName, "root", path))
		if len(found) != 1 {
			return ""
		}
		return found[0]
	}
	image := "var/volumes/" + v.ID + ".img"
	if info, err := os.Stat(inside(image)); err != nil || info.Size() != v.Size {
		t.Fatalf("the volume's image: %v, %v", info, err)
	}

	b := bootOf(t, dir)
	if err := os.Mkdir(b.RuntimeDir, 0o700); err != nil {
		t.Fatal(err)
	}
	secret, folder := filepath.Join(b.RuntimeDir, "secret1.img"), filepath.Join(b.Dir, "volume2.img")
	for _, path := range []string{secret, folder} {
		if err := disk.CreateDrive(path, "mvm-volume", 0, []disk.File{{Path: "file", Mode: 0o400, Data: []byte("word\n")}}); err != nil {
			t.Fatal(err)
		}
	}
	b.Disks = append(
		b.Disks,
		machine.Disk{Role: machine.RoleOfVolume(0), Path: "/nowhere", Kept: v.ID},
		machine.Disk{Role: machine.RoleOfVolume(1), Path: secret, ReadOnly: true},
		machine.Disk{Role: machine.RoleOfVolume(2), Path: folder, ReadOnly: true},
	)
	m, err := d.Start(t.Context(), b, driver.Output{})
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	if inside("var/machines/"+b.ID+"/volume2.img") == "" {
		t.Error("the copy of a folder is not there")
	}
	for _, path := range []string{"run/" + b.ID + "/drives", "var/machines/" + b.ID + "/volume1.img", "var/machines/" + b.ID + "/config.img"} {
		if left := inside(path); left != "" {
			t.Errorf("%s is there while the machine runs", left)
		}
	}
	if err := errors.Join(m.Kill(), end(t, m)); err != nil {
		t.Errorf("Kill: %v", err)
	}

	if err := d.DropVolume(t.Context(), v.ID, "another"); machine.CodeOf(err) != "volume.elsewhere" {
		t.Errorf("with another Lima instance: %v", err)
	}
	for range 2 {
		if err := d.DropVolume(t.Context(), v.ID, doubleName); err != nil {
			t.Errorf("DropVolume: %v", err)
		}
	}
	if left := inside(image); left != "" {
		t.Errorf("%s is left", left)
	}
	if _, err := d.Start(t.Context(), b, driver.Output{}); machine.CodeOf(err) != "volume.gone" {
		t.Errorf("Start without its volume: %v", err)
	}
	b.Disks[3].Kept, b.Disks[3].Path = "", folder
	if _, err := d.Start(t.Context(), b, driver.Output{}); machine.CodeOf(err) != "volume.elsewhere" {
		t.Errorf("Start with a disk image that is written: %v", err)
	}
}
