package disk

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// writeGroups counts, then writes the bitmaps that are not implied by BLOCK_UNINIT and
// INODE_UNINIT, and keeps the descriptors for writeSupers.
func (w *Writer) writeGroups(l *layout) error {
	w.countInodes(l)
	freeIn := freeByGroup(l.free)
	w.descs = make([]byte, l.gdt*blockSize)
	for i := range l.groups {
		sums, err := w.writeBitmaps(l, int64(i), freeIn[int64(i)])
		if err != nil {
			return err
		}
		w.encodeDesc(l, int64(i), sums)
	}
	return w.out.flush()
}

// countInodes fills in what the descriptors say about inodes.
func (w *Writer) countInodes(l *layout) {
	used := int64(len(w.inodes))
	for i := range l.groups {
		g := &l.groups[i]
		g.flags = bgInodeZeroed // the image was truncated: tables read as zeros
		g.unusedInodes = l.perGroup - min(l.perGroup, max(0, used-int64(i)*l.perGroup))
		g.freeInodes = g.unusedInodes
		if g.unusedInodes == l.perGroup {
			g.flags |= bgInodeUninit
		}
	}
	for i, n := range w.inodes {
		g := &l.groups[int64(i)/l.perGroup]
		switch {
		case n == nil && i+1 >= firstIno:
			g.freeInodes++
		case n != nil && n.isDir():
			g.dirs++
		}
	}
}

// freeByGroup cuts runs at group boundaries.
func freeByGroup(free []run) map[int64][]run {
	m := map[int64][]run{}
	for _, r := range free {
		for r.n > 0 {
			g := r.start / blocksPerGroup
			n := min(r.n, (g+1)*blocksPerGroup-r.start)
			m[g] = append(m[g], run{r.start, n})
			r.start, r.n = r.start+n, r.n-n
		}
	}
	return m
}

// writeBitmaps writes the bitmaps of one group and counts its free blocks.
func (w *Writer) writeBitmaps(l *layout, i int64, free []run) (sums [2]uint16, err error) {
	g := &l.groups[i]
	first := i * blocksPerGroup
	size := min(blocksPerGroup, l.total-first)
	last := int64(len(l.groups)) - 1
	super := int64(0)
	if hasSuper(i) {
		super = 1 + l.gdt
	}
	// The kernel knows the superblock copies of such a group and nothing else: the
	// tables are elsewhere. The last group is left out because of its odd size.
	if first >= w.space.next && i != 0 && i != last {
		g.flags |= bgBlockUninit
		g.freeBlocks = size - super
	} else {
		bm := newBitmap()
		bm.set(0, max(super, min(size, w.space.next-first)))
		for _, r := range free {
			bm.clear(r.start-first, r.n)
		}
		g.freeBlocks = size - bm.count()
		bm.set(size, blocksPerGroup-size)
		if sums[0], err = w.writeBitmap(g.blockBitmap, bm, blocksPerGroup); err != nil {
			return sums, err
		}
	}
	if g.flags&bgInodeUninit == 0 {
		bm := newBitmap()
		bm.set(0, l.perGroup-g.unusedInodes)
		bm.set(l.perGroup, maxGroupInodes-l.perGroup)
		for k := i * l.perGroup; k < min((i+1)*l.perGroup, int64(len(w.inodes))); k++ {
			if w.inodes[k] == nil && k+1 >= firstIno {
				bm.clear(k-i*l.perGroup, 1)
			}
		}
		if sums[1], err = w.writeBitmap(g.inodeBitmap, bm, l.perGroup); err != nil {
			return sums, err
		}
	}
	return sums, nil
}

// writeBitmap writes bm and gives the checksum of its first bits.
func (w *Writer) writeBitmap(at int64, bm bitmap, bits int64) (uint16, error) {
	if err := w.out.write(at, bm); err != nil {
		return 0, err
	}
	return uint16(crcUpdate(w.seed, bm[:bits/8])), nil
}

func (w *Writer) encodeDesc(l *layout, i int64, sums [2]uint16) {
	le := binary.LittleEndian
	g := &l.groups[i]
	p := w.descs[i*descSize:][:descSize]
	le.PutUint32(p[0x00:], uint32(g.blockBitmap))
	le.PutUint32(p[0x04:], uint32(g.inodeBitmap))
	le.PutUint32(p[0x08:], uint32(g.table))
	le.PutUint16(p[0x0C:], uint16(g.freeBlocks))
	le.PutUint16(p[0x0E:], uint16(g.freeInodes))
	le.PutUint16(p[0x10:], uint16(g.dirs))
	le.PutUint16(p[0x12:], g.flags)
	le.PutUint16(p[0x18:], sums[0])
	le.PutUint16(p[0x1A:], sums[1])
	le.PutUint16(p[0x1C:], uint16(g.unusedInodes))
	le.PutUint16(p[0x1E:], descChecksum(w.seed, uint32(i), p))
}

// writeSupers writes descriptors and superblocks, the first ones last: until then the image
// is not one.
func (w *Writer) writeSupers(l *layout) error {
	for i := int64(len(l.groups)) - 1; i >= 0; i-- {
		if !hasSuper(i) {
			continue
		}
		if err := w.out.write(i*blocksPerGroup+1, w.descs); err != nil {
			return err
		}
		if err := w.out.flush(); err != nil {
			return err
		}
		off := i * blocksPerGroup * blockSize
		if i == 0 {
			off = superOffset
		}
		if _, err := w.f.WriteAt(w.superblock(l, uint16(i)), off); err != nil {
			return fmt.Errorf("writing superblock: %w", err)
		}
	}
	return nil
}

// bitmap has a block of bits, the least significant of each byte first.
type bitmap []byte

func newBitmap() bitmap { return make(bitmap, blockSize) }

func (b bitmap) set(from, n int64) {
	for ; n > 0; from, n = from+1, n-1 {
		if from%8 == 0 && n >= 8 {
			b[from/8] = 0xFF
			from, n = from+7, n-7
			continue
		}
		b[from/8] |= 1 << (from % 8)
	}
}

func (b bitmap) clear(from, n int64) {
	for i := from; i < from+n; i++ {
		b[i/8] &^= 1 << (i % 8)
	}
}

func (b bitmap) count() int64 {
	n := 0
	for _, x := range b {
		n += bits.OnesCount8(x)
	}
	return int64(n)
}
