package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mvmctl/mvmctl/internal/flock"
	"github.com/mvmctl/mvmctl/internal/paths"
)

const (
	folderLock = "lock"
	usePrefix  = "use-"
)

// keep says which layers this import needs, before it looks whether they are there: from then
// on until Close nobody takes them away (see InUse).
func (b *Blobs) keep(ctx context.Context, digests ...string) error {
	unlock, err := flock.Lock(ctx, filepath.Join(b.dir, folderLock))
	if err != nil {
		return err
	}
	defer unlock()
	if b.use == nil {
		if _, err := usedLayers(b.dir); err != nil { // sweeps what killed imports left
			return err
		}
		f, err := os.CreateTemp(b.dir, usePrefix+"*")
		if err != nil {
			return paths.CacheError("storing a layer", err)
		}
		if err := flock.Hold(ctx, f); err != nil {
			return err
		}
		b.use = f
	}
	for _, d := range digests {
		if _, err := b.use.WriteString(strings.TrimPrefix(d, digestPrefix) + "\n"); err != nil {
			return paths.CacheError("storing a layer", err)
		}
	}
	return nil
}

// Close ends an import: its layers are nobody's any more.
func (b *Blobs) Close() {
	if b.use != nil {
		_ = os.Remove(b.use.Name()) // if that fails, the next one sweeps it
		_ = b.use.Close()
		b.use = nil
	}
}

// InUse returns the files of a folder of blobs that imports under way need, whole and
// unfinished ones. Until release no import can begin to need another: what is not in use can be
// deleted.
func InUse(ctx context.Context, dir string) (files map[string]bool, release func(), err error) {
	dir = filepath.Join(dir, "sha256")
	if _, err := os.Stat(dir); err != nil {
		return nil, func() {}, nil // nothing was ever fetched
	}
	unlock, err := flock.Lock(ctx, filepath.Join(dir, folderLock))
	if err != nil {
		return nil, nil, err
	}
	names, err := usedLayers(dir)
	if err != nil {
		unlock()
		return nil, nil, err
	}
	files = map[string]bool{}
	for _, n := range names {
		path := filepath.Join(dir, n)
		files[path], files[path+partialSuffix] = true, true
	}
	return files, unlock, nil
}

// usedLayers reads what living imports said that they need, and removes what dead ones did. The
// caller holds the folder's lock.
func usedLayers(dir string) ([]string, error) {
	lists, err := filepath.Glob(filepath.Join(dir, usePrefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("looking for layers in use: %w", err)
	}
	var names []string
	for _, list := range lists {
		dead, err := flock.TryLock(list)
		if err != nil {
			return nil, fmt.Errorf("looking for layers in use: %w", err)
		}
		if dead != nil {
			err := os.Remove(list)
			dead()
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, paths.CacheError("removing what an import left", err)
			}
			continue
		}
		data, err := os.ReadFile(list)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // an import that ends needs no lock
			return nil, fmt.Errorf("looking for layers in use: %w", err)
		}
		for line := range bytes.Lines(data) {
			names = append(names, string(bytes.TrimSuffix(line, []byte("\n"))))
		}
	}
	return names, nil
}
