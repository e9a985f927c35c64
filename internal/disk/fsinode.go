package disk

import (
	"encoding/binary"
	"strings"
	"time"
)

// diskInode is an inode as read.
type diskInode struct {
	ino        uint32
	mode       uint16
	uid, gid   uint32
	size       int64
	sectors    int64 // i_blocks, in its own unit
	links      uint16
	flags      uint32
	generation uint32
	xattrAt    int64
	mtime      time.Time
	block      [60]byte
	inside     []byte // room for xattrs in the inode
}

func (n *diskInode) isDir() bool { return n.mode&modeType == modeDir }

// entryType translates i_mode; false for an impossible one.
func (n *diskInode) entryType() (Type, bool) {
	for t := TypeFile; t <= TypeSocket; t++ {
		if _, mode := t.codes(); mode != 0 && mode == n.mode&modeType {
			return t, true
		}
	}
	return 0, false
}

// inode reads one inode.
func (f *FS) inode(ino uint32) (*diskInode, error) {
	s := f.s
	if ino == 0 || int64(ino) > s.inodes {
		return nil, corrupt("inode %d of %d", ino, s.inodes)
	}
	group, index := int64(ino-1)/s.inodesPerGroup, int64(ino-1)%s.inodesPerGroup
	table, err := f.table(group)
	if err != nil {
		return nil, err
	}
	at := index * s.inodeSize
	p, err := f.block(table + at/s.blockSize)
	if err != nil {
		return nil, err
	}
	return f.parseInode(ino, p[at%s.blockSize:][:s.inodeSize])
}

func (f *FS) parseInode(ino uint32, p []byte) (*diskInode, error) {
	le := binary.LittleEndian
	n := &diskInode{
		ino:        ino,
		mode:       le.Uint16(p[0x00:]),
		uid:        uint32(le.Uint16(p[0x02:])) | uint32(le.Uint16(p[0x78:]))<<16,
		gid:        uint32(le.Uint16(p[0x18:])) | uint32(le.Uint16(p[0x7A:]))<<16,
		size:       int64(le.Uint32(p[0x04:])),
		sectors:    int64(le.Uint32(p[0x1C:])) | int64(le.Uint16(p[0x74:]))<<32,
		links:      le.Uint16(p[0x1A:]),
		flags:      le.Uint32(p[0x20:]),
		generation: le.Uint32(p[0x64:]),
		xattrAt:    int64(le.Uint32(p[0x68:])),
	}
	copy(n.block[:], p[0x28:])
	if !n.isDir() || f.s.incompat&incompatLargeDir != 0 {
		n.size |= int64(le.Uint32(p[0x6C:])) << 32 // of old directories: something else
	}
	if f.s.is64b {
		n.xattrAt |= int64(le.Uint16(p[0x76:])) << 32
	}
	extra := int64(0)
	if len(p) > 128 {
		extra = int64(le.Uint16(p[0x80:]))
		if extra%4 != 0 || 128+extra > int64(len(p)) {
			return nil, corrupt("inode %d: %d extra bytes", ino, extra)
		}
		n.inside = p[128+extra:]
	}
	mtimeExtra := uint32(0)
	if extra >= 0x8C-0x80 {
		mtimeExtra = le.Uint32(p[0x88:])
	}
	n.mtime = decodeTime(le.Uint32(p[0x10:]), mtimeExtra)
	if err := f.checkInode(n, p, extra); err != nil {
		return nil, err
	}
	return n, nil
}

func (f *FS) checkInode(n *diskInode, p []byte, extra int64) error {
	le := binary.LittleEndian
	if f.s.checksums && f.verify {
		want := inodeChecksum(inodeSeed(f.s.seed, n.ino, n.generation), p)
		have := uint32(le.Uint16(p[0x7C:]))
		if extra < 4 {
			want &= 0xFFFF
		} else {
			have |= uint32(le.Uint16(p[0x82:])) << 16
		}
		if have != want {
			return corrupt("checksum of inode %d", n.ino)
		}
	}
	switch {
	case n.links == 0:
		return corrupt("inode %d is in use and has no links", n.ino)
	case n.size < 0:
		return corrupt("inode %d: size %d", n.ino, uint64(n.size))
	case n.flags&(flagInlineData|flagEncrypt) != 0:
		return unsupported("inode %d has inline or encrypted data", n.ino)
	}
	if _, ok := n.entryType(); !ok {
		return corrupt("inode %d: mode %#o", n.ino, n.mode)
	}
	return nil
}

// entry turns an inode into what callers see.
func (f *FS) entry(path string, n *diskInode) (Entry, error) {
	t, _ := n.entryType()
	e := Entry{Path: path, Type: t, Mode: n.mode & 0o7777, UID: n.uid, GID: n.gid, ModTime: n.mtime}
	var err error
	switch t {
	case TypeFile:
		e.Size = n.size
	case TypeSymlink:
		e.Size = n.size
		if e.Target, err = f.target(n); err != nil {
			return Entry{}, err
		}
	case TypeChar, TypeBlock:
		e.Major, e.Minor = decodeDevice(n.block[:])
	}
	e.Xattrs, err = f.xattrs(n)
	return e, err
}

// target reads a symlink.
func (f *FS) target(n *diskInode) (string, error) {
	if n.size < 1 || n.size > maxTarget {
		return "", corrupt("inode %d: symlink of %d bytes", n.ino, n.size)
	}
	own := n.sectors
	if n.xattrAt != 0 {
		own -= f.s.blockSize / 512
	}
	p := make([]byte, n.size)
	if n.flags&flagExtents == 0 && own <= 0 {
		if n.size > fastTarget {
			return "", corrupt("inode %d: symlink of %d bytes in the inode", n.ino, n.size)
		}
		copy(p, n.block[:])
	} else if err := f.readFile(f.mapper(n), p, 0); err != nil {
		return "", err
	}
	if strings.Contains(string(p), "\x00") {
		return "", corrupt("inode %d: NUL in a symlink", n.ino)
	}
	return string(p), nil
}

// xattrs reads the attributes in an inode and in its block; nil if there are none.
func (f *FS) xattrs(n *diskInode) (map[string][]byte, error) {
	out := map[string][]byte{}
	if len(n.inside) >= 4 && binary.LittleEndian.Uint32(n.inside) == xattrMagic {
		if err := decodeXattrs(n.inside[4:], 0, out); err != nil {
			return nil, err
		}
	}
	if n.xattrAt != 0 {
		p, err := f.block(n.xattrAt)
		if err != nil {
			return nil, err
		}
		le := binary.LittleEndian
		if le.Uint32(p) != xattrMagic || le.Uint32(p[8:]) != 1 {
			return nil, corrupt("inode %d: no xattrs in block %d", n.ino, n.xattrAt)
		}
		if f.s.checksums && f.verify &&
			le.Uint32(p[0x10:]) != xattrBlockChecksum(f.s.seed, uint64(n.xattrAt), p) {
			return nil, corrupt("checksum of xattr block %d", n.xattrAt)
		}
		if err := decodeXattrs(p, xattrBlockHeader, out); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}
