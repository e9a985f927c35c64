//go:build linux || darwin

package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// FromDir writes the tree below a folder of this host, with the owners, attributes, links and
// holes that it has there, as far as the caller may read them. Links are copied and never
// followed; what is mounted inside is left out, and so are sockets, and Stats names both. A file
// that changes while it is read is an error.
func FromDir(ctx context.Context, w *disk.Writer, dir string, o Options) (Stats, error) {
	d := dirWalker{applier: newApplier(ctx, w, o), top: dir, first: map[fileID]string{}}
	err := d.root(dir)
	d.stats.Entries, d.stats.Bytes = d.meter.entries, d.meter.files
	return d.stats, err
}

// fileID is what all names of a file have in common.
type fileID struct{ dev, ino uint64 }

func idOf(st *unix.Stat_t) fileID { return fileID{uint64(st.Dev), st.Ino} } //nolint:unconvert // differs between systems

type dirWalker struct {
	*applier
	top   string
	dev   uint64
	first map[fileID]string // names of files that have several
}

func (d *dirWalker) root(dir string) error {
	f, err := os.Open(dir) // the caller's own word: may be a link
	if err != nil {
		return d.fail(err, ".")
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return d.fail(err, ".")
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return machine.Errorf("input.file", "name a folder", "%s is not a folder", dir)
	}
	if err := d.meter.entry("."); err != nil {
		return d.fail(err, ".")
	}
	d.dev = idOf(&st).dev
	if err := d.add(hostEntry(".", &st), f, f); err != nil {
		return d.fail(err, ".")
	}
	return d.children(f, ".")
}

// children writes what is in a folder, by name.
func (d *dirWalker) children(f *os.File, dir string) error {
	names, err := f.Readdirnames(-1)
	if err != nil {
		return d.fail(err, dir)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := d.child(f, path.Join(dir, name), name); err != nil {
			return d.fail(err, path.Join(dir, name))
		}
	}
	return nil
}

func (d *dirWalker) child(parent *os.File, at, name string) error {
	if _, err := d.meter.cleanName(at); err != nil {
		return err
	}
	if err := d.meter.entry(at); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(parent.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	e := hostEntry(at, &st)
	if e.Type != disk.TypeDir && st.Nlink > 1 {
		if first, ok := d.first[idOf(&st)]; ok {
			return d.w.Add(disk.Entry{Path: at, Type: disk.TypeHardlink, Target: first}, nil)
		}
		d.first[idOf(&st)] = at
	}
	switch e.Type {
	case disk.TypeSocket:
		delete(d.first, idOf(&st))
		d.stats.skip(at + ": a socket")
		return nil
	case disk.TypeDir, disk.TypeFile:
		return d.open(parent, e, name, &st)
	case disk.TypeSymlink:
		target, err := readlinkat(parent, name)
		if err != nil {
			return err
		}
		e.Target, e.Mode = target, 0o777
	}
	return d.add(e, nil, parent)
}

// open writes a file, or a folder and what is in it.
func (d *dirWalker) open(parent *os.File, e disk.Entry, name string, before *unix.Stat_t) error {
	// O_NONBLOCK: what took the file's place meanwhile may be a fifo.
	flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := unix.Openat(int(parent.Fd()), name, flags, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path.Join(d.top, e.Path))
	defer f.Close()
	if err := unchanged(f, before); err != nil {
		return err
	}
	if e.Type == disk.TypeFile {
		if err := d.meter.file(e.Size); err != nil {
			return err
		}
		defer d.progress()
		if err := d.add(e, f, parent); err != nil {
			return errors.Join(unchanged(f, before), err)
		}
		return unchanged(f, before)
	}
	if err := d.add(e, f, parent); err != nil {
		return err
	}
	if idOf(before).dev != d.dev {
		d.stats.skip(e.Path + ": what is mounted there")
		return nil
	}
	return d.children(f, e.Path)
}

// add writes an entry with the extended attributes that it has; f is nil if it was not opened.
func (d *dirWalker) add(e disk.Entry, f, parent *os.File) error {
	attrs, err := hostXattrs(f, parent, path.Base(e.Path))
	if err != nil {
		return fmt.Errorf("reading extended attributes: %w", err)
	}
	for name := range attrs {
		if !keepsXattr(name) {
			delete(attrs, name)
			d.stats.DroppedXattrs++
		}
	}
	e.Xattrs = attrs
	if e.Type != disk.TypeFile {
		return d.w.Add(e, nil)
	}
	return d.w.Add(e, sparseContent{d.meter.ctx, disk.SparseFile(f, e.Size)})
}

// unchanged compares an open file with what it was.
func unchanged(f *os.File, before *unix.Stat_t) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	same := idOf(&st) == idOf(before) && st.Mode == before.Mode
	if before.Mode&unix.S_IFMT == unix.S_IFREG {
		same = same && st.Size == before.Size && mtime(&st).Equal(mtime(before)) && ctime(&st).Equal(ctime(before))
	}
	if !same {
		return machine.Errorf("input.changed", "stop what writes there, or copy the folder first", "it changed while it was read")
	}
	return nil
}

func mtime(st *unix.Stat_t) time.Time { return time.Unix(st.Mtim.Unix()) }
func ctime(st *unix.Stat_t) time.Time { return time.Unix(st.Ctim.Unix()) }

func hostEntry(at string, st *unix.Stat_t) disk.Entry {
	e := disk.Entry{Path: at, Mode: uint16(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid, ModTime: mtime(st)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Size = disk.TypeFile, st.Size
	case unix.S_IFDIR:
		e.Type = disk.TypeDir
	case unix.S_IFLNK:
		e.Type = disk.TypeSymlink
	case unix.S_IFCHR:
		e.Type = disk.TypeChar
	case unix.S_IFBLK:
		e.Type = disk.TypeBlock
	case unix.S_IFIFO:
		e.Type = disk.TypeFIFO
	case unix.S_IFSOCK:
		e.Type = disk.TypeSocket
	}
	if e.Type == disk.TypeChar || e.Type == disk.TypeBlock {
		dev := uint64(st.Rdev) //nolint:unconvert // differs between systems
		e.Major, e.Minor = unix.Major(dev), unix.Minor(dev)
	}
	return e
}

func readlinkat(parent *os.File, name string) (string, error) {
	p := make([]byte, maxPath+1)
	n, err := unix.Readlinkat(int(parent.Fd()), name, p)
	if err != nil {
		return "", err
	}
	return string(p[:n]), nil
}

// fail names the file that an error is about, once.
func (d *dirWalker) fail(err error, at string) error {
	if _, ok := errors.AsType[explained](err); ok {
		return err
	}
	place := path.Join(d.top, at)
	if d.meter.ctx.Err() != nil {
		return explained{context.Cause(d.meter.ctx)}
	}
	full, isFull := errors.AsType[*disk.FullError](err)
	_, isOurs := errors.AsType[*machine.Error](err)
	switch {
	case isOurs:
		return explained{located(err, place)}
	case isFull:
		return explained{limitError("%s: the image has no room for it: %d %s are needed", place, full.Needed, full.What)}
	case errors.Is(err, disk.ErrRefused):
		return explained{invalidError("%s: %w", place, reason(err))}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return explained{machine.Errorf("input.file", "make it readable, or run mvmctl as a user who may read it", "reading %s: %w", place, err)}
	}
	return explained{located(explainHost(err), place)}
}
