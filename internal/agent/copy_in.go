//go:build unix

package agent

import (
	"archive/tar"
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
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// tarEnd is how many zero bytes end a tar, tar(5).
const tarEnd = 1024

// unpacker unpacks a tar below dir, which nothing in the tar can leave: every path goes
// through os.Root. A file is either the old or the new one at any moment, because it is
// written beside and renamed.
type unpacker struct {
	dir   *os.Root
	root  bool // this process may set owners
	files int
	bytes int64
	left  leftOut
	dirs  []*tar.Header // folders that get their times and modes when they are full
}

// Remedies of a copy that the guest did not take.
const (
	remedyTar    = "send one whole, uncompressed tar: tar c FILES | mvmctl cp - NAME:FOLDER"
	remedyPlace  = "see what is in its way: mvmctl exec NAME -- ls -la FOLDER; df says whether there is space"
	remedyLeaves = "pack it with names and links that stay within the folder"
)

func newUnpacker(dir *os.Root) *unpacker { return &unpacker{dir: dir, root: os.Geteuid() == 0} }

// run unpacks all of r.
func (u *unpacker) run(r io.Reader) *agentproto.Error {
	tail := &tailReader{r: r}
	tr := tar.NewReader(tail)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return agentproto.Errorf(agentproto.CodeCopy, remedyTar, "reading the tar: %v", err)
		}
		if err := u.entry(h, tr); err != nil {
			if ours := (*agentproto.Error)(nil); errors.As(err, &ours) {
				return ours
			}
			return agentproto.Errorf(agentproto.CodeCopy, remedyPlace, "%.1000s: %v", h.Name, cause(err))
		}
	}
	// Padding may follow. A tar that was cut between two entries reads like a whole one but
	// for its missing end mark.
	_, _ = io.CopyN(io.Discard, tail, 1<<20)
	if tail.zeros < tarEnd {
		return agentproto.Errorf(agentproto.CodeCopy, remedyTar, "the tar is cut: it has no end mark")
	}
	for _, v := range slices.Backward(u.dirs) {
		if err := u.finishDir(v); err != nil {
			return agentproto.Errorf(agentproto.CodeCopy, remedyPlace, "%.1000s: %v", v.Name, cause(err))
		}
	}
	return nil
}

// entry unpacks one entry.
func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name := path.Clean(h.Name)
	if !filepath.IsLocal(name) || strings.IndexByte(name, 0) >= 0 {
		return agentproto.Errorf(agentproto.CodePath, remedyLeaves, "the tar's entry %.1000q would leave its folder", h.Name)
	}
	if name == "." {
		return nil // the folder itself exists and stays as it is
	}
	if parent := path.Dir(name); parent != "." {
		if err := u.dir.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(name, h, content)
	case tar.TypeDir:
		return u.folder(name, h)
	case tar.TypeSymlink:
		return u.symlink(name, h)
	case tar.TypeLink:
		return u.link(name, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		u.left.add(h.Name, whySpecial)
		return nil
	case tar.TypeXGlobalHeader:
		return nil
	default:
		u.left.add(h.Name, fmt.Sprintf("entries of type %q are not copied", h.Typeflag))
		return nil
	}
}

// beside returns a free name in name's folder.
func beside(name string) string {
	return path.Join(path.Dir(name), ".mvm-copy-"+rand.Text())
}

func (u *unpacker) file(name string, h *tar.Header, content io.Reader) error {
	tmp := beside(name)
	f, err := u.dir.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, content)
	if err == nil {
		err = u.attributes(f, h)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = u.dir.Chtimes(tmp, h.ModTime, h.ModTime)
	}
	if err == nil {
		err = u.dir.Rename(tmp, name)
	}
	if err != nil {
		_ = u.dir.Remove(tmp)
		return err
	}
	u.files++
	u.bytes += n
	return nil
}

// attributes sets owner, mode and extended attributes, in the order in which none undoes
// another: a change of owner clears set-id bits and capabilities.
func (u *unpacker) attributes(f *os.File, h *tar.Header) error {
	if u.root {
		if err := f.Chown(h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(fileMode(h.Mode)); err != nil {
		return err
	}
	return writeXattrs(f, h.PAXRecords)
}

// specialBits are the mode bits that Go has elsewhere than the kernel and a tar.
func specialBits() map[fs.FileMode]int64 {
	return map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000}
}

func fileMode(bits int64) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	for flag, bit := range specialBits() {
		if bits&bit != 0 {
			m |= flag
		}
	}
	return m
}

// folder makes a folder, or takes one that is there.
func (u *unpacker) folder(name string, h *tar.Header) error {
	err := u.dir.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		st, serr := u.dir.Stat(name)
		if serr != nil {
			return serr
		}
		if !st.IsDir() {
			return syscall.ENOTDIR
		}
		err = nil
	}
	if err != nil {
		return err
	}
	u.files++
	late := *h
	late.Name = name
	if len(u.dirs) < maxTracked {
		u.dirs = append(u.dirs, &late)
		return nil
	}
	return u.finishDir(&late) // its times will be off if more comes into it
}

func (u *unpacker) finishDir(h *tar.Header) error {
	f, err := u.dir.Open(h.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := u.attributes(f, h); err != nil {
		return err
	}
	return u.dir.Chtimes(h.Name, h.ModTime, h.ModTime)
}

func (u *unpacker) symlink(name string, h *tar.Header) error {
	tmp := beside(name)
	// The target is kept as it is: nothing here ever follows it out of dir.
	if err := u.dir.Symlink(h.Linkname, tmp); err != nil {
		return err
	}
	var err error
	if u.root {
		err = u.dir.Lchown(tmp, h.Uid, h.Gid)
	}
	if err == nil {
		err = u.linkTimes(tmp, h.ModTime)
	}
	if err == nil {
		err = u.dir.Rename(tmp, name)
	}
	if err != nil {
		_ = u.dir.Remove(tmp)
		return err
	}
	u.files++
	return nil
}

// linkTimes sets the times of a symbolic link itself, which os.Root cannot.
func (u *unpacker) linkTimes(name string, t time.Time) error {
	parent, err := u.dir.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return nil // a time that the kernel has no number for
	}
	return unix.UtimesNanoAt(int(parent.Fd()), path.Base(name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// link makes a hard link to another file below dir.
func (u *unpacker) link(name string, h *tar.Header) error {
	target := path.Clean(h.Linkname)
	if !filepath.IsLocal(target) {
		return agentproto.Errorf(agentproto.CodePath, remedyLeaves, "the tar's link %.500q to %.500q would leave its folder", h.Name, h.Linkname)
	}
	tmp := beside(name)
	if err := u.dir.Link(target, tmp); err != nil {
		return err
	}
	err := u.dir.Rename(tmp, name)
	// Between two names of one file rename(2) does nothing, and says that it worked.
	_ = u.dir.Remove(tmp)
	if err == nil {
		u.files++
	}
	return err
}

// tailReader counts the zero bytes at the end of what was read.
type tailReader struct {
	r     io.Reader
	zeros int
}

func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n > 0 {
		i := n
		for i > 0 && n-i < tarEnd && p[i-1] == 0 {
			i--
		}
		if i == 0 {
			t.zeros += n
		} else {
			t.zeros = n - i
		}
	}
	return n, err
}
