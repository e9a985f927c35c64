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
	"github.com/mvmctl/mvmctl/internal/flock"
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
	if err := call(ctx, s, pathKeep, keeping{ID: v.ID, Size: size}, nil); err != nil {
		// It may have been made after all, and nobody will ask for it by this name again.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leftoverTime)
		defer cancel()
		if call(ctx, s, pathDrop, keeping{ID: v.ID}, nil) != nil {
			err = errors.Join(err, d.leaveVolume(v.ID))
		}
		return "", 0, err
	}
	return d.opts.VM.Instance(), size, nil
}

// volumeNote is what the name of a leftover begins with that is a volume.
const volumeNote = "volume-"

// leaveVolume notes a volume that is to be deleted.
func (d *Driver) leaveVolume(id string) error {
	if d.opts.StateDir == "" {
		return nil
	}
	if err := os.MkdirAll(d.leftovers(), 0o700); err != nil {
		return machine.Errorf("state.readonly", "make the state folder writable", "noting a volume that is to be deleted: %w", err)
	}
	return note{instance: d.opts.VM.Instance()}.write(filepath.Join(d.leftovers(), volumeNote+id))
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
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	unlock, err := flock.Lock(r.Context(), filepath.Join(filepath.Dir(path), "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	// What a session that was killed has left: nobody else makes one now.
	parts, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*.img.*"))
	for _, part := range parts {
		_ = os.Remove(part)
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, nil
	}
	err = disk.CreateEmpty(path, disk.Options{Size: k.Size, Label: "mvm-volume", Journal: true})
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
