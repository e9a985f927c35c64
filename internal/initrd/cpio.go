package initrd

import (
	"errors"
	"fmt"
	"io"
	"strconv"
)

const (
	magic      = "070701" // "newc"
	headerSize = 110
	trailer    = "TRAILER!!!"
	// The archive is padded to whole pages: a VMM may put it at the end of the guest's memory, and the
	// kernel frees it by pages.
	blockSize = 4096

	maxNameLen = 4096    // PATH_MAX; the kernel refuses longer ones
	maxEntries = 100_000 // in what we read
)

// File types in Entry.Mode (inode(7)).
const (
	modeDir     = 0o040000
	modeChar    = 0o020000
	modeRegular = 0o100000
	modeSymlink = 0o120000
)

// Entry is one member's header.
type Entry struct {
	Name  string // without a leading slash
	Mode  uint32 // type and permissions, as in inode(7)
	Size  int64  // bytes of content; a symlink's content is its target
	Major uint32 // of a device
	Minor uint32
}

// writer writes an archive. Owner, times and inode numbers do not depend on where or when.
type writer struct {
	w   io.Writer
	n   int64 // bytes written
	ino uint32
}

// header writes an entry's header and name.
func (w *writer) header(e Entry) error {
	if e.Size < 0 || e.Size > 1<<32-1 {
		return fmt.Errorf("%s is too large for a cpio archive", e.Name)
	}
	w.ino++
	links := uint32(1)
	if e.Mode&modeDir != 0 && e.Mode&modeRegular == 0 {
		links = 2
	}
	ino := w.ino
	if e.Name == trailer {
		ino = 0
	}
	// ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
	// namesize, check
	fields := [13]uint32{
		ino, e.Mode, 0, 0, links, 0, uint32(e.Size), 0, 0, e.Major, e.Minor, uint32(len(e.Name) + 1), 0,
	}
	head := []byte(magic)
	for _, f := range fields {
		head = fmt.Appendf(head, "%08X", f)
	}
	head = append(head, e.Name...)
	head = append(head, 0)
	if err := w.write(head); err != nil {
		return err
	}
	return w.pad(4)
}

// file writes an entry with its content, which must have exactly e.Size bytes.
func (w *writer) file(e Entry, content io.Reader) error {
	if err := w.header(e); err != nil {
		return err
	}
	n, err := io.CopyN(w.w, content, e.Size)
	w.n += n
	if err != nil {
		return fmt.Errorf("copying %s: %w", e.Name, err)
	}
	return w.pad(4)
}

// close writes the end mark.
func (w *writer) close() error {
	if err := w.header(Entry{Name: trailer}); err != nil {
		return err
	}
	return w.pad(blockSize)
}

func (w *writer) write(b []byte) error {
	n, err := w.w.Write(b)
	w.n += int64(n)
	return err
}

func (w *writer) pad(unit int64) error {
	return w.write(make([]byte, (unit-w.n%unit)%unit))
}

// errFormat is what Walk reports for bytes that are no whole archive.
var errFormat = errors.New("not a whole newc archive")

// Walk reads the headers of an archive of size bytes and calls each, with a reader of the content
// when each wants it. It skips over content without reading it, and fails unless the archive ends
// with its end mark exactly where the file ends.
func Walk(r io.ReaderAt, size int64, each func(e Entry, content io.Reader) error) error {
	var off int64
	for range maxEntries {
		e, data, err := readHeader(r, off, size)
		if err != nil {
			return err
		}
		if e.Name == trailer {
			if end := alignUp(data, blockSize); end != size {
				return fmt.Errorf("%w: it ends at %d of %d bytes", errFormat, end, size)
			}
			return nil
		}
		if e.Size > size-data {
			return fmt.Errorf("%w: %q goes beyond the end", errFormat, e.Name)
		}
		if each != nil {
			if err := each(e, io.NewSectionReader(r, data, e.Size)); err != nil {
				return err
			}
		}
		off = alignUp(data+e.Size, 4)
	}
	return fmt.Errorf("%w: more than %d entries", errFormat, maxEntries)
}

// readHeader reads the header at off and returns where the entry's content begins.
func readHeader(r io.ReaderAt, off, size int64) (Entry, int64, error) {
	// One read gets header and name; names in our archives are short.
	buf := make([]byte, min(headerSize+128, max(size-off, 0)))
	if len(buf) < headerSize {
		return Entry{}, 0, fmt.Errorf("%w: no end mark", errFormat)
	}
	if _, err := r.ReadAt(buf, off); err != nil && !errors.Is(err, io.EOF) {
		return Entry{}, 0, fmt.Errorf("reading archive: %w", err)
	}
	if string(buf[:6]) != magic {
		return Entry{}, 0, fmt.Errorf("%w: bad magic at %d", errFormat, off)
	}
	var f [13]uint32
	for i := range f {
		v, err := strconv.ParseUint(string(buf[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			return Entry{}, 0, fmt.Errorf("%w: bad header at %d", errFormat, off)
		}
		f[i] = uint32(v)
	}
	nameLen := int64(f[11])
	if nameLen < 2 || nameLen > maxNameLen || nameLen > size-off-headerSize {
		return Entry{}, 0, fmt.Errorf("%w: a name of %d bytes at %d", errFormat, nameLen, off)
	}
	name := make([]byte, nameLen)
	if headerSize+nameLen <= int64(len(buf)) {
		copy(name, buf[headerSize:])
	} else if _, err := r.ReadAt(name, off+headerSize); err != nil {
		return Entry{}, 0, fmt.Errorf("reading archive: %w", err)
	}
	if name[nameLen-1] != 0 {
		return Entry{}, 0, fmt.Errorf("%w: an open name at %d", errFormat, off)
	}
	e := Entry{Name: string(name[:nameLen-1]), Mode: f[1], Size: int64(f[6]), Major: f[9], Minor: f[10]}
	data := alignUp(off+headerSize+nameLen, 4)
	if data > size {
		return Entry{}, 0, fmt.Errorf("%w: a header at the end", errFormat)
	}
	return e, data, nil
}

func alignUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
