package kernel

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

const (
	maxSource      = 6 << 30 // a source's tar, uncompressed; Linux 6.1: 1.3 GB, 80,000 files
	maxSourceFiles = 500_000
)

// writeMembers writes the members of a tar stream below root.
func writeMembers(root *os.Root, r io.Reader) error {
	tr := tar.NewReader(r)
	buf := make([]byte, 1<<18)
	made := map[string]bool{".": true}
	for range maxSourceFiles {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF):
			return badf("it is damaged: %v", err)
		case err != nil:
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader { // git archive's
			continue
		}
		name, err := innerPath(h.Name)
		if err != nil {
			return err
		}
		if name == "" {
			continue
		}
		if err := writeMember(root, name, h, tr, made, buf); err != nil {
			return err
		}
	}
	return badf("it has more than %d files", maxSourceFiles)
}

// writeMember writes one member. Nothing is written over: a name that comes twice is refused.
func writeMember(root *os.Root, name string, h *tar.Header, r io.Reader, made map[string]bool, buf []byte) error {
	parent := path.Dir(name)
	if h.Typeflag == tar.TypeDir {
		parent = name
	}
	if !made[parent] {
		if err := root.MkdirAll(filepath.FromSlash(parent), 0o755); err != nil {
			return memberError(name, err)
		}
		made[parent] = true
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return nil
	case tar.TypeReg:
		mode := fs.FileMode(0o644)
		if h.Mode&0o100 != 0 {
			mode = 0o755
		}
		w, err := root.OpenFile(filepath.FromSlash(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return memberError(name, err)
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = badf("it is truncated")
		}
		return errors.Join(err, w.Close())
	case tar.TypeSymlink:
		to := path.Join(path.Dir(name), h.Linkname)
		if path.IsAbs(h.Linkname) || !filepath.IsLocal(to) {
			return badf("its link %.80q leads outside", name)
		}
		return memberError(name, root.Symlink(h.Linkname, filepath.FromSlash(name)))
	case tar.TypeLink:
		to, err := innerPath(h.Linkname)
		if err != nil || to == "" {
			return badf("its link %.80q leads outside", name)
		}
		return memberError(name, root.Link(filepath.FromSlash(to), filepath.FromSlash(name)))
	}
	return badf("%.80q is neither a file nor a folder nor a link", name)
}

// memberError tells what a hostile archive provokes (a name that comes twice, a folder below a
// file or through a link) from what the host refuses, such as space.
func memberError(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrInvalid),
		strings.Contains(err.Error(), "path escapes from parent"), isNotFolder(err):
		return badf("%.80q cannot be in it: %v", name, err)
	}
	return err
}
