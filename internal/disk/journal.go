package disk

import "encoding/binary"

const (
	journalMagic   = 0xC03B3998
	journalSuperV2 = 4
	minJournal     = 1024 // blocks; JBD2_MIN_JOURNAL_BLOCKS
)

// journalBlocks is the size of the journal for an image, as mke2fs chooses it
// (lib/ext2fs/mkjournal.c, ext2fs_default_journal_size), with 64 MiB as the most.
func journalBlocks(total int64) int64 {
	switch {
	case total < 32768:
		return minJournal
	case total < 256*1024:
		return 4096
	case total < 512*1024:
		return 8192
	}
	return 16384
}

// startJournal makes inode 8: a clean journal with nothing to replay. It is plain version 2;
// the kernel adds checksums (JBD2 v3) itself when it first mounts the image for writing.
func (w *Writer) startJournal() error {
	w.journal = journalBlocks(w.space.total)
	if w.space.total < 2*minJournal {
		return &FullError{What: "bytes", Needed: 2 * minJournal * blockSize, Available: w.o.Size}
	}
	l := &extentList{}
	for left := w.journal; left > 0; {
		r, ok := w.space.take(left)
		if !ok {
			return w.fullError(left)
		}
		l.add(w.journal-left, r.start, r.n)
		left -= r.n
	}
	be := binary.BigEndian
	p := make([]byte, blockSize)
	be.PutUint32(p[0x00:], journalMagic)
	be.PutUint32(p[0x04:], journalSuperV2)
	be.PutUint32(p[0x0C:], blockSize)
	be.PutUint32(p[0x10:], uint32(w.journal))
	be.PutUint32(p[0x14:], 1) // first block of the log
	be.PutUint32(p[0x18:], 1) // first transaction expected
	copy(p[0x30:], w.o.UUID[:])
	be.PutUint32(p[0x40:], 1) // file systems that use it
	if err := w.out.write(int64(l.all[0].start), p); err != nil {
		return err
	}
	n := w.newInode(Entry{Type: TypeFile, Mode: 0o600})
	n.size = w.journal * blockSize
	w.inodes[journalIno-1] = n
	return w.mapBlocks(journalIno, n, l)
}
