package build

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/layer"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// Rootfs makes an image from a root file system: a folder, a tar file, compressed or not, or an
// ext4 image. What is in it is told by looking, not by its name.
func (b *Builder) Rootfs(ctx context.Context, path string, o Options) (Result, error) {
	begin := time.Now()
	names, err := b.names(o, nameOf(path))
	if err != nil {
		return Result{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return Result{}, fileError(path, err)
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return Result{}, notRegular(path)
	}
	if info.IsDir() {
		if err := checkFolder(path); err != nil {
			return Result{}, err
		}
	}
	platform, err := o.guestPlatform()
	if err != nil {
		return Result{}, err
	}
	d := image.Draft{
		Names: names, Arch: platform.Arch, Label: "mvm-rootfs",
		Source: image.Source{Builder: image.BuilderRootfs, Ref: path}, Build: image.Build{Version: b.Version},
	}
	done := o.step("importing " + filepath.Base(path))
	img, err := b.Images.Import(ctx, d, func(w *disk.Writer) (image.Notes, error) {
		stats, err := writeRootfs(ctx, w, path, info, o)
		return stats.Skipped, err
	})
	if err != nil {
		return Result{}, err
	}
	done()
	return result(img, names, false, begin), nil
}

// writeRootfs writes the tree of whatever path is.
func writeRootfs(ctx context.Context, w *disk.Writer, path string, info fs.FileInfo, o Options) (layer.Stats, error) {
	text := "importing " + filepath.Base(path)
	lo := layer.Options{Progress: func(_ int, stored int64) { o.bytes(text, stored, info.Size()) }}
	if info.IsDir() {
		return layer.FromDir(ctx, w, path, layer.Options{})
	}
	f, err := openRegular(path)
	if err != nil {
		return layer.Stats{}, err
	}
	defer func() { _ = f.Close() }()
	root, err := disk.Open(f, info.Size())
	switch {
	case err == nil:
		return layer.FromExt4(ctx, w, root, lo)
	case !errors.Is(err, disk.ErrNotExt4):
		return layer.Stats{}, machine.Errorf("disk.unusable", "check it with e2fsck -fn", "%s: %w", path, err)
	}
	if err := checkKind(ctx, path); err != nil {
		return layer.Stats{}, err
	}
	return layer.FromTar(ctx, w, tarFile(path), lo)
}

// nameOf suggests an image's name for a path.
func nameOf(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	base, _, _ := strings.Cut(strings.ToLower(filepath.Base(path)), ".tar")
	base, _, _ = strings.Cut(base, ".ext4")
	base, _, _ = strings.Cut(base, ".img")
	return cmp.Or(machine.NameFrom(base), "rootfs")
}
