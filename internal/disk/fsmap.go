package disk

import (
	"encoding/binary"
	"slices"
	"sort"
	"sync"
)

// piece is where n blocks of a file from logical on are; start 0 is a hole.
type piece struct{ logical, start, n int64 }

// mapper finds the blocks of one file. It remembers the last leaf of the extent tree, so
// that reading on costs one step per extent.
type mapper struct {
	mu   sync.Mutex // of readers of an open file
	f    *FS
	n    *diskInode
	leaf []piece
	low  int64 // the leaf speaks for blocks from low
	high int64 // to below high
}

func (f *FS) mapper(n *diskInode) *mapper { return &mapper{f: f, n: n} }

// maxLogical is the end of the block numbers in a file.
const maxLogical = 1 << 32

// find returns the piece that begins at a block of the file; its n may be shorter than
// possible.
func (m *mapper) find(logical int64) (piece, error) {
	if logical >= maxLogical {
		return piece{}, corrupt("inode %d: block %d of a file", m.n.ino, logical)
	}
	if m.n.flags&flagExtents == 0 {
		return m.findIndirect(logical)
	}
	if logical < m.low || logical >= m.high {
		if err := m.descend(logical); err != nil {
			return piece{}, err
		}
	}
	i := sort.Search(len(m.leaf), func(i int) bool { return m.leaf[i].logical+m.leaf[i].n > logical })
	if i == len(m.leaf) {
		return piece{logical, 0, m.high - logical}, nil
	}
	p := m.leaf[i]
	if p.logical > logical {
		return piece{logical, 0, p.logical - logical}, nil
	}
	skip := logical - p.logical
	p.logical, p.n = logical, p.n-skip
	if p.start != 0 {
		p.start += skip
	}
	return p, nil
}

// descend loads the leaf for a block. Depth falls by one with each step, so there are no
// loops, and each node may only speak for the range that its parent gives it.
func (m *mapper) descend(logical int64) error {
	p, room := m.n.block[:], extentsInInode
	low, high := int64(0), int64(maxLogical)
	depth := int(binary.LittleEndian.Uint16(p[6:]))
	if depth > 5 {
		return corrupt("inode %d: extent tree of depth %d", m.n.ino, depth)
	}
	for {
		entries, err := m.node(p, room, depth)
		if err != nil {
			return err
		}
		if depth == 0 {
			m.leaf, err = m.parseLeaf(entries, low, high)
			m.low, m.high = low, high
			return err
		}
		child, childLow, childHigh, err := m.step(entries, logical, low, high)
		if err != nil {
			return err
		}
		low, high = childLow, childHigh
		if child == 0 {
			m.leaf, m.low, m.high = nil, low, high
			return nil
		}
		if p, err = m.f.block(child); err != nil {
			return err
		}
		room = int(m.f.s.blockSize-12) / 12
		depth--
		if err := m.checkNode(p); err != nil {
			return err
		}
	}
}

// node checks the header of a node and returns the bytes of its entries.
func (m *mapper) node(p []byte, room, depth int) ([]byte, error) {
	le := binary.LittleEndian
	entries, most := int(le.Uint16(p[2:])), int(le.Uint16(p[4:]))
	if le.Uint16(p) != extentMagic || most > room || entries > most || int(le.Uint16(p[6:])) != depth {
		return nil, corrupt("inode %d: extent node header % x", m.n.ino, p[:8])
	}
	return p[12 : 12+12*entries], nil
}

// checkNode verifies the checksum behind the entries of a node in a block.
func (m *mapper) checkNode(p []byte) error {
	s := m.f.s
	if !s.checksums || !m.f.verify {
		return nil
	}
	tail := 12 + 12*int(binary.LittleEndian.Uint16(p[4:]))
	if tail+4 > len(p) ||
		binary.LittleEndian.Uint32(p[tail:]) != crcUpdate(inodeSeed(s.seed, m.n.ino, m.n.generation), p[:tail]) {
		return corrupt("inode %d: checksum of an extent node", m.n.ino)
	}
	return nil
}

// step picks the child of an index node; child 0 means that nothing is mapped there.
func (m *mapper) step(entries []byte, logical, low, high int64) (child, childLow, childHigh int64, err error) {
	le := binary.LittleEndian
	last := int64(-1)
	for p := entries; len(p) > 0; p = p[12:] {
		first := int64(le.Uint32(p))
		if first <= last || first < low || first >= high {
			return 0, 0, 0, corrupt("inode %d: extent index out of order", m.n.ino)
		}
		last = first
		if first > logical {
			return child, low, first, nil
		}
		low = first
		child = int64(le.Uint32(p[4:])) | int64(le.Uint16(p[8:]))<<32
		if child == 0 {
			return 0, 0, 0, corrupt("inode %d: extent index to block 0", m.n.ino)
		}
	}
	return child, low, high, nil
}

func (m *mapper) parseLeaf(entries []byte, low, high int64) ([]piece, error) {
	le := binary.LittleEndian
	leaf := make([]piece, 0, len(entries)/12)
	for p := entries; len(p) > 0; p = p[12:] {
		e := piece{
			logical: int64(le.Uint32(p)),
			n:       int64(le.Uint16(p[4:])),
			start:   int64(le.Uint32(p[8:])) | int64(le.Uint16(p[6:]))<<32,
		}
		unwritten := e.n > maxExtentLen
		if unwritten {
			e.n -= maxExtentLen
		}
		if e.n == 0 || e.logical < low || e.logical+e.n > high ||
			e.start <= m.f.s.firstBlock || e.start+e.n > m.f.s.blocks {
			return nil, corrupt("inode %d: extent %d+%d at block %d", m.n.ino, e.logical, e.n, e.start)
		}
		low = e.logical + e.n
		if unwritten {
			e.start = 0 // allocated, and reads as zeros
		}
		leaf = append(leaf, e)
	}
	return slices.Clip(leaf), nil
}

// findIndirect reads the block map of ext2 and ext3: 12 blocks, then trees of one, two and
// three levels.
func (m *mapper) findIndirect(logical int64) (piece, error) {
	le := binary.LittleEndian
	per := m.f.s.blockSize / 4
	p, index, below := m.n.block[:], logical, int64(1)
	levels := 0
	if logical >= 12 {
		rest, span := logical-12, per
		for levels = 1; rest >= span; levels++ {
			if levels == 3 {
				return piece{}, corrupt("inode %d: block %d of a file", m.n.ino, logical)
			}
			rest, span = rest-span, span*per
		}
		p, index, below = m.n.block[4*(11+levels):][:4], rest, span
	}
	for ; levels > 0; levels-- {
		next := int64(le.Uint32(p[index/below*4:]))
		index %= below
		if next == 0 {
			return piece{logical, 0, below - index}, nil
		}
		var err error
		if p, err = m.f.block(next); err != nil {
			return piece{}, err
		}
		below /= per
	}
	if logical < 12 {
		p = p[:48]
	}
	start := int64(le.Uint32(p[index*4:]))
	n := int64(1)
	for at := index + 1; at*4 < int64(len(p)); at, n = at+1, n+1 {
		next := int64(le.Uint32(p[at*4:]))
		if start == 0 && next != 0 || start != 0 && next != start+n {
			break
		}
	}
	if start != 0 && (start <= m.f.s.firstBlock || start+n > m.f.s.blocks) {
		return piece{}, corrupt("inode %d: block %d", m.n.ino, start)
	}
	return piece{logical, start, n}, nil
}
