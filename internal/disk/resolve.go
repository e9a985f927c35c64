package disk

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// maxFollowed is as many symlinks as Linux follows in one name (MAXSYMLINKS).
const maxFollowed = 40

// Resolve returns where the tree so far leads the folders of a path, as for a process whose
// root the tree is: symlinks on the way are followed, an absolute target begins at the root, and
// ".." at the root stays there. The path's last part stays as it is, and so do parts that are
// not there yet. A symlink to what is not there or is no directory is refused, and so are more
// than 40 of them. followed counts the bytes of targets: what that has cost.
func (w *Writer) Resolve(path string) (resolved string, followed int, err error) {
	if w.err != nil {
		return "", 0, w.err
	}
	var (
		names []string // where we are
		dirs  = []*dir{w.root}
		tail  = len(path) // of rest, what the path itself says
		links int
	)
	for rest := path; ; {
		part, after, more := strings.Cut(rest, "/")
		if !more {
			if links == 0 {
				return path, 0, nil
			}
			return strings.Join(append(names, rest), "/"), followed, nil
		}
		if part == "" || part == "." {
			rest = after
			continue
		}
		if part == ".." {
			if len(names) > 0 {
				names, dirs = names[:len(names)-1], dirs[:len(dirs)-1]
			}
			rest = after
			continue
		}
		ofPath := len(rest) <= tail
		c, ok := dirs[len(dirs)-1].children[part]
		switch {
		case !ok && ofPath: // it will be made, with all that follows
			if links == 0 {
				return path, 0, nil
			}
			return strings.Join(append(names, rest), "/"), followed, nil
		case c.dir != nil:
			names, dirs, rest = append(names, part), append(dirs, c.dir), after
		case c.ft != ftSymlink || !ok:
			return "", followed, notDirectory(strings.Join(append(names, part), "/"))
		case links == maxFollowed:
			return "", followed, refuse("more than %d symlinks to follow in %q, which is %w", maxFollowed, path, ErrNotDirectory)
		default:
			target, err := w.target(w.inodes[c.ino-1])
			if err != nil {
				w.err = err
				return "", followed, err
			}
			if links++; ofPath {
				tail = len(after)
			}
			followed += len(target)
			if strings.HasPrefix(target, "/") {
				names, dirs = nil, dirs[:1]
			}
			rest = target + "/" + after
		}
	}
}

// target reads back what a symlink of this Writer says.
func (w *Writer) target(n *inode) (string, error) {
	if n.size <= fastTarget {
		return string(n.block[:n.size]), nil
	}
	if err := w.out.flush(); err != nil {
		return "", err
	}
	p := make([]byte, n.size)
	at := int64(binary.LittleEndian.Uint32(n.block[12+8:])) // of its only extent
	if _, err := w.f.ReadAt(p, at*blockSize); err != nil {
		return "", fmt.Errorf("reading a symlink: %w", err)
	}
	return string(p), nil
}
