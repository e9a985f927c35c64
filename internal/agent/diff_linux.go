package agent

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// differ compares an overlay's upper directory with the lower one.
//
// What the upper directory means: a character device 0/0, or an empty file with the
// attribute overlay.whiteout in a folder whose overlay.opaque is "x", deletes the lower file
// of that name; a folder whose overlay.opaque is "y" hides all of the lower folder; one with
// overlay.redirect was renamed and its lower folder is elsewhere; a file with
// overlay.metacopy has only its attributes here. See
// https://docs.kernel.org/filesystems/overlayfs.html
type differ struct {
	upper, lower *os.Root // lower is nil when it is not known
}

func newDiffer(upper, lower string) (*differ, error) {
	u, err := os.OpenRoot(upper)
	if err != nil {
		return nil, err
	}
	d := &differ{upper: u}
	if lower != "" {
		if d.lower, err = os.OpenRoot(lower); err != nil {
			u.Close()
			return nil, err
		}
	}
	return d, nil
}

func (d *differ) close() {
	d.upper.Close()
	if d.lower != nil {
		d.lower.Close()
	}
}

// walk reports all changes, a folder before what is in it, sorted by name.
func (d *differ) walk(report func(agentproto.Change) error) error {
	return d.dir(".", ".", false, report)
}

// dir walks the upper folder at. low is its lower counterpart, "" when there is none: it
// differs from at below a renamed folder. opaque says that a folder above hides all that is
// below low.
func (d *differ) dir(at, low string, opaque bool, report func(agentproto.Change) error) error {
	entries, err := readDir(d.upper, at)
	if err != nil {
		return err
	}
	own := d.attr(at, "opaque")
	opaque = opaque || own == "y"
	if opaque && low != "" {
		if err := d.hidden(at, low, entries, report); err != nil {
			return err
		}
	}
	for _, e := range entries {
		name := path.Join(at, e.Name())
		st, err := d.upper.Lstat(name)
		if err != nil {
			continue // deleted meanwhile
		}
		below := d.lowerOf(low, e.Name())
		if d.whiteout(name, st) {
			if below == nil && d.lower != nil {
				continue // of something that the image never had
			}
			err = report(change("D", name, below))
		} else {
			err = d.entry(name, low, st, below, opaque, report)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// entry reports one file that the upper directory has, and what is below it.
func (d *differ) entry(name, low string, st, below fs.FileInfo, opaque bool, report func(agentproto.Change) error) error {
	c := change("A", name, st)
	if below != nil {
		c.Kind = "M"
	}
	if !st.IsDir() {
		if below != nil && st.Mode().IsRegular() && d.has(name, "metacopy") {
			c.Size = below.Size()
		}
		return report(c)
	}
	next := ""
	if below != nil && below.IsDir() {
		next = path.Join(low, path.Base(name))
	}
	moved := redirected(low, d.attr(name, "redirect"))
	if next == "" || moved != "" || !same(st, below) {
		if err := report(c); err != nil {
			return err
		}
	}
	if moved != "" {
		return d.moved(name, moved, report)
	}
	return d.dir(name, next, opaque, report)
}

// moved reports all that a renamed folder shows: what the upper directory has of it, and what
// only its lower self has. In its new place all of it is new.
func (d *differ) moved(at, low string, report func(agentproto.Change) error) error {
	if err := d.dir(at, "", false, report); err != nil || d.lower == nil {
		return err
	}
	return d.onlyLower(at, low, report)
}

// onlyLower reports as added what the lower folder low has and the upper folder at does not.
func (d *differ) onlyLower(at, low string, report func(agentproto.Change) error) error {
	lower, err := readDir(d.lower, low)
	if err != nil {
		return nil // a redirect to nothing
	}
	for _, e := range lower {
		name := path.Join(at, e.Name())
		if over, err := d.upper.Lstat(name); err == nil && !(over.IsDir() && e.IsDir() && d.attr(name, "opaque") != "y") {
			continue
		} else if err != nil {
			st, err := e.Info()
			if err != nil {
				continue
			}
			if err := report(change("A", name, st)); err != nil {
				return err
			}
		}
		if e.IsDir() {
			if err := d.onlyLower(name, path.Join(low, e.Name()), report); err != nil {
				return err
			}
		}
	}
	return nil
}

// hidden reports what an opaque folder hides: every lower name that the upper folder does not
// have again. Such a name is one deletion, whatever was below it.
func (d *differ) hidden(at, low string, entries []fs.DirEntry, report func(agentproto.Change) error) error {
	if d.lower == nil {
		return nil
	}
	lower, err := readDir(d.lower, low)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil
		}
		return err
	}
	for _, e := range lower {
		if slices.ContainsFunc(entries, func(u fs.DirEntry) bool { return u.Name() == e.Name() }) {
			continue
		}
		st, err := e.Info()
		if err != nil {
			continue
		}
		if err := report(change("D", path.Join(at, e.Name()), st)); err != nil {
			return err
		}
	}
	return nil
}

// lowerOf returns the lower file name in the lower folder low, nil when there is none or the
// lower directory is not known.
func (d *differ) lowerOf(low, name string) fs.FileInfo {
	if d.lower == nil || low == "" {
		return nil
	}
	st, err := d.lower.Lstat(path.Join(low, name))
	if err != nil {
		return nil
	}
	return st
}

func (d *differ) whiteout(name string, st fs.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	switch sys.Mode & syscall.S_IFMT {
	case syscall.S_IFCHR:
		return sys.Rdev == 0
	case syscall.S_IFREG:
		return st.Size() == 0 && d.has(name, "whiteout")
	}
	return false
}

func (d *differ) has(name, attr string) bool {
	_, ok := d.xattr(name, attr)
	return ok
}

// attr returns an overlay attribute of a file in the upper directory, "" when it has none.
func (d *differ) attr(name, attr string) string {
	v, _ := d.xattr(name, attr)
	return v
}

// xattr looks for the attribute under both names that overlayfs uses: a mount with userxattr
// cannot set trusted ones.
func (d *differ) xattr(name, attr string) (string, bool) {
	f, err := d.upper.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", false
	}
	defer f.Close()
	var v [256]byte
	for _, space := range []string{"trusted.overlay.", "user.overlay."} {
		n, err := unix.Fgetxattr(int(f.Fd()), space+attr, v[:])
		if err == nil {
			return string(v[:n]), true
		}
	}
	return "", false
}

// redirected returns the lower folder that a redirect names, "" for none: absolute from the layer's root,
// otherwise beside the folder's own place.
func redirected(low, r string) string {
	if strings.HasPrefix(r, "/") {
		return path.Join(".", path.Clean(r))
	}
	if low == "" || r == "" {
		return ""
	}
	return path.Join(low, path.Base(r))
}

// same says whether a folder that exists in both layers was changed itself, and is not only
// there because something in it was.
func same(a, b fs.FileInfo) bool {
	x, ok1 := a.Sys().(*syscall.Stat_t)
	y, ok2 := b.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && a.Mode() == b.Mode() && x.Uid == y.Uid && x.Gid == y.Gid
}

func change(kind, name string, st fs.FileInfo) agentproto.Change {
	c := agentproto.Change{Kind: kind, Path: "/" + name, Type: "other"}
	if st == nil {
		c.Type = ""
		return c
	}
	switch st.Mode().Type() {
	case 0:
		c.Type = "file"
		c.Size = st.Size()
	case fs.ModeDir:
		c.Type = "dir"
	case fs.ModeSymlink:
		c.Type = "symlink"
	}
	return c
}

func readDir(r *os.Root, name string) ([]fs.DirEntry, error) {
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}
