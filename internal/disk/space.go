package disk

import "slices"

// run is a stretch of blocks.
type run struct{ start, n int64 }

// space hands out the blocks of an image from the front to the back and takes nothing back (what
// is freed is in freedBlocks), so that the whole state is one number, the stretches skipped below it, and
// the copies of the superblock and group descriptors at fixed places. That is what lets a
// 16 TiB image be made without a bitmap of it in memory.
type space struct {
	total   int64 // blocks of the image, or the most that a fitted image may have
	limit   int64 // blocks that may be handed out; the rest is kept for tables
	gdt     int64 // blocks kept for descriptors after each superblock
	gdtUsed int64 // of those in the first group, the ones not handed out after all
	next    int64 // all below is used, but for free
	barrier int64 // first block of the next group with a superblock copy
	free    []run // below next, in any order
}

func newSpace(total, limit, gdt int64) space {
	s := space{total: total, limit: limit, gdt: gdt}
	s.skipSuper()
	return s
}

func (s *space) clone() space {
	c := *s
	c.free = slices.Clone(s.free)
	return c
}

// skipSuper steps over the superblock copy at next and finds the one after it.
func (s *space) skipSuper() {
	s.next += 1 + s.gdt
	group := s.next/blocksPerGroup + 1
	for !hasSuper(group) {
		group++
	}
	s.barrier = group * blocksPerGroup
}

// take hands out up to n blocks at the front; false if there is none.
func (s *space) take(n int64) (run, bool) {
	if s.next == s.barrier {
		s.skipSuper()
	}
	n = min(n, s.barrier-s.next, s.limit-s.next)
	if n <= 0 {
		return run{}, false
	}
	r := run{s.next, n}
	s.next += n
	return r, true
}

// takeWhole hands out n blocks in one piece, from a skipped stretch if one is long enough.
func (s *space) takeWhole(n int64) (int64, bool) {
	for i := range s.free {
		if f := &s.free[i]; f.n >= n {
			start := f.start
			f.start, f.n = f.start+n, f.n-n
			if f.n == 0 {
				s.free = slices.Delete(s.free, i, i+1)
			}
			return start, true
		}
	}
	if s.next == s.barrier {
		s.skipSuper()
	}
	if s.barrier-s.next < n {
		if s.barrier+1+s.gdt+n > s.limit {
			return 0, false
		}
		s.free = append(s.free, run{s.next, s.barrier - s.next})
		s.next = s.barrier
		s.skipSuper()
	}
	if s.next+n > s.limit {
		return 0, false
	}
	start := s.next
	s.next += n
	return start, true
}
