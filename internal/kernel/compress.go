package kernel

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
	"github.com/ulikunitz/xz/lzma"
)

// compression is a format by which kernels, modules or package members are compressed.
type compression string

const (
	compNone  compression = "none"
	compGzip  compression = "gzip"
	compXZ    compression = "xz"
	compZstd  compression = "zstd"
	compLZ4   compression = "lz4" // the legacy frame, the only one the kernel's build makes
	compBzip2 compression = "bzip2"
	compLZMA  compression = "lzma"
	compLZO   compression = "lzo" // recognised, not readable
)

// maxDict bounds the memory that a compressed file can make us allocate for its window.
// `zstd -22 --ultra`, which the kernel's build uses, has a window of 128 MiB.
const maxDict = 128 << 20

var errUnsupported = errors.New("unsupported compression")

// sniffCompression tells a format by its first bytes; "" if it is none we know.
func sniffCompression(head []byte) compression {
	for _, m := range []struct {
		magic string
		comp  compression
	}{
		{"\x1f\x8b", compGzip},
		{"\xfd7zXZ\x00", compXZ},
		{"\x28\xb5\x2f\xfd", compZstd},
		{"\x02\x21\x4c\x18", compLZ4},
		{"BZh", compBzip2},
		{"\x5d\x00\x00", compLZMA},
		{"\x89LZO", compLZO},
		{"\x7fELF", compNone},
	} {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.comp
		}
	}
	return ""
}

// limitWriter fails once more than left bytes were written, and keeps its own errors apart
// from those of the decoder that feeds it.
type limitWriter struct {
	ctx  context.Context //nolint:containedctx // lives for one decompress call
	w    io.Writer
	left int64
	n    int64
	err  error
}

func (l *limitWriter) Write(p []byte) (int, error) {
	if l.err = l.ctx.Err(); l.err != nil {
		return 0, l.err
	}
	if int64(len(p)) > l.left {
		l.err = badf("it expands beyond %d bytes", l.n+l.left)
		return 0, l.err
	}
	n, err := l.w.Write(p)
	l.left -= int64(n)
	l.n += int64(n)
	l.err = err
	return n, err
}

// decompress writes what r expands to, at most limit bytes, and returns the number of bytes.
// Damaged input is a formatError, errUnsupported means that we have no decoder.
func decompress(ctx context.Context, w io.Writer, r io.Reader, comp compression, limit int64) (int64, error) {
	lw := &limitWriter{ctx: ctx, w: w, left: limit}
	err := copyDecoded(lw, r, comp)
	switch {
	case lw.err != nil:
		return lw.n, lw.err
	case errors.Is(err, errUnsupported):
		return lw.n, err
	case err != nil:
		return lw.n, badf("its %s data is damaged: %v", comp, err)
	}
	return lw.n, nil
}

// copyDecoded runs the decoder. The decoders are other people's code working on hostile input:
// a panic in one of them is a damaged file and must not take the program down.
func copyDecoded(w io.Writer, r io.Reader, comp compression) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("decoder gave up: %v", p)
		}
	}()
	if comp == compLZ4 {
		return copyLZ4(w, bufio.NewReaderSize(r, 1<<20))
	}
	dec, closeDec, err := newDecoder(bufio.NewReaderSize(r, 1<<20), comp)
	if err != nil {
		return err
	}
	defer closeDec()
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{dec}, make([]byte, 1<<18))
	return err
}

// newDecoder returns a streaming decoder and a function that frees it.
func newDecoder(r *bufio.Reader, comp compression) (io.Reader, func(), error) {
	nothing := func() {}
	switch comp {
	case compNone:
		return r, nothing, nil
	case compGzip:
		zr, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		zr.Multistream(false) // bytes after the member belong to whoever packed it
		return zr, nothing, nil
	case compXZ:
		xr, err := xz.NewReader(r, maxDict)
		return xr, nothing, err
	case compZstd:
		zr, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxDict))
		if err != nil {
			return nil, nil, err
		}
		return zr, zr.Close, nil
	case compBzip2:
		return bzip2.NewReader(r), nothing, nil
	case compLZMA:
		head, err := r.Peek(lzma.HeaderLen)
		if err != nil {
			return nil, nil, err
		}
		if dict := binary.LittleEndian.Uint32(head[1:]); dict > maxDict {
			return nil, nil, fmt.Errorf("it wants a window of %d bytes", dict)
		}
		lr, err := lzma.NewReader(r)
		return lr, nothing, err
	}
	return nil, nil, errUnsupported
}

// lz4LegacyBlock is the size of an uncompressed block in the legacy frame
// (https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md#legacy-frame).
const lz4LegacyBlock = 8 << 20

// copyLZ4 expands legacy frames: a magic number, then blocks that begin with their compressed
// size. There is no end mark.
func copyLZ4(w io.Writer, r *bufio.Reader) error {
	const magic = 0x184c2102
	src := make([]byte, 0, 1<<20)
	dst := make([]byte, lz4LegacyBlock)
	for first := true; ; first = false {
		var word [4]byte
		if _, err := io.ReadFull(r, word[:]); err != nil {
			if errors.Is(err, io.EOF) && !first {
				return nil
			}
			return err
		}
		size := binary.LittleEndian.Uint32(word[:])
		switch {
		case first && size != magic:
			return errors.New("no legacy frame")
		case size == magic:
			continue
		case int64(size) > int64(lz4.CompressBlockBound(lz4LegacyBlock)) || size == 0:
			return fmt.Errorf("a block of %d bytes", size)
		}
		if cap(src) < int(size) {
			src = make([]byte, size)
		}
		src = src[:size]
		if _, err := io.ReadFull(r, src); err != nil {
			return io.ErrUnexpectedEOF
		}
		n, err := lz4.UncompressBlock(src, dst)
		if err != nil {
			return err
		}
		if _, err := w.Write(dst[:n]); err != nil {
			return err
		}
	}
}
