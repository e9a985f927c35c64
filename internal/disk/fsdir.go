package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Limits on what one image can make a reader hold in memory.
const (
	maxDirBytes = 64 << 20  // of one directory: about 2 million names
	maxHeld     = 256 << 20 // of all directories from the root down to one
	maxPath     = 4096      // PATH_MAX
)

// dirEntry is a name in a directory as read.
type dirEntry struct {
	name string
	ino  uint32
}

// readDir reads a directory, sorted by name, without "." and "..".
func (f *FS) readDir(n *diskInode) ([]dirEntry, error) {
	if n.size%f.s.blockSize != 0 || n.size > f.s.blocks*f.s.blockSize {
		return nil, corrupt("inode %d: directory of %d bytes", n.ino, n.size)
	}
	if n.size > maxDirBytes {
		return nil, unsupported("inode %d: directory of %d bytes", n.ino, n.size)
	}
	var list []dirEntry
	m := f.mapper(n)
	for logical := int64(0); logical < n.size/f.s.blockSize; logical++ {
		at, err := m.find(logical)
		if err != nil {
			return nil, err
		}
		if at.start == 0 {
			return nil, corrupt("inode %d: hole in a directory", n.ino)
		}
		p, err := f.block(at.start)
		if err != nil {
			return nil, err
		}
		if list, err = f.parseDirBlock(list, n, p, logical); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b dirEntry) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(list); i++ {
		if list[i].name == list[i-1].name {
			return nil, corrupt("inode %d: name %q twice", n.ino, list[i].name)
		}
	}
	return list, nil
}

// parseDirBlock adds the names in one block. The blocks of an index look like blocks with
// one unused entry, or with "." and ".." only, and need no care but for their checksum.
func (f *FS) parseDirBlock(list []dirEntry, n *diskInode, p []byte, logical int64) ([]dirEntry, error) {
	le := binary.LittleEndian
	isIndex := n.flags&flagIndex != 0 &&
		(logical == 0 || le.Uint32(p) == 0 && dirRecLen(p) == len(p))
	if f.s.checksums && f.verify && !isIndex {
		t := p[len(p)-dirTailSize:]
		if le.Uint16(t[4:]) != dirTailSize || t[7] != ftTail ||
			le.Uint32(t[8:]) != crcUpdate(inodeSeed(f.s.seed, n.ino, n.generation), p[:len(p)-dirTailSize]) {
			return nil, corrupt("inode %d: checksum of directory block %d", n.ino, logical)
		}
	}
	for len(p) > 0 {
		if len(p) < 8 {
			return nil, corrupt("inode %d: directory entry cut off", n.ino)
		}
		recLen, nameLen := dirRecLen(p), int(p[6])
		if recLen < direntLen(max(1, nameLen)) && le.Uint32(p) != 0 ||
			recLen < 8 || recLen%4 != 0 || recLen > len(p) {
			return nil, corrupt("inode %d: directory entry of %d bytes", n.ino, recLen)
		}
		if ino := le.Uint32(p); ino != 0 {
			e := dirEntry{string(p[8 : 8+nameLen]), ino}
			if e.name != "." && e.name != ".." {
				if err := f.checkDirent(n, e); err != nil {
					return nil, err
				}
				list = append(list, e)
			}
		}
		p = p[recLen:]
	}
	return list, nil
}

// dirRecLen decodes rec_len, which must also express 64 KiB.
func dirRecLen(p []byte) int {
	n := int(binary.LittleEndian.Uint16(p[4:]))
	if n == 0 || n == 0xFFFF {
		return 1 << 16
	}
	return n&0xFFFC | n&3<<16
}

func (f *FS) checkDirent(dir *diskInode, e dirEntry) error {
	switch {
	case e.name == "" || bytes.ContainsAny([]byte(e.name), "/\x00"):
		return corrupt("inode %d: name %q", dir.ino, e.name)
	case e.ino < max(f.s.firstIno, firstIno) || int64(e.ino) > f.s.inodes:
		return corrupt("inode %d: %q is inode %d", dir.ino, e.name, e.ino)
	}
	return nil
}

// find resolves a path without following symlinks. Paths are as in Entry; errors for
// missing ones satisfy errors.Is(err, fs.ErrNotExist).
func (f *FS) find(op, path string) (*diskInode, string, error) {
	if isRoot(path) {
		n, err := f.inode(rootIno)
		if err == nil && !n.isDir() {
			err = corrupt("the root is no directory")
		}
		return n, ".", err
	}
	if err := checkPath(path); err != nil || len(path) > maxPath {
		return nil, "", &fs.PathError{Op: op, Path: path, Err: fs.ErrInvalid}
	}
	dir, base := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, base = path[:i], path[i+1:]
	}
	list, err := f.listing(op, dir)
	if err != nil {
		return nil, "", err
	}
	i, ok := slices.BinarySearchFunc(list, base, func(e dirEntry, name string) int {
		return strings.Compare(e.name, name)
	})
	if !ok {
		return nil, "", &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
	}
	n, err := f.inode(list[i].ino)
	return n, path, err
}

// listing reads the directory at path. Depth is bounded by maxPath.
func (f *FS) listing(op, path string) ([]dirEntry, error) {
	f.mu.Lock()
	last := f.last
	f.mu.Unlock()
	if last != nil && last.path == path {
		return last.list, nil
	}
	n, _, err := f.find(op, path)
	if err != nil {
		return nil, err
	}
	if !n.isDir() {
		return nil, &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
	}
	list, err := f.readDir(n)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.last = &dirListing{path, list}
	f.mu.Unlock()
	return list, nil
}

// Lstat describes one entry. A file with several names is a TypeFile under each of them.
func (f *FS) Lstat(path string) (Entry, error) {
	n, path, err := f.find("lstat", path)
	if err != nil {
		return Entry{}, err
	}
	return f.entry(path, n)
}

// ReadDir describes the entries of a directory, sorted by name.
func (f *FS) ReadDir(path string) ([]Entry, error) {
	n, path, err := f.find("readdir", path)
	if err != nil {
		return nil, err
	}
	if !n.isDir() {
		return nil, &fs.PathError{Op: "readdir", Path: path, Err: fmt.Errorf("%w: not a directory", fs.ErrInvalid)}
	}
	list, err := f.readDir(n)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(list))
	for _, d := range list {
		n, err := f.inode(d.ino)
		if err != nil {
			return nil, err
		}
		e, err := f.entry(join(path, d.name), n)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func join(dir, name string) string {
	if isRoot(dir) {
		return name
	}
	return dir + "/" + name
}
