package lima

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"github.com/mvmctl/mvmctl/internal/disk"
)

// A file travels as the pieces of it that are data: offset, length, bytes; a piece without bytes
// ends it. All of it is compressed: what is sent goes through ssh.
const (
	pieceHead = 12
	maxPiece  = 1 << 20
)

// sendSparse writes the data of a file of size bytes.
func sendSparse(w io.Writer, f *os.File, size int64) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	h := disk.SparseFile(f, size)
	buf := make([]byte, pieceHead+maxPiece)
	for off := int64(0); off < size; {
		start, end, err := h.NextData(off)
		if errors.Is(err, io.EOF) || err == nil && start >= end {
			break
		}
		if err != nil {
			return err
		}
		for start < end {
			n := min(end-start, maxPiece)
			if _, err := f.ReadAt(buf[pieceHead:pieceHead+n], start); err != nil {
				return err
			}
			if !zeros(buf[pieceHead : pieceHead+n]) {
				if err := piece(z, buf, start, int(n)); err != nil {
					return err
				}
			}
			start += n
		}
		off = end
	}
	if err := piece(z, buf, size, 0); err != nil {
		return err
	}
	return z.Close()
}

func piece(w io.Writer, buf []byte, off int64, n int) error {
	binary.BigEndian.PutUint64(buf, uint64(off))
	binary.BigEndian.PutUint32(buf[8:], uint32(n))
	_, err := w.Write(buf[:pieceHead+n])
	return err
}

func zeros(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// receiveSparse reads what sendSparse wrote into an empty file. A stream that was cut is an error.
func receiveSparse(f *os.File, r io.Reader, size int64) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return err
	}
	defer z.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	buf := make([]byte, maxPiece)
	for {
		var head [pieceHead]byte
		if _, err := io.ReadFull(z, head[:]); err != nil {
			return fmt.Errorf("receiving a file: %w", unexpected(err))
		}
		off, n := binary.BigEndian.Uint64(head[:]), int64(binary.BigEndian.Uint32(head[8:]))
		switch {
		case n == 0:
			return nil
		case n > maxPiece || off > uint64(size) || n > size-int64(off):
			return errors.New("receiving a file: a piece outside of it")
		}
		if _, err := io.ReadFull(z, buf[:n]); err != nil {
			return fmt.Errorf("receiving a file: %w", unexpected(err))
		}
		if _, err := f.WriteAt(buf[:n], int64(off)); err != nil {
			return err
		}
	}
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
