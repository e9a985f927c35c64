package disk

import "encoding/binary"

// extent maps n blocks of a file from logical on to the image's blocks from start on.
type extent struct{ logical, start, n uint32 }

// extentList collects the extents of one file in ascending order.
type extentList struct{ all []extent }

// add appends a mapping, joining it to the last one where they touch.
func (l *extentList) add(logical, start, n int64) {
	if k := len(l.all) - 1; k >= 0 {
		last := &l.all[k]
		if int64(last.logical)+int64(last.n) == logical && int64(last.start)+int64(last.n) == start {
			more := min(n, maxExtentLen-int64(last.n))
			last.n += uint32(more)
			logical, start, n = logical+more, start+more, n-more
		}
	}
	for n > 0 {
		part := min(n, maxExtentLen)
		l.all = append(l.all, extent{uint32(logical), uint32(start), uint32(part)})
		logical, start, n = logical+part, start+part, n-part
	}
}

// extentHeader writes the 12 bytes that start each node of an extent tree.
func extentHeader(p []byte, entries, room, depth int) {
	le := binary.LittleEndian
	le.PutUint16(p[0:], extentMagic)
	le.PutUint16(p[2:], uint16(entries))
	le.PutUint16(p[4:], uint16(room))
	le.PutUint16(p[6:], uint16(depth))
}

func encodeExtents(p []byte, list []extent) {
	le := binary.LittleEndian
	for i, e := range list {
		at := p[12+12*i:]
		le.PutUint32(at[0:], e.logical)
		le.PutUint16(at[4:], uint16(e.n))
		le.PutUint32(at[8:], e.start) // the high 16 bits at 6 stay 0 without 64bit
	}
}

func encodeIndexes(p []byte, list []extent) {
	le := binary.LittleEndian
	for i, e := range list {
		at := p[12+12*i:]
		le.PutUint32(at[0:], e.logical)
		le.PutUint32(at[4:], e.start)
	}
}

// mapBlocks makes n use the extents: in the inode if there are four or fewer, else in a
// tree of blocks that are written at once.
func (w *Writer) mapBlocks(ino uint32, n *inode, l *extentList) error {
	n.flags |= flagExtents
	for _, e := range l.all {
		n.blocks += int64(e.n)
	}
	seed := inodeSeed(w.seed, ino, 0)
	level, encode := l.all, encodeExtents
	depth := 0
	for ; len(level) > extentsInInode; depth++ {
		var above []extent
		for len(level) > 0 {
			k := min(len(level), extentsInBlock)
			at, err := w.allocOne()
			if err != nil {
				return err
			}
			var p [blockSize]byte
			extentHeader(p[:], k, extentsInBlock, depth)
			encode(p[:], level[:k])
			tail := 12 + 12*extentsInBlock
			binary.LittleEndian.PutUint32(p[tail:], crcUpdate(seed, p[:tail]))
			if err := w.out.write(at, p[:]); err != nil {
				return err
			}
			n.blocks++
			above = append(above, extent{logical: level[0].logical, start: uint32(at)})
			level = level[k:]
		}
		level, encode = above, encodeIndexes
	}
	extentHeader(n.block[:], len(level), extentsInInode, depth)
	encode(n.block[:], level)
	return nil
}
