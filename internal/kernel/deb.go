package kernel

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60

	maxPackage     = 2 << 30   // a .deb
	maxPackageData = 8 << 30   // its data.tar, uncompressed; Debian's generic kernel: 400 MB
	maxTarEntries  = 1_000_000 // in data.tar
	maxUnpacked    = 2 << 30   // what we write to the disk of it for a while
)

// arMember positions r at the data of the first member whose name begins with prefix and returns
// its name and size. The format is ar(5), as deb(5) restricts it.
func arMember(r io.Reader, prefix string) (name string, size int64, err error) {
	var magic [len(arMagic)]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return "", 0, truncated("the package", err)
	}
	if string(magic[:]) != arMagic {
		return "", 0, badf("it is no Debian package")
	}
	for {
		var h [arHeaderSize]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return "", 0, badf("the package has no %s member", prefix)
			}
			return "", 0, truncated("the package", err)
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(h[48:58])), 10, 64)
		if err != nil || size < 0 || size > maxPackage || h[58] != '`' || h[59] != '\n' {
			return "", 0, badf("the package has a damaged member header")
		}
		name := strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
		if strings.HasPrefix(name, prefix) {
			return name, size, nil
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return "", 0, truncated("the package", err)
		}
	}
}

// debData calls each for the regular files in a package's data.tar, with clean paths such as
// "boot/vmlinuz-6.1.0". Memory stays bounded; each must read what it wants before it returns.
func debData(ctx context.Context, pkg io.Reader, each func(name string, size int64, r io.Reader) error) error {
	br := bufio.NewReaderSize(pkg, 1<<20)
	name, size, err := arMember(br, "data.tar")
	if err != nil {
		return err
	}
	member := io.LimitReader(br, size)
	comp, ok := map[string]compression{
		"data.tar": compNone, "data.tar.gz": compGzip, "data.tar.xz": compXZ, "data.tar.zst": compZstd,
	}[name]
	if !ok {
		return badf("the package's %q has a compression we do not read", name)
	}
	// The decoder runs beside the tar reader: two cores halve the wait for xz.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := decompress(ctx, pw, member, comp, maxPackageData)
		pw.CloseWithError(err)
	}()
	err = walkTar(pr, each)
	if err == nil { // what follows the tar is padding, and the checksum that only the decoder sees
		_, err = io.Copy(io.Discard, pr)
	}
	pr.CloseWithError(errStopped)
	<-done
	return err
}

// errStopped ends the decoder when the tar reader needs no more.
var errStopped = errors.New("stopped reading")

// walkTar goes through a tar stream.
func walkTar(r io.Reader, each func(name string, size int64, r io.Reader) error) error {
	tr := tar.NewReader(r)
	for range maxTarEntries {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF):
			return badf("the package's contents are damaged: %v", err)
		case err != nil:
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		name := path.Clean("/" + h.Name)[1:]
		if err := each(name, h.Size, tr); err != nil {
			return err
		}
	}
	return badf("the package has more than %d files", maxTarEntries)
}

// unpackDeb writes the kernel, its configuration and its modules from a package below dir, as
// boot/… and lib/modules/<release>/….
func unpackDeb(ctx context.Context, pkgPath, dir string) error {
	f, _, err := openRegular(pkgPath)
	if err != nil {
		return err
	}
	defer f.Close()
	var total int64
	err = debData(ctx, f, func(name string, size int64, r io.Reader) error {
		name = strings.TrimPrefix(name, "usr/") // merged-/usr packages
		base := path.Base(name)
		var limit int64
		switch {
		case path.Dir(name) == "boot" && strings.HasPrefix(base, "vmlinuz-"):
			limit = maxImage
		case path.Dir(name) == "boot" && strings.HasPrefix(base, "config-"):
			limit = maxKernelConfig
		case strings.HasPrefix(name, "lib/modules/") && (moduleName(base) != "" || base == modulesBuiltin):
			limit = maxModule
		default:
			return nil
		}
		if size > limit {
			return badf("%s in the package has %d bytes", name, size)
		}
		if total += size; total > maxUnpacked {
			return badf("the package has more than %d bytes of modules", maxUnpacked)
		}
		target := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return writeScratch(target, r)
	})
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", filepath.Base(pkgPath), err)
	}
	return nil
}

// writeScratch writes a file that need not survive a crash.
func writeScratch(path string, r io.Reader) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// isDeb tells whether a file begins like a Debian package.
func isDeb(path string) (bool, error) {
	f, _, err := openRegular(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, len(arMagic))
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return bytes.Equal(head[:n], []byte(arMagic)), nil
}
