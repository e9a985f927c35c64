package disk

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Writer streams a file tree into an image. It is for one goroutine. After an error other
// than a refused entry the image is worthless and every further call returns that error.
type Writer struct {
	f        Image
	o        Options
	out      blockOut
	space    space
	created  timestamp
	hashSeed [16]byte
	seed     uint32 // of checksums, from the UUID
	journal  int64  // blocks of the journal
	descs    []byte // group descriptors
	root     *dir
	inodes   []*inode // by number - 1; nil for unused reserved ones and freed ones
	layer    uint16   // the present one, see StartLayer
	buf      []byte   // of file content
	zeros    []byte   // one block
	err      error
	closed   bool

	freed       freedBlocks
	freedInodes []uint32
}

// dir is a directory of the tree being written.
type dir struct {
	ino      uint32
	hidden   uint16 // the last layer that hid what earlier ones put here; nothing is before the first
	children map[string]child
}

type child struct {
	ino   uint32
	ft    uint8
	named bool   // of a directory: by an entry of its layer, not only on the way to one
	layer uint16 // that added it or, of a directory, changed something in it last
	dir   *dir   // of a directory
}

const (
	// fitBlocks is the most that an image of unknown size may have: what the blocks kept
	// for its group descriptors can describe.
	fitGDT    = 16
	fitBlocks = fitGDT * descsPerBlock * blocksPerGroup

	bytesPerInode = 16384
	minBlocks     = 16
)

// NewWriter starts an image in f, whose former content is dropped. The caller owns f.
func NewWriter(f Image, o Options) (*Writer, error) {
	w := &Writer{f: f, o: o, buf: make([]byte, blockOutSize), zeros: make([]byte, blockSize)}
	if err := w.checkOptions(); err != nil {
		return nil, fmt.Errorf("disk options: %w", err)
	}
	w.out.f = f
	w.identify()
	if o.Size == 0 {
		w.space = newSpace(fitBlocks, fitBlocks, fitGDT)
	} else {
		total := trimLastGroup(o.Size / blockSize)
		groups := ceilDiv(total, blocksPerGroup)
		tables := groups * 3 // at least two bitmaps and one block of inodes each
		w.space = newSpace(total, total-tables, ceilDiv(groups, descsPerBlock))
	}
	if err := errors.Join(f.Truncate(0), f.Truncate(o.Size)); err != nil {
		return nil, fmt.Errorf("sizing image: %w", err)
	}
	w.inodes = make([]*inode, firstIno-1)
	w.root = w.newDir(rootIno)
	w.inodes[rootIno-1] = w.newInode(Entry{Type: TypeDir, Mode: 0o755})
	if o.Journal {
		if err := w.startJournal(); err != nil {
			return nil, err
		}
		if err := w.Add(Entry{Path: "lost+found", Type: TypeDir, Mode: 0o700}, nil); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *Writer) checkOptions() error {
	o := w.o
	switch {
	case o.Size < 0 || o.Size%blockSize != 0:
		return fmt.Errorf("size %d is not a multiple of %d", o.Size, blockSize)
	case o.Size > maxBlocks*blockSize:
		return fmt.Errorf("size %d: ext4 without 64bit ends at 16 TiB", o.Size)
	case o.Size != 0 && o.Size < minBlocks*blockSize:
		return &FullError{What: "bytes", Needed: minBlocks * blockSize, Available: o.Size}
	case len(o.Label) > 16 || strings.Contains(o.Label, "\x00"):
		return fmt.Errorf("label %q has more than 16 bytes or a NUL", o.Label)
	case o.Inodes < 0 || int64(o.Inodes) > maxBlocks:
		return fmt.Errorf("%d inodes", o.Inodes)
	case o.Journal && o.Size == 0:
		return errors.New("a journal needs a size")
	}
	return nil
}

// identify fixes what others would draw by lot: UUID and hash seed.
func (w *Writer) identify() {
	if w.o.Time.IsZero() {
		w.o.Time = time.Unix(0, 0)
	}
	w.created = makeTimestamp(w.o.Time)
	if w.o.UUID == [16]byte{} {
		sum := sha256.Sum256([]byte("mvmctl disk uuid\x00" + w.o.Label))
		copy(w.o.UUID[:], sum[:])
		w.o.UUID[6] = w.o.UUID[6]&0x0F | 0x80 // version 8: made up (RFC 9562)
		w.o.UUID[8] = w.o.UUID[8]&0x3F | 0x80
	}
	sum := sha256.Sum256(append([]byte("mvmctl disk hash seed\x00"), w.o.UUID[:]...))
	copy(w.hashSeed[:], sum[:])
	w.seed = crcUpdate(^uint32(0), w.o.UUID[:])
}

// trimLastGroup leaves off a last group too small to be of use, as mke2fs does.
func trimLastGroup(total int64) int64 {
	groups := ceilDiv(total, blocksPerGroup)
	rest := total % blocksPerGroup
	overhead := int64(0)
	if hasSuper(groups - 1) {
		overhead = 1 + ceilDiv(groups, descsPerBlock)
	}
	if groups > 1 && rest > 0 && rest < overhead+50 {
		return total - rest
	}
	return total
}

func (w *Writer) newDir(ino uint32) *dir { return &dir{ino: ino, children: map[string]child{}} }

// newInode makes an inode from an entry's attributes but without content.
func (w *Writer) newInode(e Entry) *inode {
	_, mode := e.Type.codes()
	n := &inode{mode: mode, links: 1}
	w.setAttributes(n, e)
	return n
}

func (w *Writer) setAttributes(n *inode, e Entry) {
	n.mode = n.mode&modeType | e.Mode
	n.uid, n.gid = e.UID, e.GID
	n.mtime = w.created
	if !e.ModTime.IsZero() {
		n.mtime = makeTimestamp(e.ModTime)
	}
}

// codes gives the numbers for a type in directories and in inodes.
func (t Type) codes() (ft uint8, mode uint16) {
	switch t {
	case TypeFile:
		return ftFile, modeFile
	case TypeDir:
		return ftDir, modeDir
	case TypeSymlink:
		return ftSymlink, modeSymlink
	case TypeChar:
		return ftChar, modeChar
	case TypeBlock:
		return ftBlock, modeBlock
	case TypeFIFO:
		return ftFIFO, modeFIFO
	case TypeSocket:
		return ftSocket, modeSocket
	}
	return 0, 0
}

// Add puts one entry into the image; content is read for regular files only and must have
// exactly e.Size bytes (nil stands for none). Blocks of zeros become holes. Parents that
// are missing are made (0755, root's). A directory may be named again, and the attributes
// of the last time win; anything else that exists already is an error. A refused entry
// (bad path, existing name, impossible attribute) leaves the image as it was; after other
// errors the Writer is of no further use.
func (w *Writer) Add(e Entry, content io.Reader) error {
	return w.checkedAdd(e, content, false)
}

func (w *Writer) checkedAdd(e Entry, content io.Reader, replace bool) error {
	if w.err != nil {
		return w.err
	}
	if w.closed {
		return errors.New("disk: Add after Close")
	}
	if err := checkEntry(e, content); err != nil {
		return fmt.Errorf("adding %q: %w", e.Path, &refusedError{err})
	}
	if err := w.add(e, content, replace); err != nil {
		err = fmt.Errorf("adding %q: %w", e.Path, err)
		if !errors.Is(err, ErrRefused) {
			w.err = err
		}
		return err
	}
	return nil
}

func (w *Writer) add(e Entry, content io.Reader, replace bool) error {
	if isRoot(e.Path) {
		if e.Type != TypeDir {
			return refuse("the root is a directory")
		}
		return w.renameDir(w.root, e)
	}
	old, found, err := w.lookup(e.Path)
	switch {
	case err != nil:
		return err
	case found && e.Type == TypeDir && old.dir != nil:
		old.layer, old.named = w.layer, true
		w.insert(e.Path, old)
		return w.renameDir(old.dir, e)
	case found && !replace:
		return refuse("path is there already")
	case e.Type == TypeHardlink:
		return w.link(e, old, found)
	case found:
		if err := w.drop(old); err != nil {
			return err
		}
	}
	n := w.newInode(e)
	ino := w.newInodeNumber()
	if err := w.setXattrs(n, e.Xattrs); err != nil {
		return err
	}
	if err := w.fill(ino, n, e, content); err != nil {
		return err
	}
	w.inodes[ino-1] = n
	ft, _ := e.Type.codes()
	c := child{ino: ino, ft: ft, layer: w.layer}
	if e.Type == TypeDir {
		c.dir, c.named = w.newDir(ino), true
	}
	w.insert(e.Path, c)
	return nil
}

// insert gives an inode its name.
func (w *Writer) insert(path string, c child) {
	parent, base := w.parent(path)
	if len(base) < len(path) {
		base = strings.Clone(base) // not to keep the whole path in memory
	}
	parent.children[base] = c
}

// renameDir gives new attributes to a directory that exists.
func (w *Writer) renameDir(d *dir, e Entry) error {
	n := w.inodes[d.ino-1]
	w.setAttributes(n, e)
	n.xattrs, n.blocks = nil, 0
	if n.xattrAt != 0 {
		w.freed.put(run{n.xattrAt, 1})
		n.xattrAt = 0
	}
	return w.setXattrs(n, e.Xattrs)
}

// link adds another name for an entry that exists, in place of old if there is one.
func (w *Writer) link(e Entry, old child, replace bool) error {
	target, found, err := w.lookup(e.Target)
	switch {
	case err != nil:
		return err
	case !found || isRoot(e.Target):
		return refuse("hard link to %q, which is not there (yet)", e.Target)
	case target.dir != nil:
		return refuse("hard link to the directory %q", e.Target)
	}
	n := w.inodes[target.ino-1]
	if n.links >= maxLinks {
		return refuse("%q has %d names, the most that ext4 allows", e.Target, maxLinks)
	}
	n.links++ // first: the target may be below what goes
	if replace {
		if err := w.drop(old); err != nil {
			return err
		}
	}
	w.insert(e.Path, child{ino: target.ino, ft: target.ft, layer: w.layer})
	return nil
}

// lookup finds an entry; it is an error if something on the way is not a directory.
func (w *Writer) lookup(path string) (child, bool, error) {
	d := w.root
	for rest := path; ; {
		part, after, more := strings.Cut(rest, "/")
		c, ok := d.children[part]
		if !ok || !more {
			return c, ok, nil
		}
		if c.dir == nil {
			at := strings.TrimSuffix(path, "/"+after)
			return child{}, false, notDirectory(at)
		}
		d, rest = c.dir, after
	}
}

// parent returns the directory that path is in, made if missing, and path's last part.
// lookup has found no obstacle. The directories on the way belong to the present layer then.
func (w *Writer) parent(path string) (*dir, string) {
	d := w.root
	for rest := path; ; {
		part, after, more := strings.Cut(rest, "/")
		if !more {
			return d, part
		}
		c, ok := d.children[part]
		if !ok {
			ino := w.newInodeNumber()
			w.inodes[ino-1] = w.newInode(Entry{Type: TypeDir, Mode: 0o755})
			c = child{ino: ino, ft: ftDir, layer: w.layer, dir: w.newDir(ino)}
			d.children[strings.Clone(part)] = c
		} else if c.layer != w.layer {
			c.layer, c.named = w.layer, false
			d.children[part] = c
		}
		d, rest = c.dir, after
	}
}

// at returns the directory of a path that exists, and the path's last part.
func (w *Writer) at(path string) (*dir, string) {
	d := w.root
	for rest := path; ; {
		part, after, more := strings.Cut(rest, "/")
		if !more {
			return d, part
		}
		d, rest = d.children[part].dir, after
	}
}

// Inodes counts what the image has so far, directories that nobody named among it: the memory
// that a Writer takes is in proportion to it.
func (w *Writer) Inodes() int64 { return int64(len(w.inodes) - len(w.freedInodes)) }

func isRoot(path string) bool { return path == "" || path == "." }

// checkEntry refuses what could not be stored, before anything is touched.
func checkEntry(e Entry, content io.Reader) error {
	if !isRoot(e.Path) {
		if err := checkPath(e.Path); err != nil {
			return err
		}
	}
	if _, mode := e.Type.codes(); mode == 0 && e.Type != TypeHardlink {
		return fmt.Errorf("unknown type %d", e.Type)
	}
	if e.Mode&^0o7777 != 0 {
		return fmt.Errorf("mode %#o has more than permission bits", e.Mode)
	}
	if _, _, err := placeXattrs(e.Xattrs); err != nil {
		return err
	}
	switch e.Type {
	case TypeFile:
		if e.Size < 0 || e.Size > maxBlocks*blockSize {
			return fmt.Errorf("file of %d bytes", e.Size)
		}
		if content == nil && e.Size > 0 {
			return fmt.Errorf("file of %d bytes without content", e.Size)
		}
	case TypeSymlink:
		if e.Target == "" || len(e.Target) > maxTarget || strings.Contains(e.Target, "\x00") {
			return fmt.Errorf("symlink target is empty, longer than %d bytes or has a NUL", maxTarget)
		}
	case TypeHardlink:
		return checkPath(e.Target)
	case TypeChar, TypeBlock:
		if e.Major >= 1<<12 || e.Minor >= 1<<20 {
			return fmt.Errorf("device %d:%d: ext4 keeps 12 and 20 bits", e.Major, e.Minor)
		}
	}
	return nil
}

// checkPath accepts clean relative paths.
func checkPath(path string) error {
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case part == "" || part == "." || part == "..":
			return errors.New("path is not clean and relative")
		case len(part) > maxName:
			return fmt.Errorf("name of %d bytes, at most %d are possible", len(part), maxName)
		case strings.Contains(part, "\x00"):
			return errors.New("path has a NUL")
		}
	}
	return nil
}
