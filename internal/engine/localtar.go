package engine

import (
	"archive/tar"
	"context"
	"crypto/rand"
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

	"github.com/mvmctl/mvmctl/internal/machine"
)

const (
	smallFile  = 64 << 10 // bytes; a file that states no more is read before its size is told
	maxUnsized = 4 << 20  // bytes of a file that does not state its size; they are held in memory
)

const whySpecial = "devices, sockets and FIFOs are not copied"

// leftOut counts what a copy had to leave out and keeps the first reason.
type leftOut struct {
	n     int
	first string
}

func (l *leftOut) add(name, why string) {
	if l.n++; l.n == 1 {
		l.first = name + ": " + why
	}
}

// err is nil when nothing was left out.
func (l *leftOut) err() error {
	switch l.n {
	case 0:
		return nil
	case 1:
		return machine.Errorf("copy.local", "everything else was copied", "%s", l.first)
	}
	return machine.Errorf("copy.local", "everything else was copied", "%s (and %d more)", l.first, l.n-1)
}

// localPacker writes files of this host as a tar.
type localPacker struct {
	tw   *tar.Writer
	buf  []byte // for small files
	left leftOut
}

// packLocal writes a tar of src to w, its top entry named base. An error means that the tar is
// cut; what could not be read is left out and counted.
func packLocal(ctx context.Context, w io.Writer, src, base string, follow bool) (leftOut, error) {
	if follow {
		resolved, err := filepath.EvalSymlinks(src)
		if err != nil {
			return leftOut{}, localError(err)
		}
		src = resolved
	}
	pk := &localPacker{tw: tar.NewWriter(w), buf: make([]byte, smallFile)}
	err := filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return pk.skip(p, err)
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		return pk.add(p, path.Join(base, filepath.ToSlash(rel)), d)
	})
	if err == nil {
		err = pk.tw.Close()
	}
	if err != nil {
		return pk.left, localError(err)
	}
	return pk.left, nil
}

// skip notes what cannot be read. What is gone was deleted meanwhile.
func (pk *localPacker) skip(p string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	pk.left.add(p, err.Error())
	return nil
}

func (pk *localPacker) add(p, name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return pk.skip(p, err)
	}
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = os.Readlink(p); err != nil {
			return pk.skip(p, err)
		}
	case info.Mode().IsRegular():
		return pk.file(p, name)
	case !info.IsDir():
		pk.left.add(p, whySpecial)
		return nil
	}
	h, err := localHeader(info, name, link)
	if err != nil {
		return err
	}
	return pk.tw.WriteHeader(h)
}

// localHeader is a tar header for a machine whose users are others: what comes into it is
// root's, as with docker cp.
func localHeader(info fs.FileInfo, name, link string) (*tar.Header, error) {
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return nil, err
	}
	h.Name = name
	h.Format = tar.FormatPAX
	h.Uname, h.Gname, h.Uid, h.Gid = "", "", 0, 0
	if info.IsDir() {
		h.Name += "/"
	}
	return h, nil
}

func (pk *localPacker) file(p, name string) error {
	// Non-blocking and checked again: the file may have become a FIFO meanwhile.
	f, err := os.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return pk.skip(p, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		pk.left.add(p, "it changed while it was copied")
		return nil
	}
	h, err := localHeader(info, name, "")
	if err != nil {
		return err
	}
	head, err := pk.measure(f, h)
	if err != nil {
		return pk.skip(p, err)
	}
	if err := pk.tw.WriteHeader(h); err != nil {
		return err
	}
	if _, err := pk.tw.Write(head); err != nil || int64(len(head)) == h.Size {
		return err
	}
	n, err := io.Copy(pk.tw, io.LimitReader(f, h.Size)) // a file that grows is cut at its first size
	if n == h.Size {
		return nil
	}
	var pe *fs.PathError
	if err != nil && !errors.As(err, &pe) {
		return err // the machine is gone
	}
	pk.left.add(p, "it changed or could not be read while it was copied; the rest of it is zeros")
	_, err = io.CopyN(pk.tw, zeros{}, h.Size-n)
	return err
}

// measure sets the size that goes into the tar and returns what has been read for that. procfs
// states 0 and sysfs a page, whatever there is to read.
func (pk *localPacker) measure(f *os.File, h *tar.Header) ([]byte, error) {
	if h.Size > smallFile {
		return nil, nil
	}
	n, err := io.ReadFull(f, pk.buf)
	head := pk.buf[:n]
	if err == nil && h.Size == 0 {
		var more []byte
		if more, err = io.ReadAll(io.LimitReader(f, maxUnsized)); len(more) == maxUnsized {
			return nil, fmt.Errorf("it does not state its size and holds more than %d MiB", maxUnsized>>20)
		}
		head = append(slices.Clone(head), more...)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	h.Size = int64(len(head))
	return head, nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// unpackLocal unpacks a tar that a guest sent. Every name is hostile: nothing is written outside
// the target's folder, through whatever link. Its base replaces the first element of all names,
// unless it is "".
func unpackLocal(r io.Reader, to target) (CopyResult, error) {
	root, err := os.OpenRoot(to.dir)
	if err != nil {
		return CopyResult{}, localError(err)
	}
	defer func() { _ = root.Close() }()
	var res CopyResult
	var late []*tar.Header // folders get their modes last, so that a read-only one can be filled
	tr := tar.NewReader(r)
	for first := true; ; first = false {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return res, err
		}
		if folder := h.Typeflag == tar.TypeDir; first && (to.onlyFile && folder || to.onlyFolder && !folder) {
			return res, to.mismatch()
		}
		if first {
			to.nameless = path.Clean("/"+h.Name) == "/"
		}
		h.Name = to.rename(h.Name)
		h.Linkname = to.linked(h)
		if h.Name == "" || h.Name == "." {
			continue
		}
		if err := unpackOne(root, tr, h); err != nil {
			return res, localError(fmt.Errorf("writing %s: %w", filepath.Join(to.dir, h.Name), err))
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

func (to target) mismatch() error {
	place := filepath.Join(to.dir, to.base)
	if to.onlyFile {
		return machine.Errorf("copy.local", "choose another destination", "a folder cannot replace the file %s", place)
	}
	return machine.Errorf("copy.local", "make the folder first: mkdir -p "+place, "there is no folder %s", place)
}

// rename is the name that an entry gets on this host.
func (to target) rename(name string) string {
	name = path.Clean("/" + name)[1:]
	switch {
	case to.base != "" && to.nameless:
		name = path.Join(to.base, name)
	case to.base != "":
		_, rest, _ := strings.Cut(name, "/")
		name = path.Join(to.base, rest)
	}
	return name
}

// linked is where an entry that is a link points to. A hard link names another entry.
func (to target) linked(h *tar.Header) string {
	if h.Typeflag == tar.TypeLink {
		return to.rename(h.Linkname)
	}
	return h.Linkname
}

func unpackOne(root *os.Root, r io.Reader, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeDir:
		err := root.Mkdir(h.Name, 0o700)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		// A folder that is there is filled, also one behind a link that stays within the copy.
		if info, err := root.Stat(h.Name); err != nil {
			return err
		} else if !info.IsDir() {
			return syscall.ENOTDIR
		}
		return nil
	case tar.TypeSymlink:
		return beside(root, h.Name, func(tmp string) error { return root.Symlink(h.Linkname, tmp) })
	case tar.TypeLink:
		return beside(root, h.Name, func(tmp string) error { return root.Link(h.Linkname, tmp) })
	case tar.TypeReg:
		return beside(root, h.Name, func(tmp string) error { return writeFile(root, tmp, r, h) })
	}
	return nil // devices and the like make no sense on the host; the agent reports them
}

// beside makes something under another name and renames it to name: what was there is replaced
// in one step, whatever its mode, and never written through.
func beside(root *os.Root, name string, create func(tmp string) error) error {
	tmp := path.Join(path.Dir(name), ".mvm-copy-"+rand.Text())
	err := create(tmp)
	if err == nil {
		err = root.Rename(tmp, name)
	}
	// Also when it worked: between two names of one file rename(2) does nothing.
	_ = root.Remove(tmp)
	return err
}

func writeFile(root *os.Root, name string, r io.Reader, h *tar.Header) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		_ = f.Close()
		return err
	}
	// No setuid, no setgid: the guest chose them.
	if err := errors.Join(f.Chmod(h.FileInfo().Mode().Perm()), f.Close()); err != nil {
		return err
	}
	return root.Chtimes(name, h.ModTime, h.ModTime)
}
