package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// allocOne hands out one block for metadata.
func (w *Writer) allocOne() (int64, error) {
	if at, ok := w.freed.take(1); ok {
		return at, nil
	}
	at, ok := w.space.takeWhole(1)
	if !ok {
		return 0, w.fullError(1)
	}
	return at, nil
}

// fullError says that n more blocks are needed and not there.
func (w *Writer) fullError(n int64) error {
	s := &w.space
	needed := max(s.next+n+s.total-s.limit, s.total+1) // a stretch too short does not help
	return &FullError{What: "bytes", Needed: needed * blockSize, Available: s.total * blockSize}
}

// fill gives a new inode its type's content.
func (w *Writer) fill(ino uint32, n *inode, e Entry, content io.Reader) error {
	switch e.Type {
	case TypeFile:
		n.size = e.Size
		l, err := w.writeContent(content, e.Size)
		if err != nil {
			return err
		}
		return w.mapBlocks(ino, n, l)
	case TypeSymlink:
		n.size = int64(len(e.Target))
		if len(e.Target) <= fastTarget {
			copy(n.block[:], e.Target)
			return nil
		}
		l := &extentList{}
		p := make([]byte, blockSize)
		copy(p, e.Target)
		if err := w.writeRun(l, 0, p); err != nil {
			return err
		}
		return w.mapBlocks(ino, n, l)
	case TypeChar, TypeBlock:
		encodeDevice(&n.block, e.Major, e.Minor)
	}
	return nil
}

// sparseReader is content that knows its holes, such as a file of an image that was opened.
type sparseReader interface {
	io.ReadSeeker
	NextData(off int64) (start, end int64, err error)
}

// writeContent copies exactly size bytes from r into the image.
func (w *Writer) writeContent(r io.Reader, size int64) (*extentList, error) {
	l := &extentList{}
	if size == 0 && r == nil {
		return l, nil
	}
	sparse, err := asSparse(r, size)
	if err != nil {
		return nil, err
	}
	for off := int64(0); off < size; {
		end := size
		if sparse != nil {
			var start int64
			start, end, err = sparse.NextData(off)
			if errors.Is(err, io.EOF) {
				start, end, err = size, size, nil
			}
			if err != nil {
				return nil, fmt.Errorf("reading content: %w", err)
			}
			off = max(off, start-start%blockSize)
			if end < size { // only whole blocks have a place
				end = min(size, roundUp(end, blockSize))
			}
			if _, err := sparse.Seek(off, io.SeekStart); err != nil {
				return nil, fmt.Errorf("reading content: %w", err)
			}
		}
		if err := w.copyContent(l, r, off, end); err != nil {
			return nil, err
		}
		off = end
	}
	var one [1]byte
	switch n, err := io.ReadFull(r, one[:]); {
	case n > 0:
		return nil, fmt.Errorf("reading content: it is longer than the %d bytes announced", size)
	case !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("reading content: %w", err)
	}
	return l, nil
}

// asSparse returns r as a sparseReader if it can skip holes; nil otherwise.
func asSparse(r io.Reader, size int64) (sparseReader, error) {
	s, ok := r.(sparseReader)
	if f, isFile := r.(*os.File); isFile && !ok {
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			return nil, nil
		}
		s, ok = SparseFile(f, info.Size()), true
	}
	if !ok {
		return nil, nil
	}
	at, err := s.Seek(0, io.SeekCurrent)
	if err != nil || at != 0 {
		return nil, nil // to be read from the middle: as a stream
	}
	end, err := s.Seek(0, io.SeekEnd)
	if err == nil && end != size {
		err = fmt.Errorf("it has %d bytes, %d were announced", end, size)
	}
	if err != nil {
		return nil, fmt.Errorf("reading content: %w", err)
	}
	_, err = s.Seek(0, io.SeekStart)
	return s, err
}

// HostFile is a file of the host whose holes Add skips, as it does for an *os.File; for those
// who put something of their own in between.
type HostFile struct {
	*os.File
	size int64
}

// SparseFile makes a HostFile of an open regular file of size bytes.
func SparseFile(f *os.File, size int64) HostFile { return HostFile{f, size} }

// NextData is as that of a file of an image, see FS.Open.
func (h HostFile) NextData(off int64) (start, end int64, err error) {
	return nextData(h.File, off, h.size)
}

// copyContent writes the bytes of a file from off (a multiple of the block size) to end.
func (w *Writer) copyContent(l *extentList, r io.Reader, off, end int64) error {
	for off < end {
		p := w.buf[:min(end-off, int64(len(w.buf)))]
		if _, err := io.ReadFull(r, p); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("reading content: at byte %d: %w", off, err)
		}
		padded := w.buf[:roundUp(int64(len(p)), blockSize)]
		clear(padded[len(p):])
		off += int64(len(p))
		err := w.writeSparse(l, (off-int64(len(p)))/blockSize, padded)
		if full, ok := errors.AsType[*FullError](err); ok {
			full.Needed += end - off // as if there were no more holes
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeSparse writes the blocks of p that are not all zeros.
func (w *Writer) writeSparse(l *extentList, logical int64, p []byte) error {
	isHole := func(i int) bool { return bytes.Equal(p[i:i+blockSize], w.zeros) }
	for i := 0; i < len(p); {
		if isHole(i) {
			i += blockSize
			continue
		}
		start := i
		for i < len(p) && !isHole(i) {
			i += blockSize
		}
		if err := w.writeRun(l, logical+int64(start/blockSize), p[start:i]); err != nil {
			return err
		}
	}
	return nil
}

// allocRun hands out up to n blocks: in one piece where something was before, else at the front,
// else in pieces of what is freed.
func (w *Writer) allocRun(n int64) (run, error) {
	if at, ok := w.freed.take(n); ok {
		return run{at, n}, nil
	}
	if r, ok := w.space.take(n); ok {
		return r, nil
	}
	for k := n / 2; k > 0; k /= 2 {
		if at, ok := w.freed.take(k); ok {
			return run{at, k}, nil
		}
	}
	return run{}, w.fullError(n)
}

// writeRun allocates and writes whole blocks.
func (w *Writer) writeRun(l *extentList, logical int64, p []byte) error {
	for len(p) > 0 {
		n := int64(len(p) / blockSize)
		r, err := w.allocRun(n)
		if err != nil {
			return err
		}
		if err := w.out.write(r.start, p[:r.n*blockSize]); err != nil {
			return err
		}
		l.add(logical, r.start, r.n)
		logical, p = logical+r.n, p[r.n*blockSize:]
	}
	return nil
}
