package engine

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
)

// packLocal writes a tar of src to w, its top entry named base.
func packLocal(ctx context.Context, w io.Writer, src, base string, follow bool) error {
	if follow {
		resolved, err := filepath.EvalSymlinks(src)
		if err != nil {
			return localError(err)
		}
		src = resolved
	}
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		return packOne(tw, p, path.Join(base, filepath.ToSlash(rel)), d)
	})
	if err != nil {
		return localError(err)
	}
	return tw.Close()
}

func packOne(tw *tar.Writer, p, name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	target := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if target, err = os.Readlink(p); err != nil {
			return err
		}
	case !info.Mode().IsRegular() && !info.IsDir():
		return fmt.Errorf("%s is neither a file, a folder nor a link", p)
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name = name
	h.Format = tar.FormatPAX
	h.Uname, h.Gname = "", "" // numbers count: the guest has other users
	if info.IsDir() {
		h.Name += "/"
	}
	if !info.Mode().IsRegular() {
		return tw.WriteHeader(h)
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(tw, io.LimitReader(f, h.Size)) // a file that grows is cut at its first size
	if err == nil && n < h.Size {
		err = fmt.Errorf("%s became shorter while it was copied", p)
	}
	return err
}

// unpackLocal unpacks a tar that a guest sent below dir. Every name is hostile: nothing is
// written outside dir, through whatever link. base replaces the first element of all names,
// unless it is "".
func unpackLocal(r io.Reader, dir, base string) (CopyResult, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return CopyResult{}, localError(err)
	}
	defer func() { _ = root.Close() }()
	var res CopyResult
	var late []*tar.Header // folders get their modes last, so that a read-only one can be filled
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return res, err
		}
		h.Name = path.Clean("/" + h.Name)[1:]
		if base != "" {
			_, rest, _ := strings.Cut(h.Name, "/")
			h.Name = path.Join(base, rest)
		}
		if h.Name == "" || h.Name == "." {
			continue
		}
		if err := unpackOne(root, tr, h); err != nil {
			return res, localError(fmt.Errorf("writing %s: %w", filepath.Join(dir, h.Name), err))
		}
		if h.Typeflag == tar.TypeDir {
			late = append(late, h)
		} else {
			res.Files++
			res.Bytes += h.Size
		}
	}
	for _, h := range slices.Backward(late) {
		if err := errors.Join(root.Chmod(h.Name, h.FileInfo().Mode().Perm()), root.Chtimes(h.Name, h.ModTime, h.ModTime)); err != nil {
			return res, localError(err)
		}
	}
	return res, nil
}

func unpackOne(root *os.Root, r io.Reader, h *tar.Header) error {
	mode := h.FileInfo().Mode().Perm() // no setuid, no setgid: the guest chose them
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(h.Name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case tar.TypeSymlink:
		if err := root.Remove(h.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return root.Symlink(h.Linkname, h.Name)
	case tar.TypeLink:
		target := path.Clean("/" + h.Linkname)[1:]
		return root.Link(target, h.Name)
	case tar.TypeReg:
	default:
		return nil // devices and the like make no sense on the host; the agent reports them
	}
	f, err := root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		_ = f.Close()
		return err
	}
	if err := errors.Join(f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return root.Chtimes(h.Name, h.ModTime, h.ModTime)
}
