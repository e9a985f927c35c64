package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"slices"
)

// maxLayers is what the stamp of a directory entry can count.
const maxLayers = 1<<16 - 1

// StartLayer begins a layer: what is added from now on is newer than all that is there, which
// Hide and HideBelow tell apart. A Writer begins in its first layer.
func (w *Writer) StartLayer() error {
	if w.layer == maxLayers {
		return fmt.Errorf("more than %d layers", maxLayers)
	}
	w.layer++
	return nil
}

// Replace is Add for a path that may be taken: what is there goes first, a directory with all
// that is in it. As with Add, a directory over a directory only changes its attributes. A hard
// link to itself changes nothing.
func (w *Writer) Replace(e Entry, content io.Reader) error {
	return w.checkedAdd(e, content, true)
}

// Hide removes what earlier layers put at a path and below. What the present layer added
// there stays, in directories that have lost the attributes they had from below. A path that
// is not there is no error.
func (w *Writer) Hide(path string) error { return w.hide(path, false) }

// HideBelow is Hide for all that is in a directory but not for the directory itself.
func (w *Writer) HideBelow(path string) error { return w.hide(path, true) }

func (w *Writer) hide(path string, below bool) error {
	if w.err != nil {
		return w.err
	}
	if w.closed {
		return errors.New("disk: Hide after Close")
	}
	err := w.hideAt(path, below)
	if err != nil {
		err = fmt.Errorf("hiding %q: %w", path, err)
		if !errors.Is(err, ErrRefused) {
			w.err = err
		}
	}
	return err
}

func (w *Writer) hideAt(path string, below bool) error {
	if isRoot(path) {
		if !below {
			return refuse("it is the root")
		}
		return w.hideChildren(w.root)
	}
	if err := checkPath(path); err != nil {
		return &refusedError{err}
	}
	c, found, err := w.lookup(path)
	switch {
	case err != nil || !found:
		return err
	case below && c.dir == nil:
		return notDirectory(path)
	case below:
		return w.hideChildren(c.dir)
	}
	parent, base := w.at(path)
	return w.hideChild(parent, base, c)
}

// hideChild removes what is older than the present layer of one entry.
func (w *Writer) hideChild(d *dir, name string, c child) error {
	if c.layer != w.layer {
		delete(d.children, name)
		return w.drop(c)
	}
	if c.dir == nil {
		return nil
	}
	if !c.named {
		if err := w.renameDir(c.dir, Entry{Type: TypeDir, Mode: 0o755}); err != nil {
			return err
		}
	}
	return w.hideChildren(c.dir)
}

// hideChildren goes by name, so that blocks are freed in the same order each time. Once in a
// layer is enough, however often a layer says it.
func (w *Writer) hideChildren(d *dir) error {
	if d.hidden == w.layer {
		return nil
	}
	d.hidden = w.layer
	for _, name := range slices.Sorted(maps.Keys(d.children)) {
		if err := w.hideChild(d, name, d.children[name]); err != nil {
			return err
		}
	}
	return nil
}

// drop takes one name from an inode, with all that is below a directory, and frees the inode
// with its last name.
func (w *Writer) drop(c child) error {
	n := w.inodes[c.ino-1]
	if c.dir != nil {
		for _, name := range slices.Sorted(maps.Keys(c.dir.children)) {
			if err := w.drop(c.dir.children[name]); err != nil {
				return err
			}
		}
		c.dir.children = nil
	} else if n.links--; n.links > 0 {
		return nil
	}
	if n.xattrAt != 0 {
		w.freed.put(run{n.xattrAt, 1})
	}
	if n.flags&flagExtents != 0 {
		if err := w.freeExtents(n.block[:]); err != nil {
			return err
		}
	}
	w.inodes[c.ino-1] = nil
	w.freedInodes = append(w.freedInodes, c.ino)
	return nil
}

// freeExtents frees the blocks below a node of an extent tree. The node is one that this
// Writer wrote.
func (w *Writer) freeExtents(node []byte) error {
	le := binary.LittleEndian
	entries, depth := int(le.Uint16(node[2:])), le.Uint16(node[6:])
	for i := range entries {
		e := node[12+12*i:]
		if depth == 0 {
			w.freed.put(run{int64(le.Uint32(e[8:])), int64(le.Uint16(e[4:]))})
			continue
		}
		at := int64(le.Uint32(e[4:]))
		if err := w.out.flush(); err != nil {
			return err
		}
		below := make([]byte, blockSize)
		if _, err := w.f.ReadAt(below, at*blockSize); err != nil {
			return fmt.Errorf("reading extents: %w", err)
		}
		if err := w.freeExtents(below); err != nil {
			return err
		}
		w.freed.put(run{at, 1})
	}
	return nil
}

// newInodeNumber hands out the number of an inode that is gone, or the next one.
func (w *Writer) newInodeNumber() uint32 {
	if k := len(w.freedInodes) - 1; k >= 0 {
		ino := w.freedInodes[k]
		w.freedInodes = w.freedInodes[:k]
		return ino
	}
	w.inodes = append(w.inodes, nil)
	return uint32(len(w.inodes))
}

// trimInodes forgets freed inodes behind the last one in use.
func (w *Writer) trimInodes() {
	k := len(w.inodes)
	for k >= firstIno && w.inodes[k-1] == nil {
		k--
	}
	w.inodes = w.inodes[:k]
}

// clearFreed makes the blocks that were used and are free at the end read as zeros: what was
// replaced or hidden must not be found in the image. Where the host can, they become holes.
func (w *Writer) clearFreed() error {
	if err := w.out.flush(); err != nil {
		return err
	}
	for _, r := range w.freed.all() {
		if h, ok := w.f.(hostFile); ok && punchHole(h, r.start*blockSize, r.n*blockSize) == nil {
			continue
		}
		for ; r.n > 0; r.start, r.n = r.start+1, r.n-1 {
			if err := w.out.write(r.start, w.zeros); err != nil {
				return err
			}
		}
	}
	return w.out.flush()
}

// hostFile is an image that is a file of the host.
type hostFile interface{ Fd() uintptr }

// freedBlocks are blocks that were used and are free again, in classes of doubling length. Other
// than the stretches in space.free they hold old bytes, so tables, which must read as zeros,
// are never put there.
type freedBlocks struct{ classes [32][]run }

// looksPerClass bounds the search among stretches of about the right length.
const looksPerClass = 16

func (f *freedBlocks) put(r run) {
	k := bits.Len64(uint64(r.n)) - 1
	if c := f.classes[k]; len(c) > 0 { // often the neighbour of the last one
		last := c[len(c)-1]
		if last.start+last.n == r.start {
			f.classes[k] = c[:len(c)-1]
			f.put(run{last.start, last.n + r.n})
			return
		}
	}
	f.classes[k] = append(f.classes[k], r)
}

// take hands out n blocks in one piece.
func (f *freedBlocks) take(n int64) (int64, bool) {
	for k := bits.Len64(uint64(n)) - 1; k < len(f.classes); k++ {
		c := f.classes[k]
		for i := len(c) - 1; i >= max(0, len(c)-looksPerClass); i-- {
			r := c[i]
			if r.n < n {
				continue
			}
			c[i] = c[len(c)-1]
			f.classes[k] = c[:len(c)-1]
			if r.n > n {
				f.put(run{r.start + n, r.n - n})
			}
			return r.start, true
		}
	}
	return 0, false
}

// all lists what is free by place, neighbours joined.
func (f *freedBlocks) all() []run {
	all := slices.Concat(f.classes[:]...)
	slices.SortFunc(all, func(a, b run) int { return int(a.start - b.start) })
	joined := all[:0]
	for _, r := range all {
		if k := len(joined) - 1; k >= 0 && joined[k].start+joined[k].n == r.start {
			joined[k].n += r.n
			continue
		}
		joined = append(joined, r)
	}
	return joined
}
