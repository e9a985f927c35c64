package disk

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Close writes directories, tables and superblocks, the first superblock last. It does not
// close or sync the image.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	if w.closed {
		return errors.New("disk: Close after Close")
	}
	w.closed = true
	if err := w.finish(); err != nil {
		w.err = fmt.Errorf("finishing image: %w", err)
		return w.err
	}
	return nil
}

func (w *Writer) finish() error {
	w.trimInodes()
	if w.o.Size == 0 {
		w.reuseDescriptorRoom()
	}
	if err := w.writeDirs(w.root, rootIno); err != nil {
		return err
	}
	if err := w.clearFreed(); err != nil {
		return err
	}
	l, err := w.planTables()
	if err != nil {
		return err
	}
	l.free = slices.Concat(l.free, w.freed.all())
	if err := w.writeInodes(l); err != nil {
		return err
	}
	if err := w.writeGroups(l); err != nil {
		return err
	}
	if err := w.f.Truncate(w.imageBlocks(l) * blockSize); err != nil {
		return fmt.Errorf("sizing image: %w", err)
	}
	return w.writeSupers(l)
}

// imageBlocks is the size of the image file: all that was asked for, even if a stub of a
// last group is not part of the file system.
func (w *Writer) imageBlocks(l *layout) int64 {
	if w.o.Size != 0 {
		return w.o.Size / blockSize
	}
	return l.total
}

// writeDirs writes a directory and all below it, in the order of names.
func (w *Writer) writeDirs(d *dir, parent uint32) error {
	n := w.inodes[d.ino-1]
	n.links = 2
	names := make([]name, 0, len(d.children))
	for _, key := range slices.Sorted(maps.Keys(d.children)) {
		c := d.children[key]
		if c.dir != nil {
			n.links++
		}
		names = append(names, name{key, c.ino, c.ft})
	}
	data, indexed := w.dirData(d.ino, parent, names)
	if indexed {
		n.flags |= flagIndex
	}
	n.size = int64(len(data))
	l := &extentList{}
	if err := w.writeDirRun(l, data); err != nil {
		return err
	}
	if err := w.mapBlocks(d.ino, n, l); err != nil {
		return err
	}
	for _, entry := range names {
		if c := d.children[entry.name]; c.dir != nil {
			if err := w.writeDirs(c.dir, d.ino); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeDirRun is writeRun that prefers stretches skipped earlier.
func (w *Writer) writeDirRun(l *extentList, p []byte) error {
	n := int64(len(p) / blockSize)
	at, ok := w.freed.take(n)
	if !ok {
		at, ok = w.space.takeWhole(n)
	}
	if ok {
		l.add(0, at, n)
		return w.out.write(at, p)
	}
	return w.writeRun(l, 0, p)
}

// dirData lays out a directory, with an index if it needs more than one block.
func (w *Writer) dirData(ino, parent uint32, names []name) (data []byte, indexed bool) {
	seed := inodeSeed(w.seed, ino, 0)
	size := 2 * direntLen(2)
	for _, n := range names {
		size += direntLen(len(n.name))
	}
	if size > dirBlockRoom {
		if data := indexedDir(ino, parent, names, w.hashSeed, seed); data != nil {
			return data, true
		}
	}
	dots := []name{{".", ino, ftDir}, {"..", parent, ftDir}}
	return linearDir(append(dots, names...), seed), false
}

// writeInodes writes the tables; what lies behind the last inode in use stays a hole.
func (w *Writer) writeInodes(l *layout) error {
	var p [blockSize]byte
	for first := 0; first < len(w.inodes); first += inodesPerBlock {
		clear(p[:])
		for i := first; i < min(first+inodesPerBlock, len(w.inodes)); i++ {
			raw := p[(i-first)*inodeSize:][:inodeSize]
			seed := inodeSeed(w.seed, uint32(i+1), 0)
			if n := w.inodes[i]; n != nil { // nil: reserved or freed, all zeros
				n.encode(raw, w.created, seed)
			}
		}
		group, index := int64(first)/l.perGroup, int64(first)%l.perGroup
		if err := w.out.write(l.groups[group].table+index/inodesPerBlock, p[:]); err != nil {
			return err
		}
	}
	return w.out.flush()
}
