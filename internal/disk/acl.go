package disk

import (
	"encoding/binary"
	"errors"
)

// POSIX ACLs have one form in getxattr(2) (include/uapi/linux/posix_acl_xattr.h: version 2,
// every entry with an id) and another on disk (fs/ext4/acl.h: version 1, an id only for
// named users and groups).
const (
	aclXattrVersion = 2
	aclDiskVersion  = 1

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclNoID = 0xFFFFFFFF
)

var errACL = errors.New("not a POSIX ACL")

func aclHasID(tag uint16) bool { return tag == aclUser || tag == aclGroup }

func aclTag(tag uint16) bool {
	switch tag {
	case aclUserObj, aclUser, aclGroupObj, aclGroup, aclMask, aclOther:
		return true
	}
	return false
}

func aclToDisk(p []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(p) < 4 || (len(p)-4)%8 != 0 || le.Uint32(p) != aclXattrVersion {
		return nil, errACL
	}
	out := le.AppendUint32(nil, aclDiskVersion)
	for p = p[4:]; len(p) > 0; p = p[8:] {
		tag := le.Uint16(p)
		if !aclTag(tag) {
			return nil, errACL
		}
		out = append(out, p[:4]...)
		if aclHasID(tag) {
			out = append(out, p[4:8]...)
		}
	}
	return out, nil
}

func aclFromDisk(p []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(p) < 4 || le.Uint32(p) != aclDiskVersion {
		return nil, corrupt("ACL of an unknown version")
	}
	out := le.AppendUint32(nil, aclXattrVersion)
	for p = p[4:]; len(p) > 0; {
		if len(p) < 4 {
			return nil, corrupt("ACL ends within an entry")
		}
		tag := le.Uint16(p)
		if !aclTag(tag) {
			return nil, corrupt("ACL tag %#x", tag)
		}
		out = append(out, p[:4]...)
		p = p[4:]
		if !aclHasID(tag) {
			out = le.AppendUint32(out, aclNoID)
			continue
		}
		if len(p) < 4 {
			return nil, corrupt("ACL ends within an entry")
		}
		out = append(out, p[:4]...)
		p = p[4:]
	}
	return out, nil
}
