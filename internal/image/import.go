package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/flock"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Draft is an image before its root file system is written.
type Draft struct {
	Names  []Name // to point at it once it is whole
	Arch   string
	Config Config
	Source Source
	Build  Build
	Label  string // of the file system; at most 16 bytes
}

// Notes say what was left out of an image, or changed, for people.
type Notes []string

// Import makes an image from what fill writes and gives it its names. It appears whole or not
// at all: a killed import leaves a folder in tmp/ that the next one removes. An image that is
// here already is kept, and only named.
func (s *Store) Import(ctx context.Context, d Draft, fill func(*disk.Writer) (Notes, error)) (Image, error) {
	begin := time.Now()
	if err := s.CheckNew(d.Names...); err != nil {
		return Image{}, err
	}
	work, release, err := s.workplace(ctx)
	if err != nil {
		return Image{}, err
	}
	defer release()
	rootfs := filepath.Join(work, rootfsFile)
	var notes Notes
	err = disk.CreateFile(rootfs, disk.Options{Label: d.Label}, func(w *disk.Writer) (err error) {
		notes, err = fill(w)
		return err
	})
	if err != nil {
		return Image{}, paths.CacheError("writing the image", err)
	}
	fault.Point(fault.ImageWritten)
	digest, size, err := digestFile(ctx, rootfs)
	if err != nil {
		return Image{}, err
	}
	m := Manifest{Schema: Schema, Content: Content{Arch: d.Arch, Rootfs: digest, Size: size, Config: d.Config}, Source: d.Source, Build: d.Build}
	if m.ID, err = idOf(m.Content); err != nil {
		return Image{}, err
	}
	m.Build.Notes = append(m.Build.Notes, notes...)
	m.Build.Created, m.Build.TookMS = begin.UTC(), time.Since(begin).Milliseconds()
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return Image{}, fmt.Errorf("encoding manifest: %w", err)
	}
	err = disk.Atomically(filepath.Join(work, metaFile), func(f *os.File) error {
		_, err := f.Write(append(data, '\n'))
		return err
	})
	if err != nil {
		return Image{}, paths.CacheError("writing the image's manifest", err)
	}
	fault.Point(fault.ImageReady)
	return s.admit(ctx, work, m, d.Names)
}

// admit moves a finished image to its place and names it.
func (s *Store) admit(ctx context.Context, work string, m Manifest, names []Name) (Image, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if _, err := s.Open(m.ID); err != nil {
		place := filepath.Join(s.dir, m.ID)
		if err := os.RemoveAll(place); err != nil { // a damaged one
			return Image{}, paths.CacheError("replacing image "+shortID(m.ID), err)
		}
		if err := os.Rename(work, place); err != nil {
			return Image{}, paths.CacheError("storing image "+shortID(m.ID), err)
		}
		if err := syncDir(s.dir); err != nil {
			return Image{}, err
		}
	}
	fault.Point(fault.ImageStored)
	for _, n := range names {
		if err := s.point(n, m.ID); err != nil {
			return Image{}, err
		}
	}
	return s.named(ref{ID: m.ID})
}

// workplace makes a folder for one import and removes those that killed ones left. The lock
// beside it lives as long as its process.
func (s *Store) workplace(ctx context.Context) (dir string, release func(), err error) {
	tmp := filepath.Join(s.dir, tmpDir)
	if err := paths.MakePrivate(tmp); err != nil {
		return "", nil, err
	}
	// Between making a lock file and holding it, its import looks dead.
	unlock, err := s.lock(ctx)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	if _, _, err := s.leftovers(true); err != nil {
		return "", nil, err
	}
	dir, err = os.MkdirTemp(tmp, "import-")
	if err != nil {
		return "", nil, paths.CacheError("making a folder for the import", err)
	}
	alive, err := flock.TryLock(dir + lockSuffix)
	if err != nil || alive == nil {
		return "", nil, errors.Join(paths.CacheError("making a folder for the import", err), os.RemoveAll(dir))
	}
	return dir, func() {
		_ = os.RemoveAll(dir) // nothing of it when it became an image; else the next import tries again
		_ = os.Remove(dir + lockSuffix)
		alive()
	}, nil
}

// lockSuffix is of the lock beside the folder of an import under way.
const lockSuffix = ".lock"

// leftovers finds what killed imports left in tmp/ and how much room it takes, and removes it
// if asked. The caller holds the store's lock.
func (s *Store) leftovers(remove bool) (found int, bytes int64, err error) {
	tmp := filepath.Join(s.dir, tmpDir)
	entries, err := os.ReadDir(tmp)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return 0, 0, nil
		}
		return 0, 0, fmt.Errorf("reading %s: %w", tmp, err)
	}
	for _, e := range entries {
		path := filepath.Join(tmp, strings.TrimSuffix(e.Name(), lockSuffix))
		alive, err := flock.TryLock(path + lockSuffix)
		if err != nil {
			return found, bytes, paths.CacheError("looking at "+path, err)
		}
		if alive == nil {
			continue // an import under way
		}
		n := disk.UsedBelow(path)
		if e.IsDir() {
			found++
			bytes += n
		}
		if remove {
			err = errors.Join(os.RemoveAll(path), os.RemoveAll(path+lockSuffix))
		}
		alive()
		if err != nil {
			return found, bytes, paths.CacheError("removing "+path, err)
		}
	}
	return found, bytes, nil
}

// digestFile returns the SHA-256 of a file, as OCI writes digests, and its size.
func digestFile(ctx context.Context, path string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, fmt.Errorf("reading image: %w", err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.CopyBuffer(h, cancelled{ctx, f}, make([]byte, 1<<20))
	if err != nil {
		return "", 0, fmt.Errorf("reading image: %w", err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), n, nil
}

// cancelled is a reader that ends with its context.
type cancelled struct {
	ctx context.Context
	r   io.Reader
}

func (c cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
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
