//go:build unix

package agent

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"
)

// packer writes files below root as a tar.
type packer struct {
	root  *os.Root
	tw    *tar.Writer
	links map[inode]string // names of files with several, for hard links
	left  leftOut
}

type inode struct{ dev, ino uint64 }

func newPacker(root *os.Root, w io.Writer) *packer {
	return &packer{root: root, tw: tar.NewWriter(w), links: map[inode]string{}}
}

func (p *packer) close() error { return p.tw.Close() }

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
		return p.tw.WriteHeader(h)
	default:
		p.left.add(name, "devices, sockets and FIFOs are not copied")
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
	if err := p.tw.WriteHeader(h); err != nil {
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
			return p.tw.WriteHeader(h)
		}
		if len(p.links) < maxTracked {
			p.links[id] = name
		}
	}
	h.Size = st.Size()
	h.PAXRecords = readXattrs(f)
	if err := p.tw.WriteHeader(h); err != nil {
		return err
	}
	return p.content(f, name, h.Size)
}

// content packs exactly size bytes, whatever happens to the file meanwhile.
func (p *packer) content(f *os.File, name string, size int64) error {
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
	for flag, bit := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return bits
}
