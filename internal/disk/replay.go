package disk

import (
	"encoding/binary"
	"slices"
)

// The journal's format is in Documentation/filesystems/ext4/journal.rst; all is big-endian.
const (
	journalDescriptor = 1
	journalCommit     = 2
	journalRevoke     = 5

	journalIncompatRevoke = 0x01
	journalIncompat64Bit  = 0x02
	journalIncompatAsync  = 0x04
	journalIncompatCsumV2 = 0x08
	journalIncompatCsumV3 = 0x10

	maxJournalBlocks = 1 << 20 // mke2fs makes at most a quarter of it by itself
	maxRevoked       = 1 << 22

	tagEscaped  = 1
	tagSameUUID = 2
	tagLast     = 8
)

// replayed is a block of the image whose newest content is in the journal.
type replayed struct {
	block   int64
	escaped bool // it begins with the journal's magic number, stored as zeros
}

// restoreMagic undoes the escaping in p, which was read from a block at skip.
func restoreMagic(p []byte, skip int64) {
	if skip < 4 {
		var magic [4]byte
		binary.BigEndian.PutUint32(magic[:], journalMagic)
		copy(p, magic[skip:])
	}
}

// journal is a scan of a journal in progress.
type journal struct {
	f        *FS
	m        *mapper
	first    int64 // block where the log begins, and begins again after the last
	end      int64
	incompat uint32
	seed     uint32
	checked  bool // blocks have checksums
	seq      uint32
	tags     []journalTag       // of finished transactions
	pending  []journalTag       // of the current one
	revoked  map[int64]uint32   // by block: the last transaction that took it back
	revoking map[int64]struct{} // of the current one
}

type journalTag struct {
	block   int64 // of the image
	at      int64 // of the journal
	seq     uint32
	sum     uint32
	escaped bool
}

// replayJournal reads the journal and remembers which blocks have newer content there.
func (f *FS) replayJournal() error {
	j, start, err := f.openJournal()
	if err != nil || start == 0 {
		return err
	}
	if err := j.scan(start); err != nil {
		return err
	}
	replay := map[int64]replayed{}
	for _, t := range j.tags {
		if last, ok := j.revoked[t.block]; ok && int32(last-t.seq) >= 0 {
			continue
		}
		p, at, err := j.block(t.at)
		if err != nil {
			return err
		}
		if !j.tagOK(t, p) {
			return corrupt("checksum of journal block %d", t.at)
		}
		replay[t.block] = replayed{at, t.escaped}
	}
	f.replay = replay
	f.cache, f.order, f.last = map[int64][]byte{}, nil, nil
	return f.rereadSuper()
}

// rereadSuper takes the superblock that the journal may have brought.
func (f *FS) rereadSuper() error {
	p := make([]byte, superSize)
	bs := f.s.blockSize
	if err := f.readBlocks(p, superOffset/bs, superOffset%bs); err != nil {
		return err
	}
	s, err := parseSuper(p, f.size, f.verify)
	if err != nil {
		return err
	}
	if s.blockSize != bs {
		return corrupt("the journal changes the block size")
	}
	s.incompat |= incompatRecover
	f.s = s
	return nil
}

// openJournal reads the journal's superblock; start 0 means that there is nothing in it.
func (f *FS) openJournal() (j *journal, start int64, err error) {
	if f.s.compat&compatHasJournal == 0 || f.s.journalIno == 0 {
		return nil, 0, unsupported("a journal on another device")
	}
	n, err := f.inode(f.s.journalIno)
	if err != nil {
		return nil, 0, err
	}
	j = &journal{f: f, m: f.mapper(n), revoked: map[int64]uint32{}, revoking: map[int64]struct{}{}}
	p, _, err := j.block(0)
	if err != nil {
		return nil, 0, err
	}
	be := binary.BigEndian
	if kind := be.Uint32(p[4:]); be.Uint32(p) != journalMagic || kind != 3 && kind != journalSuperV2 {
		return nil, 0, corrupt("no journal superblock")
	} else if kind == journalSuperV2 {
		j.incompat = be.Uint32(p[0x28:])
	}
	if bad := j.incompat &^ (journalIncompatRevoke | journalIncompat64Bit | journalIncompatAsync |
		journalIncompatCsumV2 | journalIncompatCsumV3); bad != 0 {
		return nil, 0, unsupported("journal features %#x", bad)
	}
	j.first, j.end, start = int64(be.Uint32(p[0x14:])), int64(be.Uint32(p[0x10:])), int64(be.Uint32(p[0x1C:]))
	j.seq = be.Uint32(p[0x18:])
	j.seed = crcUpdate(^uint32(0), p[0x30:0x40])
	j.checked = f.verify && j.incompat&(journalIncompatCsumV2|journalIncompatCsumV3) != 0
	switch {
	case int64(be.Uint32(p[0x0C:])) != f.s.blockSize:
		return nil, 0, corrupt("journal block size")
	case j.end > n.size/f.s.blockSize || j.first < 1 || j.first >= j.end:
		return nil, 0, corrupt("journal of %d blocks from %d", j.end, j.first)
	case j.end > maxJournalBlocks || j.end > f.s.blocks:
		return nil, 0, unsupported("journal of %d blocks", j.end)
	case start != 0 && (start < j.first || start >= j.end):
		return nil, 0, corrupt("journal starts at %d", start)
	case j.checked && !sumOK(^uint32(0), p[:superSize], 0xFC):
		return nil, 0, corrupt("checksum of the journal superblock")
	}
	return j, start, nil
}

// block reads a block of the journal and says where it is in the image.
func (j *journal) block(nr int64) ([]byte, int64, error) {
	at, err := j.m.find(nr)
	if err != nil {
		return nil, 0, err
	}
	if at.start == 0 {
		return nil, 0, corrupt("hole in the journal")
	}
	p := make([]byte, j.f.s.blockSize)
	return p, at.start, j.f.readFull(p, at.start*j.f.s.blockSize)
}

// sumOK verifies a checksum that is in the block itself, where it counts as zero.
func sumOK(seed uint32, p []byte, at int) bool {
	c := crcUpdate32(crcUpdate(seed, p[:at]), 0)
	return crcUpdate(c, p[at+4:]) == binary.BigEndian.Uint32(p[at:])
}

// scan follows the log from start to its end: the first block that does not belong, or
// whose checksum says that it was not written whole. It takes each block once at most.
func (j *journal) scan(start int64) error {
	at := start
	next := func() int64 {
		at++
		if at == j.end {
			at = j.first
		}
		return at
	}
	for left := j.end - j.first; left > 0; left-- {
		p, _, err := j.block(at)
		if err != nil {
			return err
		}
		be := binary.BigEndian
		if be.Uint32(p) != journalMagic || be.Uint32(p[8:]) != j.seq {
			return nil
		}
		switch be.Uint32(p[4:]) {
		case journalDescriptor:
			if j.checked && !sumOK(j.seed, p, len(p)-4) {
				return nil
			}
			tags, err := j.parseTags(p)
			if err != nil {
				return err
			}
			for i := range tags {
				tags[i].at = next()
			}
			left -= int64(len(tags))
			j.pending = append(j.pending, tags...)
		case journalRevoke:
			if j.checked && !sumOK(j.seed, p, len(p)-4) {
				return nil
			}
			if err := j.parseRevoke(p); err != nil {
				return err
			}
		case journalCommit:
			if j.checked && !sumOK(j.seed, p, 16) {
				return nil
			}
			j.commit()
		default:
			return nil
		}
		next()
	}
	return nil
}

// commit makes the current transaction count.
func (j *journal) commit() {
	j.tags = append(j.tags, j.pending...)
	for block := range j.revoking {
		j.revoked[block] = j.seq
	}
	j.pending = j.pending[:0]
	clear(j.revoking)
	j.seq++
}

// parseTags reads a descriptor block: which blocks follow.
func (j *journal) parseTags(p []byte) ([]journalTag, error) {
	be := binary.BigEndian
	v3 := j.incompat&journalIncompatCsumV3 != 0
	size := 12
	switch {
	case v3:
		size = 16
	case j.incompat&journalIncompatCsumV2 != 0:
		size = 14
	}
	if !v3 && j.incompat&journalIncompat64Bit == 0 {
		size -= 4
	}
	if j.incompat&(journalIncompatCsumV2|journalIncompatCsumV3) != 0 {
		p = p[:len(p)-4]
	}
	var tags []journalTag
	for p = p[12:]; len(p) >= size; {
		t := journalTag{block: int64(be.Uint32(p)), seq: j.seq}
		flags := uint32(be.Uint16(p[6:]))
		if v3 {
			flags, t.sum = be.Uint32(p[4:]), be.Uint32(p[12:])
		} else {
			t.sum = uint32(be.Uint16(p[4:]))
		}
		if j.incompat&journalIncompat64Bit != 0 {
			t.block |= int64(be.Uint32(p[8:])) << 32
		}
		if t.block < 0 || t.block >= j.f.s.blocks {
			return nil, corrupt("journal block for block %d of %d", t.block, j.f.s.blocks)
		}
		t.escaped = flags&tagEscaped != 0
		tags = append(tags, t)
		p = p[size:]
		if flags&tagSameUUID == 0 {
			p = p[min(16, len(p)):]
		}
		if flags&tagLast != 0 {
			break
		}
	}
	return slices.Clip(tags), nil
}

// parseRevoke reads which blocks of this and earlier transactions are void.
func (j *journal) parseRevoke(p []byte) error {
	be := binary.BigEndian
	used := int64(be.Uint32(p[12:]))
	if used < 16 || used > int64(len(p)) {
		return corrupt("journal revoke block with %d bytes", used)
	}
	size := 4
	if j.incompat&journalIncompat64Bit != 0 {
		size = 8
	}
	for p = p[16:used]; len(p) >= size; p = p[size:] {
		block := int64(be.Uint32(p))
		if size == 8 {
			block = int64(be.Uint64(p))
		}
		if block < 0 || block >= j.f.s.blocks {
			return corrupt("journal revokes block %d of %d", block, j.f.s.blocks)
		}
		j.revoking[block] = struct{}{}
		if len(j.revoking)+len(j.revoked) > maxRevoked {
			return unsupported("a journal with more than %d revoked blocks", maxRevoked)
		}
	}
	return nil
}

// tagOK verifies the checksum of a journalled block.
func (j *journal) tagOK(t journalTag, p []byte) bool {
	if !j.checked {
		return true
	}
	var seq [4]byte
	binary.BigEndian.PutUint32(seq[:], t.seq)
	sum := crcUpdate(crcUpdate(j.seed, seq[:]), p)
	if j.incompat&journalIncompatCsumV3 == 0 {
		sum &= 0xFFFF
	}
	return sum == t.sum
}
