package disk

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// super is what a reader keeps of a superblock, every field checked against the others.
type super struct {
	blockSize      int64
	blocks         int64
	firstBlock     int64 // of group 0: 1 with blocks of 1 KiB
	blocksPerGroup int64
	groups         int64
	inodes         int64
	inodesPerGroup int64
	inodeSize      int64
	descSize       int64
	firstMetaBG    int64
	backupGroups   [2]int64 // sparse_super2

	freeBlocks, freeInodes int64
	compat, incompat, ro   uint32
	uuid                   [16]byte
	label                  string
	journalIno             uint32
	firstIno               uint32
	seed                   uint32
	checksums              bool // metadata_csum
	filetype, is64b        bool
}

// readableIncompat are the features that change how an image is read and are known here.
const readableIncompat = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents |
	incompat64Bit | incompatMMP | incompatFlexBG | incompatCsumSeed | incompatLargeDir | incompatCasefold

// parseSuper checks a superblock; size is that of the image.
func parseSuper(p []byte, size int64, verify bool) (*super, error) {
	le := binary.LittleEndian
	if le.Uint16(p[0x38:]) != superMagic {
		return nil, ErrNotExt4
	}
	s := &super{
		compat:     le.Uint32(p[0x5C:]),
		incompat:   le.Uint32(p[0x60:]),
		ro:         le.Uint32(p[0x64:]),
		journalIno: le.Uint32(p[0xE0:]),
		firstIno:   firstIno,
		inodeSize:  128,
		descSize:   descSize,
	}
	if le.Uint32(p[0x4C:]) == 0 { // revision 0 has none of these fields
		s.compat, s.incompat, s.ro, s.journalIno = 0, 0, 0, 0
	} else {
		s.firstIno = le.Uint32(p[0x54:])
		s.inodeSize = int64(le.Uint16(p[0x58:]))
	}
	if bad := s.incompat &^ readableIncompat; bad != 0 {
		return nil, unsupported("features %v", featureNames(0, bad, 0))
	}
	if s.ro&roBigalloc != 0 {
		return nil, unsupported("feature bigalloc")
	}
	s.checksums = s.ro&roMetadataCsum != 0
	s.filetype = s.incompat&incompatFiletype != 0
	s.is64b = s.incompat&incompat64Bit != 0
	if s.checksums && verify && le.Uint32(p[0x3FC:]) != crcUpdate(^uint32(0), p[:0x3FC]) {
		return nil, corrupt("superblock checksum")
	}
	copy(s.uuid[:], p[0x68:])
	label, _, _ := bytes.Cut(p[0x78:0x88], []byte{0})
	s.label = string(label)
	s.seed = crcUpdate(^uint32(0), s.uuid[:])
	if s.incompat&incompatCsumSeed != 0 {
		s.seed = le.Uint32(p[0x270:])
	}
	return s, s.parseGeometry(p, size)
}

func (s *super) parseGeometry(p []byte, size int64) error {
	le := binary.LittleEndian
	log := le.Uint32(p[0x18:])
	if log > 6 {
		return corrupt("block size 2^%d", 10+uint64(log))
	}
	s.blockSize = 1024 << log
	s.blocks = int64(le.Uint32(p[0x04:]))
	s.freeBlocks = int64(le.Uint32(p[0x0C:]))
	if s.is64b {
		s.blocks |= int64(le.Uint32(p[0x150:])) << 32
		s.freeBlocks |= int64(le.Uint32(p[0x158:])) << 32
		s.descSize = int64(le.Uint16(p[0xFE:]))
	}
	s.inodes = int64(le.Uint32(p[0x00:]))
	s.freeInodes = int64(le.Uint32(p[0x10:]))
	s.firstBlock = int64(le.Uint32(p[0x14:]))
	s.blocksPerGroup = int64(le.Uint32(p[0x20:]))
	s.inodesPerGroup = int64(le.Uint32(p[0x28:]))
	s.firstMetaBG = int64(le.Uint32(p[0x104:]))
	s.backupGroups = [2]int64{int64(le.Uint32(p[0x24C:])), int64(le.Uint32(p[0x250:]))}

	wantFirst := int64(0)
	if s.blockSize == 1024 {
		wantFirst = 1
	}
	switch {
	case s.firstBlock != wantFirst:
		return corrupt("first block %d", s.firstBlock)
	case s.blocks <= s.firstBlock || s.blocks > size/s.blockSize:
		return corrupt("%d blocks of %d bytes in an image of %d bytes", s.blocks, s.blockSize, size)
	case s.inodeSize < 128 || s.inodeSize > s.blockSize || s.inodeSize&(s.inodeSize-1) != 0:
		return corrupt("inode size %d", s.inodeSize)
	case s.descSize < descSize || s.descSize > 1024 || s.descSize&(s.descSize-1) != 0, s.is64b && s.descSize < 64:
		return corrupt("group descriptor size %d", s.descSize)
	case s.blocksPerGroup < 8 || s.blocksPerGroup > 8*s.blockSize:
		return corrupt("%d blocks per group", s.blocksPerGroup)
	case s.inodesPerGroup < 1 || s.inodesPerGroup > 8*s.blockSize:
		return corrupt("%d inodes per group", s.inodesPerGroup)
	case s.firstIno < firstIno && s.firstIno != 0 || int64(s.firstIno) > s.inodes:
		return corrupt("first inode %d", s.firstIno)
	}
	s.groups = ceilDiv(s.blocks-s.firstBlock, s.blocksPerGroup)
	if s.inodes > s.groups*s.inodesPerGroup || s.inodes < rootIno {
		return corrupt("%d inodes in %d groups of %d", s.inodes, s.groups, s.inodesPerGroup)
	}
	if s.freeBlocks < 0 || s.freeBlocks > s.blocks || s.freeInodes > s.inodes {
		return corrupt("more blocks or inodes free than there are")
	}
	return nil
}

// descAt gives the byte offset of a group's descriptor.
func (s *super) descAt(group int64) int64 {
	perBlock := s.blockSize / s.descSize
	nr, within := group/perBlock, group%perBlock*s.descSize
	if s.incompat&incompatMetaBG == 0 || nr < s.firstMetaBG {
		return (s.firstBlock+1+nr)*s.blockSize + within
	}
	first := nr * perBlock // group in whose first blocks the descriptors are
	block := s.firstBlock + first*s.blocksPerGroup
	if s.groupHasSuper(first) {
		block++
	}
	return block*s.blockSize + within
}

func (s *super) groupHasSuper(group int64) bool {
	switch {
	case group == 0:
		return true
	case s.compat&compatSparseSuper2 != 0:
		return group == s.backupGroups[0] || group == s.backupGroups[1]
	case s.ro&roSparseSuper == 0:
		return true
	}
	return hasSuper(group)
}

// feature is a bit and its name in mke2fs(8).
type feature struct {
	bit  uint32
	name string
}

// featureNames names the bits of the three feature words, sorted; "?" marks unknown ones.
func featureNames(compat, incompat, ro uint32) []string {
	var names []string
	collect := func(word uint32, known []feature) {
		for _, f := range known {
			if word&f.bit != 0 {
				names = append(names, f.name)
				word &^= f.bit
			}
		}
		if word != 0 {
			names = append(names, "?")
		}
	}
	collect(compat, []feature{
		{compatDirPrealloc, "dir_prealloc"},
		{compatHasJournal, "has_journal"},
		{compatExtAttr, "ext_attr"},
		{compatResizeInode, "resize_inode"},
		{compatDirIndex, "dir_index"},
		{compatSparseSuper2, "sparse_super2"},
		{compatOrphanFile, "orphan_file"},
	})
	collect(incompat, []feature{
		{incompatCompression, "compression"},
		{incompatFiletype, "filetype"},
		{incompatRecover, "needs_recovery"},
		{incompatJournalDev, "journal_dev"},
		{incompatMetaBG, "meta_bg"},
		{incompatExtents, "extent"},
		{incompat64Bit, "64bit"},
		{incompatMMP, "mmp"},
		{incompatFlexBG, "flex_bg"},
		{incompatEAInode, "ea_inode"},
		{incompatDirData, "dirdata"},
		{incompatCsumSeed, "metadata_csum_seed"},
		{incompatLargeDir, "large_dir"},
		{incompatInlineData, "inline_data"},
		{incompatEncrypt, "encrypt"},
		{incompatCasefold, "casefold"},
	})
	collect(ro, []feature{
		{roSparseSuper, "sparse_super"},
		{roLargeFile, "large_file"},
		{roBtreeDir, "btree_dir"},
		{roHugeFile, "huge_file"},
		{roGDTCsum, "uninit_bg"},
		{roDirNlink, "dir_nlink"},
		{roExtraIsize, "extra_isize"},
		{roQuota, "quota"},
		{roBigalloc, "bigalloc"},
		{roMetadataCsum, "metadata_csum"},
		{roReadonly, "read-only"},
		{roProject, "project"},
		{roVerity, "verity"},
		{roOrphanPresent, "orphan_present"},
	})
	slices.Sort(names)
	return names
}
