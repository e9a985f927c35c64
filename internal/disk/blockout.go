package disk

import "fmt"

// blockOut gathers writes to neighbouring blocks into large ones, so that a tree of small
// files does not cost one system call per file.
type blockOut struct {
	f   Image
	buf []byte
	at  int64 // byte offset of buf in the image

	dirty run // bytes written since the host was last told to begin
}

const blockOutSize = 1 << 20

// write puts whole blocks at a block number.
func (b *blockOut) write(block int64, p []byte) error {
	off := block * blockSize
	if len(b.buf) > 0 && (b.at+int64(len(b.buf)) != off || len(b.buf)+len(p) > blockOutSize) {
		if err := b.flush(); err != nil {
			return err
		}
	}
	if len(p) >= blockOutSize {
		return b.writeAt(p, off)
	}
	if len(b.buf) == 0 {
		b.at = off
	}
	b.buf = append(b.buf, p...)
	return nil
}

func (b *blockOut) flush() error {
	if len(b.buf) == 0 {
		return nil
	}
	err := b.writeAt(b.buf, b.at)
	b.buf = b.buf[:0]
	return err
}

func (b *blockOut) writeAt(p []byte, off int64) error {
	if _, err := b.f.WriteAt(p, off); err != nil {
		return fmt.Errorf("writing image: %w", err)
	}
	b.writeBehind(off, int64(len(p)))
	return nil
}

// writeBehindSize is how much is written before the host begins to put it on stable storage.
const writeBehindSize = 8 << 20

// writeBehind makes the host write while we go on, so that little is left for fsync at the end.
func (b *blockOut) writeBehind(off, n int64) {
	if b.dirty.start+b.dirty.n == off {
		b.dirty.n += n
	} else {
		b.dirty = run{off, n}
	}
	if b.dirty.n < writeBehindSize {
		return
	}
	if f, ok := b.f.(hostFile); ok {
		startWriting(f, b.dirty.start, b.dirty.n)
	}
	b.dirty = run{off + n, 0}
}
