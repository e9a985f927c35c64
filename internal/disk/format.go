package disk

import (
	"encoding/binary"
	"hash/crc32"
)

// The geometry of the images that a Writer makes. Readers take it from the superblock.
const (
	blockSize      = 4096
	blocksPerGroup = 8 * blockSize // one bitmap block's worth
	inodeSize      = 256
	inodesPerBlock = blockSize / inodeSize
	maxGroupInodes = 8 * blockSize
	descSize       = 32 // without the 64bit feature
	descsPerBlock  = blockSize / descSize
	maxBlocks      = 1<<32 - 1 // block numbers have 32 bits without 64bit

	superOffset = 1024
	superSize   = 1024
	superMagic  = 0xEF53

	rootIno    = 2
	journalIno = 8
	firstIno   = 11 // the lower ones are reserved

	extraISize = 32   // bytes of an inode after the classic 128
	inodeXattr = 160  // where the xattrs in an inode start
	maxName    = 255  // bytes of one path component
	maxTarget  = 4095 // bytes of a symlink target: PATH_MAX without its NUL
	fastTarget = 59   // longest target kept in the inode
	maxLinks   = 65000
)

// s_feature_compat.
const (
	compatDirPrealloc  = 0x1
	compatHasJournal   = 0x4
	compatExtAttr      = 0x8
	compatResizeInode  = 0x10
	compatDirIndex     = 0x20
	compatSparseSuper2 = 0x200
	compatOrphanFile   = 0x1000
)

// s_feature_incompat.
const (
	incompatCompression = 0x1
	incompatFiletype    = 0x2
	incompatRecover     = 0x4
	incompatJournalDev  = 0x8
	incompatMetaBG      = 0x10
	incompatExtents     = 0x40
	incompat64Bit       = 0x80
	incompatMMP         = 0x100
	incompatFlexBG      = 0x200
	incompatEAInode     = 0x400
	incompatDirData     = 0x1000
	incompatCsumSeed    = 0x2000
	incompatLargeDir    = 0x4000
	incompatInlineData  = 0x8000
	incompatEncrypt     = 0x10000
	incompatCasefold    = 0x20000
)

// s_feature_ro_compat.
const (
	roSparseSuper   = 0x1
	roLargeFile     = 0x2
	roBtreeDir      = 0x4
	roHugeFile      = 0x8
	roGDTCsum       = 0x10
	roDirNlink      = 0x20
	roExtraIsize    = 0x40
	roQuota         = 0x100
	roBigalloc      = 0x200
	roMetadataCsum  = 0x400
	roReadonly      = 0x1000
	roProject       = 0x2000
	roVerity        = 0x8000
	roOrphanPresent = 0x10000
)

// i_flags.
const (
	flagIndex      = 0x1000
	flagExtents    = 0x80000
	flagEncrypt    = 0x800
	flagInlineData = 0x10000000
)

// i_mode file types.
const (
	modeFIFO    = 0x1000
	modeChar    = 0x2000
	modeDir     = 0x4000
	modeBlock   = 0x6000
	modeFile    = 0x8000
	modeSymlink = 0xA000
	modeSocket  = 0xC000
	modeType    = 0xF000
)

// bg_flags.
const (
	bgInodeUninit = 0x1
	bgBlockUninit = 0x2
	bgInodeZeroed = 0x4
)

const (
	extentMagic    = 0xF30A
	maxExtentLen   = 32768 // longer ones are "unwritten" ones of length - 32768
	extentsInInode = 4
	extentsInBlock = (blockSize - 12) / 12
)

// crcUpdate is the kernel's crc32c(): CRC-32C without the inversions at both ends.
func crcUpdate(crc uint32, p []byte) uint32 {
	return ^crc32.Update(^crc, crc32.MakeTable(crc32.Castagnoli), p)
}

// crcUpdate32 adds the little-endian form of v.
func crcUpdate32(crc, v uint32) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	return crcUpdate(crc, b[:])
}

// inodeSeed starts every checksum of something that belongs to one inode.
func inodeSeed(fsSeed, ino, generation uint32) uint32 {
	return crcUpdate32(crcUpdate32(fsSeed, ino), generation)
}

// inodeChecksum is the checksum of a whole raw inode; its own two fields count as zero.
func inodeChecksum(seed uint32, raw []byte) uint32 {
	var zero [2]byte
	c := crcUpdate(seed, raw[:0x7C])
	c = crcUpdate(c, zero[:])
	if len(raw) <= 128 {
		return crcUpdate(c, raw[0x7E:])
	}
	c = crcUpdate(c, raw[0x7E:0x82])
	c = crcUpdate(c, zero[:])
	return crcUpdate(c, raw[0x84:])
}

// descChecksum is the checksum of a group descriptor; its own field counts as zero.
func descChecksum(fsSeed, group uint32, raw []byte) uint16 {
	var zero [2]byte
	c := crcUpdate32(fsSeed, group)
	c = crcUpdate(c, raw[:0x1E])
	c = crcUpdate(c, zero[:])
	return uint16(crcUpdate(c, raw[0x20:]))
}

// xattrBlockChecksum is the checksum of an xattr block; its own field counts as zero.
func xattrBlockChecksum(fsSeed uint32, block uint64, raw []byte) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], block)
	c := crcUpdate(fsSeed, b[:])
	c = crcUpdate(c, raw[:0x10])
	c = crcUpdate32(c, 0)
	return crcUpdate(c, raw[0x14:])
}

// hasSuper reports whether a group begins with a copy of the superblock and the group
// descriptors under the sparse_super feature: 0, 1 and the powers of 3, 5 and 7.
func hasSuper(group int64) bool {
	if group <= 1 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }

func roundUp(a, b int64) int64 { return ceilDiv(a, b) * b }
