package disk

import "fmt"

// blockOut gathers writes to neighbouring blocks into large ones, so that a tree of small
// files does not cost one system call per file.
type blockOut struct {
	f   Image
	buf []byte
	at  int64 // byte offset of buf in the image
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
	return nil
}
