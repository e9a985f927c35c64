//go:build unix

package agent

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

const (
	smallFile  = 64 << 10 // bytes; a file that states no more is read before its size is told
	maxUnsized = 4 << 20  // bytes of a file that does not state its size; they are held in a guest's memory
)

var errUnsized = fmt.Errorf("it does not state its size truly and may hold more than %d MiB", maxUnsized>>20)

var errEndless = errors.New("it has no end: the kernel adds to it")

// whySpecial is why a file is left out that is none on a disk.
const whySpecial = "devices, sockets and FIFOs are not copied"

// packer writes files below root as a tar.
type packer struct {
	root  *os.Root
	tw    *tar.Writer
	links map[inode]string // names of files with several, for hard links
	buf   []byte           // for small files
	left  leftOut
	some  bool // something is in the tar
}

type inode struct{ dev, ino uint64 }

func newPacker(root *os.Root, w io.Writer) *packer {
	return &packer{root: root, tw: tar.NewWriter(w), links: map[inode]string{}}
}

// fit says why what was asked for by name cannot be copied at all; a tree leaves such things
// out and goes on.
func (p *packer) fit(at, name string) *agentproto.Error {
	st, err := p.root.Lstat(at)
	if err != nil {
		return pathError(name, err)
	}
	switch {
	case st.Mode()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket|fs.ModeIrregular) != 0:
		return agentproto.Errorf(agentproto.CodeCopy, "read or write it with mvmctl exec", "%.1000s: %s", name, whySpecial)
	case !st.IsDir() && strings.HasSuffix(name, "/."):
		return pathError(name, syscall.ENOTDIR)
	case !st.IsDir():
		return nil
	}
	f, err := p.root.Open(at)
	if err != nil {
		return pathError(name, err)
	}
	defer f.Close()
	if pseudo(f) {
		return agentproto.Errorf(agentproto.CodeCopy, "name one file in it", "%.1000s: a folder whose files the kernel makes up is not copied", name)
	}
	return nil
}

func (p *packer) close() error { return p.tw.Close() }

func (p *packer) header(h *tar.Header) error {
	p.some = true
	return p.tw.WriteHeader(h)
}

// missing is what was left out, nil when nothing was.
func (p *packer) missing() *agentproto.Error {
	e := p.left.err()
	if e != nil && !p.some {
		e.Remedy = "read it with mvmctl exec -- cat"
	}
	return e
}

// add packs the file at and what is below it under name. An error means that the tar cannot
// go on; what cannot be read is noted in p.left.
func (p *packer) add(at, name string) error {
	st, err := p.root.Lstat(at)
	if err != nil {
		p.skip(name, err)
		return nil
	}
	switch st.Mode().Type() {
	case 0:
		return p.file(at, name)
	case fs.ModeDir:
		return p.dir(at, name, st)
	case fs.ModeSymlink:
		target, err := p.root.Readlink(at)
		if err != nil {
			p.skip(name, err)
			return nil
		}
		h := header(st, name, tar.TypeSymlink)
		h.Linkname = target
		return p.header(h)
	default:
		p.left.add(name, whySpecial)
		return nil
	}
}

// skip notes a file that cannot be read. One that is gone was deleted meanwhile: no error,
// unless it is all that was asked for, which the caller has looked at before.
func (p *packer) skip(name string, err error) {
	if !errors.Is(err, fs.ErrNotExist) {
		p.left.add(name, cause(err).Error())
	}
}

func (p *packer) dir(at, name string, st fs.FileInfo) error {
	f, err := p.root.Open(at)
	if err != nil {
		p.skip(name, err)
		return nil
	}
	defer f.Close()
	h := header(st, name+"/", tar.TypeDir)
	h.PAXRecords = readXattrs(f)
	if err := p.header(h); err != nil {
		return err
	}
	if pseudo(f) {
		return nil // /proc and its like: no files of anybody's
	}
	for {
		entries, err := f.ReadDir(256)
		for _, e := range entries {
			if err := p.add(path.Join(at, e.Name()), path.Join(name, e.Name())); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			p.skip(name, err)
			return nil
		}
	}
}

func (p *packer) file(at, name string) error {
	// Non-blocking and checked again: the file may have become a FIFO meanwhile.
	f, err := p.root.OpenFile(at, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		p.skip(name, err)
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		p.left.add(name, "it changed while it was copied")
		return nil
	}
	h := header(st, name, tar.TypeReg)
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Nlink > 1 {
		id := inode{uint64(sys.Dev), uint64(sys.Ino)}
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return p.header(h)
		}
		if len(p.links) < maxTracked {
			p.links[id] = name
		}
	}
	head, size, err := p.measure(f, st.Size())
	if err != nil {
		p.left.add(name, cause(err).Error())
		return nil
	}
	h.Size = size
	h.PAXRecords = readXattrs(f)
	if err := p.header(h); err != nil {
		return err
	}
	return p.content(f, name, head, h.Size)
}

// measure returns how much of f goes into the tar, which has to say so first, and what has
// been read of it for that. The size that a file states is believed only when it is a large
// one on a disk: procfs states 0 and sysfs a page, whatever there is to read.
func (p *packer) measure(f *os.File, stated int64) (head [][]byte, size int64, err error) {
	madeUp := pseudo(f)
	switch {
	case stated > smallFile && !madeUp:
		return nil, stated, nil
	case stated > maxUnsized:
		return nil, 0, errUnsized
	}
	if p.buf == nil {
		p.buf = make([]byte, smallFile)
	}
	n, ended, err := readReady(f, p.buf)
	if err != nil {
		return nil, 0, err
	}
	head, size = [][]byte{p.buf[:n]}, int64(n)
	if ended || stated > 0 && !madeUp { // a file that grows is cut
		return head, size, nil
	}
	p.buf = nil
	for !ended {
		part := make([]byte, smallFile)
		if n, ended, err = readReady(f, part); err != nil {
			return nil, 0, err
		}
		if size += int64(n); size > maxUnsized {
			return nil, 0, errUnsized
		}
		head = append(head, part[:n])
	}
	return head, size, nil
}

// readReady fills p from f without ever waiting for more to come. ended says that there is no
// more. Some of the kernel's files have no end: where a reader would wait for the next message,
// that is errEndless.
func readReady(f *os.File, p []byte) (n int, ended bool, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	for n < len(p) && !ended && err == nil {
		rerr := rc.Read(func(fd uintptr) bool {
			var got int
			got, err = unix.Read(int(fd), p[n:])
			switch {
			case errors.Is(err, unix.EINTR):
				err = nil
			case errors.Is(err, unix.EAGAIN):
				err = errEndless
			case err == nil:
				n, ended = n+got, got == 0
			}
			return true
		})
		err = cmp.Or(err, rerr)
	}
	return n, ended, err
}

// content packs exactly size bytes, of which head has been read, whatever happens to the file
// meanwhile.
func (p *packer) content(f *os.File, name string, head [][]byte, size int64) error {
	for _, part := range head {
		if _, err := p.tw.Write(part); err != nil {
			return err
		}
	}
	if head != nil {
		return nil // all of it
	}
	src := &sourceReader{r: f}
	n, err := io.CopyN(p.tw, src, size)
	switch {
	case err == nil:
		return nil
	case src.err == nil:
		return err // the host is gone
	}
	p.left.add(name, "it changed or could not be read while it was copied; the rest of it is zeros")
	_, err = io.CopyN(p.tw, zeros{}, size-n)
	return err
}

// sourceReader remembers that the failure was the file's, io.EOF included.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// header is a tar header without names of users: numbers are what the file system has.
// (tar.FileInfoHeader would look the names up in this process's own passwd file.)
func header(st fs.FileInfo, name string, kind byte) *tar.Header {
	h := &tar.Header{
		Typeflag: kind, Name: name, Format: tar.FormatPAX,
		Mode: tarMode(st.Mode()), ModTime: st.ModTime().Round(time.Nanosecond),
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		h.Uid, h.Gid = int(sys.Uid), int(sys.Gid)
	}
	return h
}

func tarMode(m fs.FileMode) int64 {
	bits := int64(m.Perm())
	for flag, bit := range specialBits() {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return bits
}
