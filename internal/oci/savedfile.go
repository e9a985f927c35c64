package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// A compressed file of more than ratioFloor bytes inside may be at most maxRatio times as large
// as it is on disk.
const (
	maxRatio   = 200
	ratioFloor = 1 << 30
)

// withSaved opens a file, which may be compressed. One that is not is handed on as a file, so
// that layers can be skipped without reading them.
func withSaved(ctx context.Context, name string, do func(io.Reader) error) (err error) {
	f, err := openRegular(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("reading %s: %w", quote(name), err)
	}
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return fileError(name, err)
	}
	packed, err := unpack(ctx, f, head)
	if err != nil {
		return err
	}
	if packed == nil {
		return do(f)
	}
	defer func() { err = errors.Join(err, packed.Close()) }()
	return do(&capped{r: packed, left: max(ratioFloor, info.Size()*maxRatio)})
}

// unpack returns a decoder of f, or nil if f is not compressed.
func unpack(ctx context.Context, f *os.File, head []byte) (io.ReadCloser, error) {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(readerWith(ctx, f))
		if err != nil {
			return nil, archiveError("it is no gzip file: %s", plain(err.Error()))
		}
		return z, nil
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(readerWith(ctx, f), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
		if err != nil {
			return nil, archiveError("it is no zstd file: %s", plain(err.Error()))
		}
		return z.IOReadCloser(), nil
	}
	return nil, nil
}

// capped stops a file that unpacks to far more than any sensible one.
type capped struct {
	r    io.Reader
	left int64
}

// Read implements io.Reader.
func (c *capped) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.left -= int64(n); c.left < 0 {
		return 0, machine.Errorf("archive.limit", "check where it comes from", "it unpacks to more than %d times its size", maxRatio)
	}
	return n, err
}
