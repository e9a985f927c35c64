package disk

import "slices"

// layout says where the tables of a finished image are.
type layout struct {
	total    int64 // blocks of the file system
	gdt      int64 // blocks of group descriptors
	perGroup int64 // inodes of each group
	groups   []group
	free     []run // unused blocks below space.next
}

type group struct {
	blockBitmap, inodeBitmap int64
	table                    int64 // first block of the inode table
	freeBlocks, freeInodes   int64
	dirs                     int64
	unusedInodes             int64 // at the end of the table
	flags                    uint16
}

// reuseDescriptorRoom hands out what was kept in the first group for descriptors that a
// fitted image turns out not to need, so that a small one is small.
func (w *Writer) reuseDescriptorRoom() {
	w.space.gdtUsed = ceilDiv(w.groupsAtMost(), descsPerBlock)
	if w.space.gdtUsed < w.space.gdt {
		w.space.free = append(w.space.free, run{1 + w.space.gdtUsed, w.space.gdt - w.space.gdtUsed})
	}
}

// groupsAtMost is an upper bound for the groups of a fitted image.
func (w *Writer) groupsAtMost() int64 {
	blocks := w.space.next + ceilDiv(int64(len(w.inodes)), inodesPerBlock)
	blocks += blocks / 64 // bitmaps, inodes rounded up, blocks skipped
	blocks += dirBlocksAtMost(w.root)
	groups := ceilDiv(blocks, blocksPerGroup) + 2
	return max(groups, ceilDiv(int64(len(w.inodes)), maxGroupInodes)+1)
}

func dirBlocksAtMost(d *dir) int64 {
	bytes := int64(blockSize)
	below := int64(0)
	for key, c := range d.children {
		bytes += int64(direntLen(len(key)))
		if c.dir != nil {
			below += dirBlocksAtMost(c.dir)
		}
	}
	return 2*ceilDiv(bytes, blockSize) + 2 + below // half-full blocks and an index
}

// planTables decides how many groups and inodes there are and allocates their tables.
func (w *Writer) planTables() (*layout, error) {
	if w.o.Size == 0 {
		return w.planFitted()
	}
	total := w.space.total
	groups := ceilDiv(total, blocksPerGroup)
	used := int64(len(w.inodes))
	least := roundUp(ceilDiv(max(used, int64(w.o.Inodes)), groups), inodesPerBlock)
	if least > maxGroupInodes {
		return nil, &FullError{What: "inodes", Needed: max(used, int64(w.o.Inodes)), Available: groups * maxGroupInodes}
	}
	want := least
	if w.o.Inodes == 0 {
		want = roundUp(ceilDiv(max(total*blockSize/bytesPerInode, used+used/8), groups), inodesPerBlock)
		want = max(least, min(want, maxGroupInodes))
	}
	w.space.limit = total
	for {
		s := w.space.clone()
		if l := allocTables(&s, groups, want); l != nil {
			w.space = s
			l.total, l.gdt = total, s.gdt
			l.free = s.free
			return l, nil
		}
		if want == least {
			return nil, w.fullError(groups * (2 + least/inodesPerBlock))
		}
		want = max(least, roundUp(want/2, inodesPerBlock))
	}
}

// planFitted finds the smallest image that holds what was written and its tables.
func (w *Writer) planFitted() (*layout, error) {
	used := max(int64(len(w.inodes)), int64(w.o.Inodes))
	groups := max(ceilDiv(w.space.next, blocksPerGroup), ceilDiv(used, maxGroupInodes))
	for ; ; groups++ {
		s := w.space.clone()
		l := allocTables(&s, groups, roundUp(ceilDiv(used, groups), inodesPerBlock))
		if l == nil {
			return nil, w.fullError(groups)
		}
		if ceilDiv(s.next, blocksPerGroup) > groups {
			continue
		}
		w.space = s
		l.gdt = ceilDiv(groups, descsPerBlock)
		l.total = max(s.next, (groups-1)*blocksPerGroup+1+l.gdt+50, minBlocks)
		if groups == 1 {
			l.total = max(s.next, minBlocks)
		}
		l.free = w.unusedDescriptorRoom(s.free, l.gdt)
		return l, nil
	}
}

// unusedDescriptorRoom adds to free what was kept for descriptors below space.next and is
// not needed; the first group's share has been handed out but for gdtUsed.
func (w *Writer) unusedDescriptorRoom(free []run, gdt int64) []run {
	s := &w.space
	free = slices.Clone(free)
	for g := int64(0); g*blocksPerGroup < s.next; g++ {
		kept := s.gdt
		if g == 0 {
			kept = s.gdtUsed
		}
		if hasSuper(g) && kept > gdt {
			free = append(free, run{g*blocksPerGroup + 1 + gdt, kept - gdt})
		}
	}
	return free
}

// allocTables allocates bitmaps, then inode tables, for all groups; nil if there is no room.
// With flex_bg they may be anywhere: here they follow the content.
func allocTables(s *space, groups, perGroup int64) *layout {
	l := &layout{perGroup: perGroup, groups: make([]group, groups)}
	ok := true
	take := func(n int64) (at int64) {
		if ok {
			at, ok = s.takeWhole(n)
		}
		return at
	}
	for i := range l.groups {
		l.groups[i].blockBitmap = take(1)
	}
	for i := range l.groups {
		l.groups[i].inodeBitmap = take(1)
	}
	for i := range l.groups {
		l.groups[i].table = take(perGroup / inodesPerBlock)
	}
	if !ok {
		return nil
	}
	return l
}
