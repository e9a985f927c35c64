package disk

import "encoding/binary"

// superblock encodes the copy for one group (Documentation/filesystems/ext4/super.rst).
func (w *Writer) superblock(l *layout, groupNr uint16) []byte {
	le := binary.LittleEndian
	p := make([]byte, superSize)
	var freeBlocks, freeInodes int64
	for i := range l.groups {
		freeBlocks += l.groups[i].freeBlocks
		freeInodes += l.groups[i].freeInodes
	}
	created := w.created.sec

	le.PutUint32(p[0x00:], uint32(l.perGroup*int64(len(l.groups))))
	le.PutUint32(p[0x04:], uint32(l.total))
	le.PutUint32(p[0x0C:], uint32(freeBlocks))
	le.PutUint32(p[0x10:], uint32(freeInodes))
	le.PutUint32(p[0x18:], 2) // block size: 1024 << 2
	le.PutUint32(p[0x1C:], 2) // cluster size
	le.PutUint32(p[0x20:], blocksPerGroup)
	le.PutUint32(p[0x24:], blocksPerGroup)
	le.PutUint32(p[0x28:], uint32(l.perGroup))
	le.PutUint32(p[0x30:], uint32(created)) // written
	le.PutUint16(p[0x36:], 0xFFFF)          // no check after so many mounts
	le.PutUint16(p[0x38:], superMagic)
	le.PutUint16(p[0x3A:], 1)               // unmounted cleanly
	le.PutUint16(p[0x3C:], 1)               // on errors: continue
	le.PutUint32(p[0x40:], uint32(created)) // checked
	le.PutUint32(p[0x4C:], 1)               // revision with features
	le.PutUint32(p[0x54:], firstIno)
	le.PutUint16(p[0x58:], inodeSize)
	le.PutUint16(p[0x5A:], groupNr)
	le.PutUint32(p[0x5C:], w.compatFeatures())
	le.PutUint32(p[0x60:], incompatFiletype|incompatExtents|incompatFlexBG)
	le.PutUint32(p[0x64:], roSparseSuper|roLargeFile|roHugeFile|roDirNlink|roExtraIsize|roMetadataCsum)
	copy(p[0x68:], w.o.UUID[:])
	copy(p[0x78:0x88], w.o.Label)
	copy(p[0xEC:], w.hashSeed[:])
	p[0xFC] = hashHalfMD4
	if n := w.inodes[journalIno-1]; n != nil {
		le.PutUint32(p[0xE0:], journalIno)
		p[0xFD] = 1 // the copy below is one of i_block
		copy(p[0x10C:], n.block[:])
		le.PutUint32(p[0x148:], uint32(n.size>>32))
		le.PutUint32(p[0x14C:], uint32(n.size))
	}
	le.PutUint32(p[0x100:], 0x0C) // mount with user_xattr and acl
	le.PutUint32(p[0x108:], uint32(created))
	le.PutUint16(p[0x15C:], extraISize)
	le.PutUint16(p[0x15E:], extraISize)
	le.PutUint32(p[0x160:], 2) // names are hashed as unsigned bytes
	p[0x174] = 4               // groups in a flex group: 1 << 4
	p[0x175] = 1               // checksums are CRC-32C
	for _, at := range []int{0x274, 0x276, 0x277} {
		p[at] = byte(created >> 32) // s_wtime_hi, s_mkfs_time_hi, s_lastcheck_hi
	}
	le.PutUint32(p[0x3FC:], crcUpdate(^uint32(0), p[:0x3FC]))
	return p
}

func (w *Writer) compatFeatures() uint32 {
	f := uint32(compatExtAttr | compatDirIndex)
	if w.inodes[journalIno-1] != nil {
		f |= compatHasJournal
	}
	return f
}
