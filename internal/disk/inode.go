package disk

import (
	"encoding/binary"
	"time"
)

// timestamp is a point in time as ext4 can hold it: 34 bits of seconds, 30 of nanoseconds.
type timestamp struct {
	sec  int64
	nsec uint32
}

// ext4 adds the two epoch bits, times 2^32, to a signed 32-bit number of seconds
// (Documentation/filesystems/ext4, "Inode Timestamps").
const (
	minSecond = -1 << 31
	maxSecond = 3<<32 + 1<<31 - 1
)

func makeTimestamp(t time.Time) timestamp {
	sec := t.Unix()
	switch {
	case sec < minSecond:
		return timestamp{sec: minSecond}
	case sec > maxSecond:
		return timestamp{sec: maxSecond}
	}
	return timestamp{sec, uint32(t.Nanosecond())}
}

// encode gives the classic 32-bit field and the extra field.
func (t timestamp) encode() (lo, extra uint32) {
	lo = uint32(t.sec)
	epoch := uint32((t.sec-int64(int32(lo)))>>32) & 3
	return lo, epoch | t.nsec<<2
}

func decodeTime(lo, extra uint32) time.Time {
	return time.Unix(int64(int32(lo))+int64(extra&3)<<32, int64(extra>>2)).UTC()
}

// inode is what a Writer remembers of an inode until the tables are written.
type inode struct {
	mode     uint16
	links    uint32
	uid, gid uint32
	size     int64
	blocks   int64 // of blockSize, with those of the extent tree and xattrs
	flags    uint32
	mtime    timestamp
	xattrAt  int64 // block of xattrs, or 0
	block    [60]byte
	xattrs   []byte // in the inode, or nil
}

func (n *inode) isDir() bool { return n.mode&modeType == modeDir }

// encode fills raw (inodeSize bytes of zeros), checksum included.
func (n *inode) encode(raw []byte, created timestamp, seed uint32) {
	le := binary.LittleEndian
	mtime, mtimeExtra := n.mtime.encode()
	crtime, crtimeExtra := created.encode()
	links := n.links
	if n.isDir() && links > maxLinks {
		links = 1 // dir_nlink: too many to count
	}
	sectors := n.blocks * (blockSize / 512)

	le.PutUint16(raw[0x00:], n.mode)
	le.PutUint16(raw[0x02:], uint16(n.uid))
	le.PutUint32(raw[0x04:], uint32(n.size))
	le.PutUint32(raw[0x08:], mtime) // atime
	le.PutUint32(raw[0x0C:], mtime) // ctime
	le.PutUint32(raw[0x10:], mtime)
	le.PutUint16(raw[0x18:], uint16(n.gid))
	le.PutUint16(raw[0x1A:], uint16(links))
	le.PutUint32(raw[0x1C:], uint32(sectors))
	le.PutUint32(raw[0x20:], n.flags)
	copy(raw[0x28:], n.block[:])
	le.PutUint32(raw[0x68:], uint32(n.xattrAt))
	le.PutUint32(raw[0x6C:], uint32(n.size>>32))
	le.PutUint16(raw[0x74:], uint16(sectors>>32))
	le.PutUint16(raw[0x78:], uint16(n.uid>>16))
	le.PutUint16(raw[0x7A:], uint16(n.gid>>16))
	le.PutUint16(raw[0x80:], extraISize)
	le.PutUint32(raw[0x84:], mtimeExtra)
	le.PutUint32(raw[0x88:], mtimeExtra)
	le.PutUint32(raw[0x8C:], mtimeExtra)
	le.PutUint32(raw[0x90:], crtime)
	le.PutUint32(raw[0x94:], crtimeExtra)
	copy(raw[inodeXattr:], n.xattrs)

	sum := inodeChecksum(seed, raw)
	le.PutUint16(raw[0x7C:], uint16(sum))
	le.PutUint16(raw[0x82:], uint16(sum>>16))
}

// encodeDevice puts a device number where the kernel looks for it: the old 16-bit form if
// it fits, else the new one (fs/ext4/inode.c, ext4_do_update_inode).
func encodeDevice(block *[60]byte, major, minor uint32) {
	if major < 256 && minor < 256 {
		binary.LittleEndian.PutUint32(block[0:], major<<8|minor)
		return
	}
	binary.LittleEndian.PutUint32(block[4:], minor&0xFF|major<<8|(minor&^0xFF)<<12)
}

func decodeDevice(block []byte) (major, minor uint32) {
	if old := binary.LittleEndian.Uint32(block[0:]); old != 0 {
		return old >> 8 & 0xFF, old & 0xFF
	}
	dev := binary.LittleEndian.Uint32(block[4:])
	return dev >> 8 & 0xFFF, dev&0xFF | dev>>12&0xFFF00
}
