package disk

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The numbers that stand for the usual beginnings of names (fs/ext4/xattr.h). The two ACL
// names have nothing after their number.
const (
	xattrUser       = 1
	xattrACLAccess  = 2
	xattrACLDefault = 3
	xattrTrusted    = 4
	xattrSecurity   = 6
	xattrSystem     = 7

	nameACLAccess  = "system.posix_acl_access"
	nameACLDefault = "system.posix_acl_default"
)

const (
	xattrMagic       = 0xEA020000
	xattrBlockHeader = 32
	xattrEntrySize   = 16
	maxXattrValue    = blockSize
)

// xattr is one attribute in its form on disk.
type xattr struct {
	index uint8
	name  string // without the part that index stands for
	value []byte
}

func (x xattr) entryLen() int { return int(roundUp(int64(xattrEntrySize+len(x.name)), 4)) }
func (x xattr) valueLen() int { return int(roundUp(int64(len(x.value)), 4)) }

// hash is e_hash: of the name as unsigned bytes, then of the value in words
// (fs/ext4/xattr.c, ext4_xattr_hash_entry).
func (x xattr) hash() uint32 {
	var h uint32
	for i := range len(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(x.name[i])
	}
	v := make([]byte, x.valueLen())
	copy(v, x.value)
	for ; len(v) > 0; v = v[4:] {
		h = h<<16 ^ h>>16 ^ binary.LittleEndian.Uint32(v)
	}
	return h
}

// xattrPrefix gives the name that an index stands for; false for an unknown one.
func xattrPrefix(index uint8) (string, bool) {
	switch index {
	case xattrUser:
		return "user.", true
	case xattrACLAccess:
		return nameACLAccess, true
	case xattrACLDefault:
		return nameACLDefault, true
	case xattrTrusted:
		return "trusted.", true
	case xattrSecurity:
		return "security.", true
	case xattrSystem:
		return "system.", true
	}
	return "", false
}

// diskXattrs translates names and ACLs and sorts as an xattr block must be sorted.
func diskXattrs(attrs map[string][]byte) ([]xattr, error) {
	list := make([]xattr, 0, len(attrs))
	for _, full := range slices.Sorted(maps.Keys(attrs)) {
		x, err := diskXattr(full, attrs[full])
		if err != nil {
			return nil, fmt.Errorf("xattr %q: %w", full, err)
		}
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)),
			strings.Compare(a.name, b.name))
	})
	return list, nil
}

func diskXattr(full string, value []byte) (xattr, error) {
	if len(value) > maxXattrValue {
		return xattr{}, fmt.Errorf("value has %d bytes, at most %d are possible", len(value), maxXattrValue)
	}
	switch full {
	case nameACLAccess, nameACLDefault:
		acl, err := aclToDisk(value)
		if err != nil {
			return xattr{}, err
		}
		index := uint8(xattrACLAccess)
		if full == nameACLDefault {
			index = xattrACLDefault
		}
		return xattr{index: index, value: acl}, nil
	}
	for _, index := range []uint8{xattrUser, xattrTrusted, xattrSecurity, xattrSystem} {
		prefix, _ := xattrPrefix(index)
		name, ok := strings.CutPrefix(full, prefix)
		if !ok {
			continue
		}
		if name == "" || len(name) > maxName || strings.Contains(name, "\x00") {
			return xattr{}, fmt.Errorf("name is empty, longer than %d bytes or has a NUL", maxName)
		}
		return xattr{index, name, value}, nil
	}
	return xattr{}, fmt.Errorf("ext4 keeps user.*, trusted.*, security.* and system.* only")
}

// xattrInode is the room for entries and values in an inode, after the magic number.
const xattrInode = inodeSize - inodeXattr - 4

// placeXattrs divides attributes into those in the inode, as far as they fit, and those in
// a block.
func placeXattrs(attrs map[string][]byte) (inInode, inBlock []xattr, err error) {
	list, err := diskXattrs(attrs)
	if err != nil {
		return nil, nil, err
	}
	room, blockRoom := xattrInode-4, blockSize-xattrBlockHeader-4 // both end in a zero word
	for _, x := range list {
		need := x.entryLen() + x.valueLen()
		switch {
		case need <= room:
			inInode, room = append(inInode, x), room-need
		case need <= blockRoom:
			inBlock, blockRoom = append(inBlock, x), blockRoom-need
		default:
			return nil, nil, fmt.Errorf("xattrs do not fit in an inode and a block of %d bytes", blockSize)
		}
	}
	return inInode, inBlock, nil
}

// setXattrs gives n its attributes; a block of them is written at once.
func (w *Writer) setXattrs(n *inode, attrs map[string][]byte) error {
	inInode, inBlock, err := placeXattrs(attrs)
	if err != nil {
		return err
	}
	if len(inInode) > 0 {
		n.xattrs = make([]byte, 4+xattrInode)
		binary.LittleEndian.PutUint32(n.xattrs, xattrMagic)
		encodeXattrs(n.xattrs[4:], 0, inInode)
	}
	if len(inBlock) > 0 {
		return w.writeXattrBlock(n, inBlock)
	}
	return nil
}

func (w *Writer) writeXattrBlock(n *inode, list []xattr) error {
	at, err := w.allocOne()
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	p := make([]byte, blockSize)
	le.PutUint32(p[0x00:], xattrMagic)
	le.PutUint32(p[0x04:], 1) // users of the block
	le.PutUint32(p[0x08:], 1) // blocks
	var h uint32
	for _, x := range list {
		h = h<<16 ^ h>>16 ^ x.hash()
	}
	le.PutUint32(p[0x0C:], h)
	encodeXattrs(p, xattrBlockHeader, list)
	le.PutUint32(p[0x10:], xattrBlockChecksum(w.seed, uint64(at), p))
	n.xattrAt = at
	n.blocks++
	return w.out.write(at, p)
}

// encodeXattrs fills p with entries from first on and with values from its end backwards.
// Value offsets count from the start of p.
func encodeXattrs(p []byte, first int, list []xattr) {
	le := binary.LittleEndian
	at, end := first, len(p)
	for _, x := range list {
		e := p[at:]
		e[0] = uint8(len(x.name))
		e[1] = x.index
		if len(x.value) > 0 {
			end -= x.valueLen()
			copy(p[end:], x.value)
			le.PutUint16(e[2:], uint16(end))
		}
		le.PutUint32(e[8:], uint32(len(x.value)))
		le.PutUint32(e[12:], x.hash())
		copy(e[xattrEntrySize:], x.name)
		at += x.entryLen()
	}
}

// decodeXattrs reads the entries of p from first on into out; values lie within p.
func decodeXattrs(p []byte, first int, out map[string][]byte) error {
	le := binary.LittleEndian
	for at := first; ; {
		if at+4 > len(p) {
			return corrupt("xattr entries do not end")
		}
		if le.Uint32(p[at:]) == 0 {
			return nil
		}
		if at+xattrEntrySize > len(p) {
			return corrupt("xattr entry beyond its space")
		}
		e := p[at:]
		x := xattr{index: e[1]}
		nameEnd := xattrEntrySize + int(e[0])
		if nameEnd > len(e) {
			return corrupt("xattr name beyond its space")
		}
		if le.Uint32(e[4:]) != 0 {
			return unsupported("xattr value in an inode of its own (ea_inode)")
		}
		x.name = string(e[xattrEntrySize:nameEnd])
		off, size := int64(le.Uint16(e[2:])), int64(le.Uint32(e[8:]))
		if size > 0 {
			if off+size > int64(len(p)) {
				return corrupt("xattr value beyond its space")
			}
			x.value = slices.Clone(p[off : off+size])
		}
		if err := addXattr(out, x); err != nil {
			return err
		}
		at += x.entryLen()
	}
}

func addXattr(out map[string][]byte, x xattr) error {
	prefix, ok := xattrPrefix(x.index)
	if !ok {
		return unsupported("xattr name index %d", x.index)
	}
	value := x.value
	isACL := x.index == xattrACLAccess || x.index == xattrACLDefault
	switch {
	case isACL && x.name != "", !isACL && x.name == "", strings.Contains(x.name, "\x00"):
		return corrupt("xattr name %q with index %d", x.name, x.index)
	case isACL:
		var err error
		if value, err = aclFromDisk(value); err != nil {
			return err
		}
	}
	if value == nil {
		value = []byte{}
	}
	full := prefix + x.name
	if _, dup := out[full]; dup {
		return corrupt("xattr %q twice", full)
	}
	out[full] = value
	return nil
}
