package disk

import (
	"io"
	"time"
)

// Options describe an image to be written. The zero value means: fit the content, no
// label, no journal, times at the Unix epoch.
type Options struct {
	// Size of the image in bytes, a multiple of 4096 and below 16 TiB. 0 makes the image
	// just large enough for its content, which suits images that are only read; content
	// may then come to 256 GiB.
	Size int64
	// Label is the volume name, at most 16 bytes.
	Label string
	// UUID of the file system. Zero: derived from Label.
	UUID [16]byte
	// Time of creation, also the time of directories that nobody named and of entries
	// without a ModTime. Zero: the Unix epoch.
	Time time.Time
	// Journal adds a journal (and the lost+found directory that repair tools want), so
	// that a machine killed while writing loses nothing. Needs a Size of 8 MiB or more.
	Journal bool
	// Inodes is the least number of inodes, rounded up to fill whole blocks. 0: one for
	// each 16 KiB of Size, or more if the content needs them.
	Inodes int
}

// Type is the kind of an Entry.
type Type uint8

// The kinds of entries.
const (
	TypeFile Type = iota + 1
	TypeDir
	TypeSymlink
	TypeHardlink // another name of an earlier entry
	TypeChar
	TypeBlock
	TypeFIFO
	TypeSocket
)

// String returns the name of t in lower case.
func (t Type) String() string {
	switch t {
	case TypeFile:
		return "file"
	case TypeDir:
		return "directory"
	case TypeSymlink:
		return "symlink"
	case TypeHardlink:
		return "hard link"
	case TypeChar:
		return "character device"
	case TypeBlock:
		return "block device"
	case TypeFIFO:
		return "fifo"
	case TypeSocket:
		return "socket"
	}
	return "unknown"
}

// Entry is one object of a file tree.
type Entry struct {
	// Path is slash-separated, relative and clean: no empty, "." or ".." component. ""
	// and "." are the root directory; readers report ".".
	Path string
	Type Type
	// Mode holds permissions, setuid, setgid and sticky: 07777.
	Mode     uint16
	UID, GID uint32
	// Size of a regular file, in bytes. Readers also give the length of a symlink target.
	Size int64
	// ModTime has nanoseconds and reaches from 1901 to 2446; times outside are clamped.
	ModTime time.Time
	// Target of a symlink (1 to 4095 bytes), or the path of the entry that a hard link
	// names.
	Target string
	// Major (below 4096) and Minor (below 1048576) of a device.
	Major, Minor uint32
	// Xattrs by full name: "user.x", "security.capability", "trusted.overlay.opaque",
	// "system.posix_acl_access". ACLs are in the form of getxattr(2).
	Xattrs map[string][]byte
}

// Image is what an image is written to; *os.File is one. Everything between the parts that
// are written must read as zeros after Truncate(0) and Truncate(n).
type Image interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
}

// File is one file of a drive, see CreateDrive.
type File struct {
	Path string // as in Entry
	Mode uint16
	Data []byte
}

// Info describes an image that was opened.
type Info struct {
	Label       string
	UUID        [16]byte
	BlockSize   int64 // bytes
	Blocks      int64
	FreeBlocks  int64
	Inodes      int64
	FreeInodes  int64
	Features    []string // by the names of mke2fs, sorted
	HasJournal  bool
	NeedsReplay bool // the journal holds writes that are not yet in place
}
