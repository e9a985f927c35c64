package build

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
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
	names, err := o.names(nameOf(path))
	if err != nil {
		return Result{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return Result{}, fileError(path, err)
	}
	if info.Mode()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		return Result{}, machine.Usagef("input.not_regular", "give a folder, a tar file or an ext4 image", "%s is neither a file nor a folder", path)
	}
	d := image.Draft{
		Names: names, Arch: runtime.GOARCH, Label: "mvm-rootfs",
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
	f, err := os.Open(path)
	if err != nil {
		return layer.Stats{}, fileError(path, err)
	}
	defer func() { _ = f.Close() }()
	image, err := disk.Open(f, info.Size())
	switch {
	case err == nil:
		return layer.FromExt4(ctx, w, image, lo)
	case !errors.Is(err, disk.ErrNotExt4):
		return layer.Stats{}, machine.Errorf("disk.unusable", "check it with e2fsck -fn", "%s: %w", path, err)
	}
	return layer.FromTar(ctx, w, layer.Layer{
		Name: filepath.Base(path),
		Open: func(context.Context) (io.ReadCloser, error) { return os.Open(path) },
	}, lo)
}

func fileError(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return machine.Usagef("input.file", "check the path", "there is no %s", path)
	}
	return machine.Usagef("input.file", "check the path and its permissions", "reading %s: %w", path, err)
}

// nameOf suggests an image's name for a path.
func nameOf(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	base, _, _ := strings.Cut(strings.ToLower(filepath.Base(path)), ".tar")
	base, _, _ = strings.Cut(base, ".ext4")
	base, _, _ = strings.Cut(base, ".img")
	name := strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, base), "-")
	for strings.Contains(name, "--") {
		name = strings.ReplaceAll(name, "--", "-")
	}
	if name == "" {
		return "rootfs"
	}
	return name
}
