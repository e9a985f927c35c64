package disk

import (
	"fmt"
	"io"
	"io/fs"
)

// Open opens a regular file; symlinks are not followed. The reader is also an io.ReaderAt,
// an io.Seeker and has NextData. Holes read as zeros.
func (f *FS) Open(path string) (io.ReadCloser, Entry, error) {
	n, path, err := f.find("open", path)
	if err != nil {
		return nil, Entry{}, err
	}
	e, err := f.entry(path, n)
	if err != nil {
		return nil, Entry{}, err
	}
	if e.Type != TypeFile {
		return nil, Entry{}, &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("%w: a %v", fs.ErrInvalid, e.Type)}
	}
	m := f.mapper(n)
	return &openFile{SectionReader: io.NewSectionReader(mappedFile{m}, 0, n.size), m: m}, e, nil
}

// openFile is a regular file being read.
type openFile struct {
	*io.SectionReader
	m *mapper
}

// Close implements io.Closer.
func (o *openFile) Close() error { return nil }

// NextData returns the next stretch from off on that is not a hole, in bytes; io.EOF if
// there is none. It takes time for what it skips only in proportion to the extents there.
func (o *openFile) NextData(off int64) (start, end int64, err error) {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	bs := o.m.f.s.blockSize
	for off < o.Size() {
		p, err := o.m.find(off / bs)
		if err != nil {
			return 0, 0, err
		}
		end := min(o.Size(), (p.logical+p.n)*bs)
		if p.start != 0 {
			return off, end, nil
		}
		off = end
	}
	return 0, 0, io.EOF
}

type mappedFile struct{ m *mapper }

// ReadAt implements io.ReaderAt; the caller keeps within the file.
func (r mappedFile) ReadAt(p []byte, off int64) (int, error) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if err := r.m.f.readFile(r.m, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// readFile fills p with the bytes of a file from off on, whatever its size.
func (f *FS) readFile(m *mapper, p []byte, off int64) error {
	bs := f.s.blockSize
	for len(p) > 0 {
		at, err := m.find(off / bs)
		if err != nil {
			return err
		}
		skip := off % bs
		n := min(int64(len(p)), at.n*bs-skip)
		if at.start == 0 {
			clear(p[:n])
		} else if err := f.readBlocks(p[:n], at.start, skip); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}
