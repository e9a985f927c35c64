package docker

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/layer"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// unpackImage makes a folder of the tree in a disk image, in place of what was there. The image was
// made from a folder of this user; still, nothing in it leads out of the new one.
func unpackImage(ctx context.Context, image, dir string) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	tree, err := disk.Open(f, info.Size())
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	out, in := io.Pipe()
	go func() {
		_, err := layer.ToTar(ctx, tree, in)
		_ = in.CloseWithError(err)
	}()
	err = unpack(out, dir)
	_ = out.Close()
	if err != nil {
		err = errors.Join(err, os.RemoveAll(dir))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return machine.Errorf("limit.disk", "free some space", "unpacking it into %s: %w", dir, err)
		}
		return machine.Errorf("backend.volume", "look at the owner and the mode of "+dir, "unpacking it into %s: %w", dir, err)
	}
	return nil
}

// unpack writes a tar stream into an empty folder: files, folders and links; the rest has no use in
// a folder that is only read.
func unpack(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	var folders []*tar.Header // their modes come last: one may forbid us to write
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		h.Name = strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if h.Name == "" {
			h.Name = "."
		}
		if h.Typeflag == tar.TypeDir {
			folders = append(folders, h)
		}
		if err := unpackEntry(root, h, tr); err != nil {
			return fmt.Errorf("%s: %w", quote(h.Name), err)
		}
	}
	for _, h := range slices.Backward(folders) {
		if err := settle(root, h); err != nil {
			return fmt.Errorf("%s: %w", quote(h.Name), err)
		}
	}
	return nil
}

func unpackEntry(root *os.Root, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(h.Name, 0o700)
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, h.Name); err != nil {
			return err
		}
		return own(root, h)
	case tar.TypeLink:
		return root.Link(strings.TrimPrefix(path.Clean("/"+h.Linkname), "/"), h.Name)
	case tar.TypeReg:
		f, err := root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		return settle(root, h)
	}
	return nil
}

// settle gives a file or folder its owner, mode and time.
func settle(root *os.Root, h *tar.Header) error {
	if err := own(root, h); err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode) & fs.ModePerm //nolint:gosec // masked
	if h.Typeflag == tar.TypeDir {
		mode |= 0o700 // or we could not delete what is in it; the container only reads it
	}
	if err := root.Chmod(h.Name, mode); err != nil {
		return err
	}
	return root.Chtimes(h.Name, time.Time{}, h.ModTime)
}

// own sets the owner where we may; otherwise everything is ours, which is whose it was as a rule.
func own(root *os.Root, h *tar.Header) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return root.Lchown(h.Name, h.Uid, h.Gid)
}
