package disk

import "encoding/binary"

// Values of a directory entry's file_type.
const (
	ftFile    = 1
	ftDir     = 2
	ftChar    = 3
	ftBlock   = 4
	ftFIFO    = 5
	ftSocket  = 6
	ftSymlink = 7
	ftTail    = 0xDE // the checksum at the end of a block, dressed as an entry
)

const (
	dirTailSize  = 12
	dirBlockRoom = blockSize - dirTailSize
)

// name is an entry of a directory to be written.
type name struct {
	name string
	ino  uint32
	ft   uint8
}

func direntLen(nameLen int) int { return (8 + nameLen + 3) &^ 3 }

func putDirent(p []byte, n name, recLen int) {
	le := binary.LittleEndian
	le.PutUint32(p[0:], n.ino)
	le.PutUint16(p[4:], uint16(recLen))
	p[6] = uint8(len(n.name))
	p[7] = n.ft
	copy(p[8:], n.name)
}

// putDirTail writes the checksum entry of a block of plain entries.
func putDirTail(p []byte, seed uint32) {
	le := binary.LittleEndian
	t := p[dirBlockRoom:]
	le.PutUint16(t[4:], dirTailSize)
	t[7] = ftTail
	le.PutUint32(t[8:], crcUpdate(seed, p[:dirBlockRoom]))
}

// linearDir lays out entries one after another; none crosses a block.
func linearDir(names []name, seed uint32) []byte {
	var out []byte
	for len(names) > 0 {
		k, used := 0, 0
		for k < len(names) && used+direntLen(len(names[k].name)) <= dirBlockRoom {
			used += direntLen(len(names[k].name))
			k++
		}
		out = append(out, dirBlock(names[:k], seed)...)
		names = names[k:]
	}
	return out
}

// dirBlock makes one block of entries that are known to fit.
func dirBlock(names []name, seed uint32) []byte {
	p := make([]byte, blockSize)
	at := 0
	for i, n := range names {
		recLen := direntLen(len(n.name))
		if i == len(names)-1 {
			recLen = dirBlockRoom - at // the last one owns the rest
		}
		putDirent(p[at:], n, recLen)
		at += recLen
	}
	putDirTail(p, seed)
	return p
}
