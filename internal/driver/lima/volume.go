package lima

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

var _ driver.VolumeKeeper = (*Driver)(nil)

// KeepVolume implements driver.VolumeKeeper: the volume is a disk image in the virtual machine. Moving
// it there and back with each machine would lose what was written when a machine is killed.
func (d *Driver) KeepVolume(ctx context.Context, v driver.Volume) (at string, size int64, err error) {
	s, err := d.session(ctx)
	if err != nil {
		return "", 0, err
	}
	if s == nil {
		return "", 0, driver.Unavailable("backend.missing", makeIt, "there is no Lima instance %s", d.opts.VM.Instance())
	}
	defer func() { _ = s.Close() }()
	size = cmp.Or(v.Size, machine.DefaultVolumeSize)
	return d.opts.VM.Instance(), size, call(ctx, s, pathKeep, keeping{ID: v.ID, Size: size}, nil)
}

// DropVolume implements driver.VolumeKeeper. What a virtual machine had that is not there any more
// is gone with it.
func (d *Driver) DropVolume(ctx context.Context, id, at string) error {
	if at != "" && at != d.opts.VM.Instance() {
		return machine.Errorf("volume.elsewhere", "run it again with MVM_LIMA_INSTANCE="+at,
			"the volume is in the Lima instance %s, and this is %s", at, d.opts.VM.Instance())
	}
	s, err := d.session(ctx)
	if err != nil || s == nil {
		return err
	}
	defer func() { _ = s.Close() }()
	return call(ctx, s, pathDrop, keeping{ID: id}, nil)
}

func (h *Host) volumePath(id string) string { return filepath.Join(h.Dir, "volumes", id+".img") }

// keep makes a volume that is not there yet.
func (h *Host) keep(_ http.ResponseWriter, r *http.Request) (any, error) {
	var k keeping
	if err := decode(r, &k); err != nil {
		return nil, err
	}
	if !plainID(k.ID) || k.Size < machine.MinDisk || k.Size > maxDisk {
		return nil, errors.New("a volume without an id or a size")
	}
	path := h.volumePath(k.ID)
	if _, err := os.Lstat(path); err == nil {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	err := disk.CreateEmpty(path, disk.Options{Size: k.Size, Label: "mvm-volume", Journal: true})
	if err != nil {
		return nil, machine.Errorf("lima.transfer", "look at the free space of the virtual machine, and try again", "making a volume: %w", err)
	}
	return nil, nil
}

// drop deletes a volume.
func (h *Host) drop(_ http.ResponseWriter, r *http.Request) (any, error) {
	var k keeping
	if err := decode(r, &k); err != nil {
		return nil, err
	}
	if !plainID(k.ID) {
		return nil, errors.New("a volume without an id")
	}
	if err := os.Remove(h.volumePath(k.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return nil, nil
}
