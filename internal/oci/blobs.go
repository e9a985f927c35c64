package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/flock"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Blobs is a folder of files that are named after their content, DIR/sha256/HEX. A file with
// such a name is whole; beside it there may be
//
//	HEX.partial  the beginning of one, locked by the process that continues it
//	spool-*      a layer whose digest is not known yet, locked by the process that writes it
//	use-*        the names of the layers that an import needs, locked by its process
//	lock         held while spool and use files are made, read or swept
//
// All of it can be deleted while nobody fetches; see InUse for what can be at other times. A
// Blobs is for one import, and to be closed.
type Blobs struct {
	dir  string   // with the sha256
	use  *os.File // what this import needs
	free func(dir string) (int64, error)
}

const (
	partialSuffix = ".partial"
	spoolPrefix   = "spool-"
)

// OpenBlobs makes the folder if it is missing.
func OpenBlobs(dir string) (*Blobs, error) {
	b := &Blobs{dir: filepath.Join(dir, "sha256"), free: freeSpace}
	if err := paths.MakePrivate(dir); err != nil {
		return nil, err
	}
	if err := paths.MakePrivate(b.dir); err != nil {
		return nil, err
	}
	return b, nil
}

// path returns the place of a blob, whose digest has been checked.
func (b *Blobs) path(digest string) string {
	return filepath.Join(b.dir, strings.TrimPrefix(digest, digestPrefix))
}

// has reports whether a layer is there. Its content was checked when it got its name, and is
// again whenever it is read.
func (b *Blobs) has(digest string, size int64) bool { return b.size(digest) == size }

// size returns the size of a blob, or UnknownSize if it is not there.
func (b *Blobs) size(digest string) int64 {
	if checkDigest(digest) != nil {
		return UnknownSize
	}
	info, err := os.Lstat(b.path(digest))
	if err != nil || !info.Mode().IsRegular() {
		return UnknownSize
	}
	return info.Size()
}

// Open returns the stored bytes of a layer that Fetch has brought. A Read fails with
// "integrity.digest" where the content turns out to be damaged, and the blob is removed, so
// that the next Fetch brings it again.
func (b *Blobs) Open(_ context.Context, l Layer) (io.ReadCloser, error) {
	if err := checkDigest(l.Digest); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(b.path(l.Digest), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, machine.Errorf("integrity.digest", "run the command again: it will be fetched anew", "the cached layer %s is gone: %w", shortDigest(l.Digest), err)
	}
	return &blobReader{f: f, layer: l, hash: sha256.New()}, nil
}

// blobReader checks a blob while it is read.
type blobReader struct {
	f     *os.File
	layer Layer
	hash  hash.Hash
	n     int64
}

// Read implements io.Reader.
func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.f.Read(p)
	r.hash.Write(p[:n])
	r.n += int64(n)
	if r.n > r.layer.Size || errors.Is(err, io.EOF) && (r.n != r.layer.Size || digestOfHash(r.hash) != r.layer.Digest) {
		_ = os.Remove(r.f.Name()) // if that fails, it is found damaged again
		return 0, machine.Errorf("integrity.digest", "run the command again: it will be fetched anew",
			"the cached layer %s is damaged", shortDigest(r.layer.Digest))
	}
	return n, err
}

// Close implements io.Closer.
func (r *blobReader) Close() error { return r.f.Close() }

func digestOfHash(h hash.Hash) string { return digestPrefix + hex.EncodeToString(h.Sum(nil)) }

// partial is the beginning of a blob, which nobody else writes to.
type partial struct {
	f    *os.File
	hash hash.Hash // of what is in f
	n    int64     // bytes in f
}

// acquire waits for the right to write a blob. It returns nil if somebody else has brought it
// in the meantime. What is there already has been read into the hash.
func (b *Blobs) acquire(ctx context.Context, digest string, size int64) (*partial, error) {
	path := b.path(digest) + partialSuffix
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, paths.CacheError("storing a layer", err)
		}
		if err := flock.Hold(ctx, f); err != nil {
			return nil, err
		}
		if !sameFile(f, path) {
			_ = f.Close() // it was finished or removed while we waited; look again
			if b.has(digest, size) {
				return nil, nil
			}
			continue
		}
		if b.has(digest, size) {
			return nil, errors.Join(os.Remove(path), f.Close())
		}
		p := &partial{f: f, hash: sha256.New()}
		if err := p.load(ctx, size); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return p, nil
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

// load reads what is in the file; one that is too long starts again.
func (p *partial) load(ctx context.Context, size int64) error {
	n, err := io.CopyBuffer(p.hash, readerWith(ctx, p.f), make([]byte, 1<<20))
	if err != nil {
		return fmt.Errorf("reading an unfinished layer: %w", err)
	}
	p.n = n
	if n > size {
		return p.reset()
	}
	return nil
}

// reset starts again from nothing.
func (p *partial) reset() error {
	p.hash.Reset()
	p.n = 0
	if err := p.f.Truncate(0); err != nil {
		return paths.CacheError("storing a layer", err)
	}
	_, err := p.f.Seek(0, io.SeekStart)
	return err
}

// Write implements io.Writer.
func (p *partial) Write(data []byte) (int, error) {
	n, err := p.f.Write(data)
	p.hash.Write(data[:n])
	p.n += int64(n)
	fault.Point(fault.PullPartial)
	return n, paths.CacheError("storing a layer", err)
}

// finish gives a file its name, if it is what the digest says.
func (b *Blobs) finish(p *partial, digest string) error {
	if got := digestOfHash(p.hash); got != digest {
		return errors.Join(digestError("layer %s is not what was promised: its digest is %s", shortDigest(digest), shortDigest(got)), p.reset())
	}
	if err := p.f.Sync(); err != nil {
		return paths.CacheError("storing a layer", err)
	}
	if err := os.Rename(p.f.Name(), b.path(digest)); err != nil {
		return paths.CacheError("storing a layer", err)
	}
	fault.Point(fault.PullLayer)
	return syncDir(b.dir)
}

// spool makes a file for a blob whose digest is not known yet, and removes those that killed
// processes left.
func (b *Blobs) spool(ctx context.Context) (*partial, error) {
	unlock, err := flock.Lock(ctx, filepath.Join(b.dir, folderLock))
	if err != nil {
		return nil, err
	}
	defer unlock()
	old, err := filepath.Glob(filepath.Join(b.dir, spoolPrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("looking for unfinished layers: %w", err)
	}
	for _, path := range old {
		dead, err := flock.TryLock(path)
		if err != nil {
			return nil, fmt.Errorf("looking for unfinished layers: %w", err)
		}
		if dead == nil {
			continue
		}
		err = os.Remove(path)
		dead()
		if err != nil {
			return nil, paths.CacheError("removing an unfinished layer", err)
		}
	}
	f, err := os.CreateTemp(b.dir, spoolPrefix+"*")
	if err != nil {
		return nil, paths.CacheError("storing a layer", err)
	}
	if err := flock.Hold(ctx, f); err != nil {
		return nil, err
	}
	return &partial{f: f, hash: sha256.New()}, nil
}

// discard ends a spooled file, finished or not.
func (p *partial) discard() {
	_ = os.Remove(p.f.Name()) // gone if it was finished; else the next one sweeps it
	_ = p.f.Close()
}

// checkSpace refuses before anything is spent what cannot fit.
func (b *Blobs) checkSpace(need int64) error {
	free, err := b.free(b.dir)
	if err != nil {
		return fmt.Errorf("asking for free space: %w", err)
	}
	if need <= free {
		return nil
	}
	return machine.Errorf("limit.disk", "free some space there: `mvmctl cache prune --all` removes what can be fetched or made again, `mvmctl image prune` images without a name; or set MVM_CACHE_DIR to a directory with more",
		"the image's layers need %s in %s, which has %s free", bytesText(need), b.dir, bytesText(free))
}

func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	free, size := uint64(st.Bavail), uint64(st.Bsize) //nolint:unconvert // their types differ between systems
	if size != 0 && free > (1<<62)/size {
		return 1 << 62, nil
	}
	return int64(free * size), nil
}

func bytesText(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	return nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func readerWith(ctx context.Context, r io.Reader) io.Reader { return contextReader{ctx, r} }

// Read implements io.Reader.
func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// openRegular opens a file that the user named and refuses what is none.
func openRegular(path string) (*os.File, error) {
	// Without O_NONBLOCK a FIFO would hold us until somebody writes.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileError(path, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = machine.Errorf("input.not_regular", "name a file", "%s is not a regular file", quote(path))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func fileError(path string, err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return machine.Errorf("input.file", "check the path and its permissions", "reading %s: %w", quote(path), err)
}

// begun says how much of a blob an earlier process has left.
func (b *Blobs) begun(digest string, size int64) int64 {
	info, err := os.Lstat(b.path(digest) + partialSuffix)
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	return min(info.Size(), size)
}
