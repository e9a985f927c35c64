package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/layer"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// overlayDir is where the guest keeps its changes on the machine's own disk.
const overlayDir = "upper"

// Commit makes a new image of a stopped machine: its image with its changes. Neither the
// machine nor its image is touched.
func (e *Engine) Commit(ctx context.Context, name, imageName string) (ImageDetail, error) {
	n, err := image.ParseName(imageName)
	if err != nil {
		return ImageDetail{}, err
	}
	if err := e.ImageStore.CheckNew(n); err != nil {
		return ImageDetail{}, err
	}
	rec, release, err := e.stopped(ctx, name, "commit")
	if err != nil {
		return ImageDetail{}, err
	}
	defer release()
	if rec.Spec.Runner != "" {
		return ImageDetail{}, machine.Errorf("backend.commit", "change its flake, and start it again", "machine %q has no image: its flake says what it is", name)
	}
	base, err := e.imageOf(ctx, rec)
	if err != nil {
		return ImageDetail{}, err
	}
	tree, done, err := e.treeOf(ctx, rec, base)
	if err != nil {
		return ImageDetail{}, err
	}
	defer done()
	d := image.Draft{
		Names: []image.Name{n}, Arch: base.Content.Arch, Config: base.Content.Config, Label: "mvm-commit",
		Source: image.Source{Builder: image.BuilderCommit, Ref: name, Digest: "sha256:" + base.ID},
		Build:  image.Build{Version: e.Build},
	}
	img, err := e.ImageStore.Import(ctx, d, func(w *disk.Writer) (image.Notes, error) {
		stats, err := tree(w)
		return stats.Skipped, err
	})
	if err != nil {
		return ImageDetail{}, err
	}
	return e.Image(ctx, img.ID)
}

// treeOf returns how to write the root file system of a stopped machine, its changes included.
func (e *Engine) treeOf(ctx context.Context, rec machine.Record, base image.Image) (tree func(*disk.Writer) (layer.Stats, error), done func(), err error) {
	if e.keptElsewhere(rec) {
		x, ok := e.driverOf(rec).(driver.Exporter)
		if !ok {
			return nil, nil, machine.Errorf("backend.commit", "copy the changes out with `mvmctl cp`",
				"what machine %q has written is kept by its backend %s, which cannot give it out", rec.Name, rec.Driver)
		}
		l := layer.Layer{Name: "machine " + rec.Name, Open: func(ctx context.Context) (io.ReadCloser, error) { return x.Export(ctx, rec.ID, e.places(rec).Dir) }}
		return func(w *disk.Writer) (layer.Stats, error) { return layer.FromTar(ctx, w, l, layer.Options{}) }, func() {}, nil
	}
	lower, closeLower, err := openDisk(base.Path)
	if err != nil {
		return nil, nil, err
	}
	upper, closeUpper, err := openDisk(e.places(rec).Upper())
	if err != nil {
		closeLower()
		if errors.Is(err, fs.ErrNotExist) {
			err = machine.Errorf("machine.unchanged", "start it first", "machine %q has never been started, so it has no changes", rec.Name)
		}
		return nil, nil, err
	}
	tree = func(w *disk.Writer) (layer.Stats, error) {
		return layer.FromOverlay(ctx, w, lower, upper, overlayDir, layer.Options{})
	}
	return tree, func() { closeUpper(); closeLower() }, nil
}

// Reset takes a stopped machine back to its image: its own disk is deleted. Volumes stay.
func (e *Engine) Reset(ctx context.Context, name string) error {
	rec, release, err := e.stopped(ctx, name, "reset")
	if err != nil {
		return err
	}
	defer release()
	work := filepath.Join(e.places(rec).Dir, machine.RunnerDir)
	if err := os.RemoveAll(work); err != nil {
		return paths.WriteError("removing "+work, err)
	}
	upper := e.places(rec).Upper()
	if err := os.Remove(upper); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return paths.WriteError("removing "+upper, err)
	}
	return e.removeKept(ctx, rec)
}

// stopped takes the lock of a machine that does not run and heals it.
func (e *Engine) stopped(ctx context.Context, name, verb string) (rec machine.Record, release func(), err error) {
	lock, err := e.Locks.Lock(ctx, name, verb+" "+name)
	if err != nil {
		return rec, nil, err
	}
	rec, err = e.existing(ctx, name)
	if err != nil {
		releaseUnknown(lock, err)
		return rec, nil, err
	}
	if e.Locks.Alive(name) {
		lock.Release()
		return rec, nil, machine.Errorf("machine.running", fmt.Sprintf("stop it first: mvmctl down %s", name), "machine %q is running", name)
	}
	if err := e.heal(ctx, &rec); err != nil {
		lock.Release()
		return rec, nil, err
	}
	return rec, lock.Release, nil
}

// openDisk opens a disk image for reading.
func openDisk(path string) (*disk.FS, func(), error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("opening disk: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		var d *disk.FS
		if d, err = disk.Open(f, info.Size()); err == nil {
			return d, func() { _ = f.Close() }, nil
		}
	}
	_ = f.Close()
	return nil, nil, machine.Errorf("disk.unusable", "check a copy of it with e2fsck -fn", "%s: %w", path, err)
}
