package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// FS reads an ext4 (or ext2, ext3) image of unknown origin. All that the image says is
// checked before it is used; reading takes bounded memory, and time in proportion to what
// is read. If the journal of the image holds finished writes that are not yet in place
// (its machine was killed), they are honoured as mounting would, without touching the
// image. It is safe for concurrent use if the io.ReaderAt is.
type FS struct {
	r      io.ReaderAt
	size   int64
	s      *super
	verify bool
	replay map[int64]replayed // by block: where the journal has a newer one

	mu    sync.Mutex
	cache map[int64][]byte // of metadata blocks, by number
	order []int64          // of their arrival
	last  *dirListing      // read last by a path: the next path is likely in it too
}

// dirListing is a directory that was resolved and read.
type dirListing struct {
	path string
	list []dirEntry
}

// cachedBlocks is enough for the path through a few extent trees and directories.
const cachedBlocks = 64

// Open checks the superblock of an image of size bytes. The errors are ErrNotExt4,
// ErrUnsupported, ErrCorrupt and those of r.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	return open(r, size, true)
}

// open can leave checksums alone, which lets tests reach the code behind them.
func open(r io.ReaderAt, size int64, verify bool) (*FS, error) {
	f := &FS{r: r, size: size, verify: verify, cache: map[int64][]byte{}}
	if size < superOffset+superSize {
		return nil, fmt.Errorf("%w: only %d bytes", ErrNotExt4, size)
	}
	p := make([]byte, superSize)
	if err := f.readFull(p, superOffset); err != nil {
		return nil, err
	}
	s, err := parseSuper(p, size, verify)
	if err != nil {
		return nil, err
	}
	f.s = s
	if s.incompat&incompatRecover != 0 {
		if err := f.replayJournal(); err != nil {
			return nil, fmt.Errorf("reading journal: %w", err)
		}
	}
	return f, nil
}

// Info describes the image.
func (f *FS) Info() Info {
	s := f.s
	return Info{
		Label: s.label, UUID: s.uuid, BlockSize: s.blockSize,
		Blocks: s.blocks, FreeBlocks: s.freeBlocks, Inodes: s.inodes, FreeInodes: s.freeInodes,
		Features:    featureNames(s.compat, s.incompat, s.ro),
		HasJournal:  s.compat&compatHasJournal != 0,
		NeedsReplay: s.incompat&incompatRecover != 0,
	}
}

// readFull reads from the image itself, past any journal.
func (f *FS) readFull(p []byte, off int64) error {
	n, err := f.r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading image at byte %d: %w", off, err)
}

// readBlocks fills p, whole blocks or the beginning of one, from block on.
func (f *FS) readBlocks(p []byte, block, skip int64) error {
	if len(f.replay) == 0 {
		return f.readFull(p, block*f.s.blockSize+skip)
	}
	for len(p) > 0 {
		n := min(int64(len(p)), f.s.blockSize-skip)
		at, newer := f.replay[block]
		if !newer {
			at.block = block
		}
		if err := f.readFull(p[:n], at.block*f.s.blockSize+skip); err != nil {
			return err
		}
		if at.escaped {
			restoreMagic(p[:n], skip)
		}
		p, block, skip = p[n:], block+1, 0
	}
	return nil
}

// block returns a metadata block, not to be changed.
func (f *FS) block(nr int64) ([]byte, error) {
	if nr <= 0 && f.s.firstBlock > 0 || nr < 0 || nr >= f.s.blocks {
		return nil, corrupt("block %d of %d", nr, f.s.blocks)
	}
	f.mu.Lock()
	p, ok := f.cache[nr]
	f.mu.Unlock()
	if ok {
		return p, nil
	}
	p = make([]byte, f.s.blockSize)
	if err := f.readBlocks(p, nr, 0); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.cache[nr]; !ok {
		if len(f.order) >= cachedBlocks {
			delete(f.cache, f.order[0])
			f.order = f.order[1:]
		}
		f.cache[nr] = p
		f.order = append(f.order, nr)
	}
	return p, nil
}

// table returns the first block of a group's inode table.
func (f *FS) table(group int64) (int64, error) {
	s := f.s
	at := s.descAt(group)
	p, err := f.block(at / s.blockSize)
	if err != nil {
		return 0, err
	}
	p = p[at%s.blockSize:][:s.descSize]
	le := binary.LittleEndian
	if s.checksums && f.verify {
		if le.Uint16(p[0x1E:]) != descChecksum(s.seed, uint32(group), p) {
			return 0, corrupt("checksum of group descriptor %d", group)
		}
	}
	table := int64(le.Uint32(p[0x08:]))
	if s.is64b {
		table |= int64(le.Uint32(p[0x28:])) << 32
	}
	size := ceilDiv(s.inodesPerGroup*s.inodeSize, s.blockSize)
	if table <= s.firstBlock || table > s.blocks-size {
		return 0, corrupt("inode table of group %d at block %d", group, table)
	}
	return table, nil
}
