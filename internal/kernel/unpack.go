package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Names of the files in a cached kernel's directory.
const (
	fileImage   = "vmlinuz"
	fileVMLinux = "vmlinux"
	fileConfig  = "config"
	fileMeta    = "meta.json"
)

// image is a boot image that was checked and unpacked into a directory.
type image struct {
	release string
	arch    string
	image   string // name in the directory, "" for an ELF source
	vmlinux string // name in the directory, "" if it could not be unpacked
	pvh     bool
	config  map[string]string // IKCONFIG
	digest  string            // SHA-256 of the source
}

// openRegular opens a file for reading, but neither waits for the writer of a fifo nor takes a
// device for a kernel.
func openRegular(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		f.Close()
		return nil, 0, badf("it is not a regular file")
	}
	return f, st.Size(), nil
}

// unpackImage copies the boot image at path into dir, uncompresses it there and checks it.
func unpackImage(ctx context.Context, path, dir string) (image, error) {
	src, size, err := openRegular(path)
	if err != nil {
		return image{}, err
	}
	defer src.Close()
	switch {
	case size == 0:
		return image{}, badf("it is empty")
	case size > maxVMLinux:
		return image{}, badf("it is larger than %d bytes", maxVMLinux)
	}
	head := make([]byte, 4096)
	n, err := src.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return image{}, err
	}
	head = head[:n]

	var img image
	switch z, isZboot, zerr := parseZboot(head, size); {
	case isZboot && zerr != nil:
		return image{}, zerr
	case isZboot:
		img, err = unpackARM64(ctx, src, z, dir)
	case isBzImage(head):
		img, err = unpackBzImage(ctx, src, size, dir)
	case sniffCompression(head) == compNone:
		img, err = unpackELF(ctx, src, size, dir)
	case isARM64Image(head):
		img, err = unpackARM64(ctx, src, zboot{length: size, comp: compNone}, dir)
	case sniffCompression(head) == compGzip:
		img, err = unpackARM64(ctx, src, zboot{length: size, comp: compGzip}, dir)
	case allZero(head):
		return image{}, badf("it begins with zero bytes only")
	default:
		return image{}, badf("it is neither a bzImage nor an ELF file nor an arm64 Image")
	}
	if err != nil {
		return image{}, err
	}
	target := img.image
	if target == "" {
		target = img.vmlinux
	}
	img.digest, err = copyHashed(ctx, src, filepath.Join(dir, target))
	return img, err
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// unpackBzImage handles x86.
func unpackBzImage(ctx context.Context, src *os.File, size int64, dir string) (image, error) {
	if size > maxImage {
		return image{}, badf("it is larger than %d bytes", maxImage)
	}
	h, err := parseBzHeader(src, size)
	if err != nil {
		return image{}, err
	}
	img := image{release: h.release, arch: "amd64", image: fileImage}
	path := filepath.Join(dir, fileVMLinux)
	err = writeSynced(path, func(w io.Writer) error { return extractBzImage(ctx, src, h, w) })
	if errors.Is(err, errUnsupported) {
		return img, os.Remove(path)
	}
	if err != nil {
		return image{}, err
	}
	f, n, err := openRegular(path)
	if err != nil {
		return image{}, err
	}
	defer f.Close()
	info, err := checkELF(f, n)
	if err != nil {
		return image{}, err
	}
	found, err := scanKernel(ctx, f, n)
	if err != nil {
		return image{}, err
	}
	img.vmlinux, img.pvh, img.config = fileVMLinux, info.pvh, found.config
	return img, nil
}

// unpackELF handles a vmlinux, which only has to be checked.
func unpackELF(ctx context.Context, src *os.File, size int64, _ string) (image, error) {
	info, err := checkELF(src, size)
	if err != nil {
		return image{}, err
	}
	found, err := scanKernel(ctx, src, size)
	if err != nil {
		return image{}, err
	}
	if found.release == "" {
		return image{}, badf("it holds no \"Linux version\" text, so it is no Linux kernel")
	}
	return image{
		release: found.release, arch: info.arch, vmlinux: fileVMLinux, pvh: info.pvh, config: found.config,
	}, nil
}

// unpackARM64 handles an arm64 Image that is plain, gzipped or in an EFI zboot wrapper.
func unpackARM64(ctx context.Context, src *os.File, z zboot, dir string) (image, error) {
	length := z.length
	if z.offset > 0 && z.comp != compGzip {
		length -= 4 // the size that the build appends, as in a bzImage
	}
	path := filepath.Join(dir, fileVMLinux)
	var n int64
	err := writeSynced(path, func(w io.Writer) (err error) {
		n, err = decompress(ctx, w, io.NewSectionReader(src, z.offset, length), z.comp, maxVMLinux)
		return err
	})
	if err != nil {
		return image{}, err
	}
	f, n, err := openRegular(path)
	if err != nil {
		return image{}, err
	}
	defer f.Close()
	head := make([]byte, 64)
	if _, err := f.ReadAt(head, 0); err != nil {
		return image{}, truncated("the Image header", err)
	}
	if !isARM64Image(head) {
		return image{}, badf("what it is compressed from is no arm64 Image")
	}
	found, err := scanKernel(ctx, f, n)
	if err != nil {
		return image{}, err
	}
	if found.release == "" {
		return image{}, badf("it holds no \"Linux version\" text, so it is no Linux kernel")
	}
	return image{
		release: found.release, arch: "arm64", image: fileImage, vmlinux: fileVMLinux, config: found.config,
	}, nil
}

// writeSynced creates a file, lets fill write it, and makes it durable.
func writeSynced(path string, fill func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// copyHashed copies all of src to path and returns its SHA-256 in hex.
func copyHashed(ctx context.Context, src io.ReaderAt, path string) (string, error) {
	sum := sha256.New()
	err := writeSynced(path, func(w io.Writer) error {
		r := &ctxReader{ctx: ctx, r: io.NewSectionReader(src, 0, maxVMLinux)}
		_, err := io.CopyBuffer(io.MultiWriter(w, sum), r, make([]byte, 1<<20))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("copying kernel: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// ctxReader stops a copy when its context ends.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // lives for one copy
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
