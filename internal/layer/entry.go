package layer

import (
	"archive/tar"
	"math"
	"strings"

	"github.com/mvmctl/mvmctl/internal/disk"
)

// xattrRecord is how PAX carries extended attributes; star's invention, which GNU tar, bsdtar
// and Go's tools share.
const xattrRecord = "SCHILY.xattr."

// convert translates a header; path is its clean name.
func (m *meter) convert(h *tar.Header, path string) (e disk.Entry, dropped int, err error) {
	e = disk.Entry{Path: path, Mode: uint16(h.Mode & 0o7777), ModTime: h.ModTime}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, '\x00':
		e.Type, e.Size = disk.TypeFile, h.Size
		err = m.file(h.Size)
	case tar.TypeDir:
		e.Type = disk.TypeDir
	case tar.TypeSymlink:
		e.Type, e.Target, e.Mode = disk.TypeSymlink, h.Linkname, 0o777
	case tar.TypeLink:
		target, err := m.cleanName(h.Linkname)
		return disk.Entry{Path: path, Type: disk.TypeHardlink, Target: target}, 0, err
	case tar.TypeChar, tar.TypeBlock:
		e.Type = disk.TypeChar
		if h.Typeflag == tar.TypeBlock {
			e.Type = disk.TypeBlock
		}
		e.Major, e.Minor, err = device(h)
	case tar.TypeFifo:
		e.Type = disk.TypeFIFO
	default:
		err = invalidError("an entry of the unknown type %q", h.Typeflag)
	}
	if err == nil {
		e.UID, e.GID, err = owner(h)
	}
	if err == nil {
		e.Xattrs, dropped = xattrs(h.PAXRecords)
	}
	return e, dropped, err
}

// owner refuses numbers that would become another user on the way: 2³² would be root, and
// 2³²-1 means "unchanged" to chown(2).
func owner(h *tar.Header) (uid, gid uint32, err error) {
	for _, id := range []int{h.Uid, h.Gid} {
		if id < 0 || int64(id) >= math.MaxUint32 {
			return 0, 0, ownerError("the owner %d:%d is out of range", h.Uid, h.Gid)
		}
	}
	return uint32(h.Uid), uint32(h.Gid), nil
}

// device checks a device number before it loses bits; disk.Writer checks what ext4 can hold.
func device(h *tar.Header) (major, minor uint32, err error) {
	for _, n := range []int64{h.Devmajor, h.Devminor} {
		if n < 0 || n > math.MaxUint32 {
			return 0, 0, invalidError("device %d:%d", h.Devmajor, h.Devminor)
		}
	}
	return uint32(h.Devmajor), uint32(h.Devminor), nil
}

// xattrs picks the extended attributes that an image should have from PAX records.
func xattrs(records map[string]string) (attrs map[string][]byte, dropped int) {
	for key, value := range records {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok {
			continue
		}
		if !keepsXattr(name) {
			dropped++
			continue
		}
		if attrs == nil {
			attrs = map[string][]byte{}
		}
		attrs[name] = []byte(value)
	}
	return attrs, dropped
}

// keepsXattr says whether an attribute belongs into an image: overlayfs's own would change what
// a machine's root overlay shows, and ext4 has no other name spaces.
func keepsXattr(name string) bool {
	space, rest, ok := strings.Cut(name, ".")
	switch {
	case !ok || rest == "":
		return false
	case space == "user" || space == "trusted":
		return !strings.HasPrefix(rest, "overlay.")
	case space == "system":
		return rest == "posix_acl_access" || rest == "posix_acl_default"
	}
	return space == "security"
}
