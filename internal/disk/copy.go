package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// CopySparse makes dst a copy of the image file src, mode 0600, atomically as CreateFile
// does. Where the host file system can share blocks (btrfs, XFS, APFS) the copy is one call
// and takes no space; elsewhere only data is copied, and holes and blocks of zeros become
// holes. src must not change meanwhile.
func CopySparse(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("opening image: %w", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return fmt.Errorf("opening image: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("opening image: %s is not a regular file", src)
	}
	return Atomically(dst, func(out *os.File) error {
		if cloneFile(out, in) == nil {
			return nil
		}
		return copyData(out, in, info.Size())
	})
}

// copyData copies what SEEK_DATA finds, or everything where it is not known.
func copyData(out, in *os.File, size int64) error {
	if err := out.Truncate(size); err != nil {
		return err
	}
	buf := make([]byte, blockOutSize)
	for off := int64(0); off < size; {
		start, end, err := nextData(in, off, size)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading image: %w", err)
		}
		if err := copyRange(out, in, start, end, buf); err != nil {
			return err
		}
		off = end
	}
	return nil
}

// nextData is NextData of an open image for a file of the host.
func nextData(f *os.File, off, size int64) (start, end int64, err error) {
	start, err = f.Seek(off, seekData)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return 0, 0, io.EOF
	case err != nil: // not supported here
		return off, size, nil
	}
	end, err = f.Seek(start, seekHole)
	if err != nil {
		return 0, 0, err
	}
	return start, min(end, size), nil
}

func copyRange(out, in *os.File, start, end int64, buf []byte) error {
	zeros := make([]byte, blockSize)
	for start < end {
		// Aligned to blocks, so that a run of zeros is a hole wherever it begins.
		n := min(end-start, int64(len(buf))-start%blockSize)
		p := buf[:n]
		if _, err := io.ReadFull(io.NewSectionReader(in, start, n), p); err != nil {
			return fmt.Errorf("reading image: %w", err)
		}
		for len(p) > 0 {
			k := min(int64(len(p)), blockSize-start%blockSize)
			wrote := int64(0)
			for wrote < int64(len(p)) && !bytes.Equal(p[wrote:wrote+k], zeros[:k]) {
				wrote += k
				k = min(blockSize, int64(len(p))-wrote)
			}
			if wrote > 0 {
				if _, err := out.WriteAt(p[:wrote], start); err != nil {
					return fmt.Errorf("writing image: %w", err)
				}
			}
			p, start = p[wrote:], start+wrote
			if len(p) > 0 {
				p, start = p[k:], start+k // zeros
			}
		}
	}
	return nil
}
