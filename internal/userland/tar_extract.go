package userland

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// read lists or extracts an archive. An archive from outside is hostile: names
// are taken below the target directory only, through os.Root, which does not
// follow links out of it.
func (a *archiver) read(file string, list bool) error {
	var r io.Reader = a.c.in
	if file != "" && file != "-" {
		f, err := os.Open(a.c.path(file))
		if err != nil {
			return err
		}
		defer f.Close()
		r = f
	}
	buf := bufio.NewReaderSize(r, bufSize)
	r = buf
	if magic, err := buf.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(buf)
		if err != nil {
			return err
		}
		r = z
	}
	var root *os.Root
	if !list {
		var err error
		if root, err = os.OpenRoot(a.dir); err != nil {
			return err
		}
		defer root.Close()
	}
	tr := tar.NewReader(r)
	var dirs []*tar.Header
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := a.c.ctx.Err(); err != nil {
			return err
		}
		if !a.selected(h.Name) || a.excluded(strings.TrimSuffix(h.Name, "/")) {
			continue
		}
		if list {
			a.list(h, a.verbose)
			continue
		}
		dirs, err = a.extractOne(root, tr, h, dirs)
		if err != nil {
			return err
		}
	}
	// The attributes of directories come last, so that read-only ones could be
	// filled and keep their times.
	for _, h := range slices.Backward(dirs) {
		if err := a.attributes(root, h); err != nil {
			a.problem(h.Name, err)
		}
	}
	for i, ok := range a.matched {
		if !ok {
			a.c.errorf("%s: Not found in archive", a.members[i])
			a.status = exitUsage
		}
	}
	return nil
}

// extractOne extracts one member; only errors that end everything are returned.
func (a *archiver) extractOne(root *os.Root, tr *tar.Reader, h *tar.Header, dirs []*tar.Header) ([]*tar.Header, error) {
	if a.toOut {
		if h.Typeflag != tar.TypeReg {
			return dirs, nil
		}
		_, err := copyBuffer(a.c.ctx, a.c.out, tr)
		return dirs, err
	}
	name, ok := a.targetName(h.Name)
	if !ok {
		return dirs, nil
	}
	h.Name = name
	if a.verbose {
		a.list(h, false)
	}
	if err := a.extract(root, tr, h); err != nil {
		if a.c.ctx.Err() != nil || errors.Is(err, io.ErrUnexpectedEOF) {
			return dirs, err
		}
		a.problem(h.Name, err)
		return dirs, nil
	}
	if h.Typeflag == tar.TypeDir {
		return append(dirs, h), nil
	}
	return dirs, nil
}

// selected reports whether a member was asked for.
func (a *archiver) selected(name string) bool {
	if len(a.members) == 0 {
		return true
	}
	name = strings.TrimSuffix(name, "/")
	for i, m := range a.members {
		m = strings.TrimSuffix(m, "/")
		if name == m || strings.HasPrefix(name, m+"/") {
			a.matched[i] = true
			return true
		}
	}
	return false
}

// targetName is where a member goes; false leaves it out.
func (a *archiver) targetName(name string) (string, bool) {
	parts := strings.Split(strings.TrimSuffix(name, "/"), "/")
	if a.strip > 0 {
		if len(parts) <= a.strip {
			return "", false
		}
		parts = parts[a.strip:]
	}
	if slices.Contains(parts, "..") {
		a.c.errorf("%s: Member name contains '..'", name)
		a.status = exitUsage
		return "", false
	}
	clean := strings.TrimLeft(filepath.Clean(strings.Join(parts, "/")), "/")
	if clean == "" {
		clean = "."
	}
	return clean, true
}

func (a *archiver) extract(root *os.Root, tr *tar.Reader, h *tar.Header) error {
	name := h.Name
	if dir := filepath.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o777); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeDir {
		err := root.Mkdir(name, 0o700)
		if errors.Is(err, fs.ErrExist) {
			if st, serr := root.Lstat(name); serr == nil && st.IsDir() {
				return nil
			}
			if err = root.Remove(name); err == nil {
				err = root.Mkdir(name, 0o700)
			}
		}
		return err
	}
	if st, err := root.Lstat(name); err == nil {
		if a.keepOld {
			return fs.ErrExist
		}
		if !st.IsDir() {
			// Never write through an existing link.
			if err := root.Remove(name); err != nil {
				return err
			}
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return a.extractFile(root, tr, h)
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		if a.owners {
			uid, gid := a.owner(h)
			return root.Lchown(name, uid, gid)
		}
		return nil
	case tar.TypeLink:
		old, ok := a.targetName(h.Linkname)
		if !ok {
			return errors.New("link to a name outside of the archive")
		}
		return root.Link(old, name)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		if err := a.extractSpecial(root, h); err != nil {
			return err
		}
		return a.attributes(root, h)
	}
	return fmt.Errorf("unknown type '%c'", h.Typeflag)
}

func (a *archiver) extractFile(root *os.Root, tr *tar.Reader, h *tar.Header) error {
	f, err := root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := copyBuffer(a.c.ctx, f, tr); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return a.attributes(root, h)
}

// extractSpecial makes a device or fifo in a directory reached through root.
func (a *archiver) extractSpecial(root *os.Root, h *tar.Header) error {
	dir, err := root.Open(filepath.Dir(h.Name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return makeNodeAt(dir, filepath.Base(h.Name), h)
}

// attributes sets owner, mode and times.
func (a *archiver) attributes(root *os.Root, h *tar.Header) error {
	if a.owners {
		uid, gid := a.owner(h)
		if err := root.Lchown(h.Name, uid, gid); err != nil {
			return err
		}
	}
	mode := uint32(h.Mode) & 0o7777
	if !a.preserve {
		mode &= 0o777 &^ uint32(currentUmask())
	}
	if err := root.Chmod(h.Name, goMode(mode)); err != nil {
		return err
	}
	return root.Chtimes(h.Name, h.ModTime, h.ModTime)
}

// owner prefers names over numbers, as tar does.
func (a *archiver) owner(h *tar.Header) (uid, gid int) {
	uid, gid = h.Uid, h.Gid
	if u, ok := a.users.find(h.Uname); ok && h.Uname != "" {
		uid = int(u.id)
	}
	if g, ok := a.groups.find(h.Gname); ok && h.Gname != "" {
		gid = int(g.id)
	}
	return uid, gid
}

// list prints a member, long like ls -l with details. When the archive itself
// goes to standard output the names go to standard error.
func (a *archiver) list(h *tar.Header, details bool) {
	text := h.Name
	if details {
		mode := []byte(modeString(goMode(uint32(h.Mode))))
		mode[0] = map[byte]byte{
			tar.TypeDir: 'd', tar.TypeSymlink: 'l', tar.TypeLink: 'h', tar.TypeFifo: 'p', tar.TypeChar: 'c', tar.TypeBlock: 'b',
		}[h.Typeflag]
		if mode[0] == 0 {
			mode[0] = '-'
		}
		owner := nameOrNumber(h.Uname, h.Uid) + "/" + nameOrNumber(h.Gname, h.Gid)
		text = fmt.Sprintf("%s %s %*d %s %s", mode, owner, max(1, 18-len(owner)), h.Size, h.ModTime.Format("2006-01-02 15:04"), h.Name)
		switch h.Typeflag {
		case tar.TypeSymlink:
			text += " -> " + h.Linkname
		case tar.TypeLink:
			text += " link to " + h.Linkname
		}
	}
	fmt.Fprintln(a.listWriter(), text)
}

func (a *archiver) listWriter() io.Writer {
	if a.toOut || a.archiveToOut {
		return a.c.err
	}
	return a.c.out
}

func nameOrNumber(name string, id int) string {
	if name != "" {
		return name
	}
	return fmt.Sprint(id)
}
