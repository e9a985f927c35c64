package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/flock"
	"github.com/mvmctl/mvmctl/internal/kernel"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// CacheUse is what one part of the cache takes.
type CacheUse struct {
	Part  string `json:"part"`
	Path  string `json:"path"`
	Count int    `json:"count"`
	Bytes int64  `json:"disk_bytes"` // really used
	About string `json:"about"`
}

// cachePart is one folder of the cache.
type cachePart struct {
	name, dir, about string
	entry            *regexp.Regexp // of what in it is ours and can be made again; nil: nothing
	fresh            time.Duration  // entries younger than this may be in use by a command
	held             time.Duration  // the same, when everything shall go; 0 where a lock says what is in use
	lock             string         // a file in dir that is held while anything in it is in use; "": none
}

// cacheParts are the folders of the cache that this program fills.
func cacheParts() []cachePart {
	return []cachePart{
		{name: "images", dir: "images", about: "root file systems; `mvmctl image prune`"},
		{name: "layers", dir: "blobs/sha256", about: "what was fetched of container images", entry: regexp.MustCompile(`^[0-9a-f]{64}(\.partial)?$|^spool-`), fresh: 24 * time.Hour},
		{name: "kernels", dir: "kernels", about: "guest kernels"},
		{name: "kernel builds", dir: kernel.WorkDir, about: "kernel sources, and builds that were interrupted", entry: regexp.MustCompile(`^((source|build)-[0-9a-f]{16}|\.unpack-[0-9]+)$`), fresh: 24 * time.Hour, lock: kernel.WorkLock},
		{name: "initramfs", dir: "initrd", about: "agent and modules for one kernel", entry: regexp.MustCompile(`^[0-9a-f]{16,64}\.(cpio|img)(\.gz|\.zst)?$`), fresh: time.Hour, held: 10 * time.Minute},
		{name: "agents", dir: "agents", about: "guest agents, unpacked", entry: regexp.MustCompile(`^[0-9a-f]{64}$`), fresh: time.Hour, held: 10 * time.Minute},
		{name: "work", dir: "work", about: "what builds leave on their way", entry: regexp.MustCompile(`^(dockerfile-[0-9]+|(flake|template-[a-z]+)-[0-9a-f]{16}|\.flake-[0-9]+)$`), fresh: 24 * time.Hour, held: 24 * time.Hour},
	}
}

// CacheInfo says what the cache holds and takes.
func (e *Engine) CacheInfo(context.Context) ([]CacheUse, error) {
	var out []CacheUse
	for _, p := range cacheParts() {
		dir := filepath.Join(e.Paths.Cache, p.dir)
		u := CacheUse{Part: p.name, Path: dir, About: p.about}
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, machine.Errorf("state.unreadable", "make it readable, or delete it: it is filled again", "reading the cache: %w", err)
		}
		for _, d := range entries {
			if p.counts(d) {
				u.Count++
			}
		}
		u.Bytes = disk.UsedBelow(dir)
		out = append(out, u)
	}
	return out, nil
}

// counts reports whether an entry is one of the things that the part is for.
func (p cachePart) counts(d fs.DirEntry) bool {
	switch {
	case p.entry != nil:
		return p.entry.MatchString(d.Name())
	case p.name == "images":
		return d.IsDir() && len(d.Name()) == 64
	}
	return d.IsDir() && !strings.HasPrefix(d.Name(), ".") && d.Name() != "refs"
}

// CachePrune removes what can be made or fetched again and nothing uses: images without a name,
// layers of finished imports, initramfs and agents of other versions, leftovers of killed
// builds. With all, images with a name go too where they can be had again, and how young a thing
// is does not matter. With dryRun it only says what would go.
func (e *Engine) CachePrune(ctx context.Context, all, dryRun bool) ([]CacheUse, error) {
	which := PruneUnnamed
	if all {
		which = PruneAgain
	}
	pruned, err := e.PruneImages(ctx, which, dryRun)
	if err != nil {
		return nil, err
	}
	out := []CacheUse{{Part: "images", Path: filepath.Join(e.Paths.Cache, "images"), Count: len(pruned.Images) + pruned.Leftovers, Bytes: pruned.Bytes}}
	used, err := e.bootFiles()
	if err != nil {
		return out, err
	}
	if path, _, err := e.Agent(ctx); err == nil {
		used[filepath.Dir(path)] = true
	}
	for _, p := range cacheParts() {
		if p.entry == nil {
			continue
		}
		if p.name == "layers" {
			layers, release, err := e.LayersInUse(ctx)
			if err != nil {
				return out, err
			}
			defer release()
			maps.Copy(used, layers)
		}
		u, err := p.prune(ctx, filepath.Join(e.Paths.Cache, p.dir), used, all, dryRun)
		if err != nil {
			return out, err
		}
		out = append(out, u)
	}
	return e.pruneCopies(ctx, out, dryRun)
}

// pruneCopies adds what backends keep of images. One that cannot be used here has nothing.
func (e *Engine) pruneCopies(ctx context.Context, out []CacheUse, dryRun bool) ([]CacheUse, error) {
	for _, d := range e.Drivers {
		p, ok := d.(driver.Pruner)
		if !ok {
			continue
		}
		n, err := p.Prune(ctx, dryRun)
		if errors.Is(err, driver.ErrUnavailable) {
			continue
		}
		if err != nil {
			return out, err
		}
		if n > 0 {
			out = append(out, CacheUse{Part: d.Name(), Count: n, About: "copies of images in the backend's own store"})
		}
	}
	return out, nil
}

func (p cachePart) prune(ctx context.Context, dir string, used map[string]bool, all, dryRun bool) (CacheUse, error) {
	u := CacheUse{Part: p.name, Path: dir, About: p.about}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err != nil {
		return u, machine.Errorf("state.unreadable", "make it readable, or delete it: it is filled again", "reading the cache: %w", err)
	}
	if p.lock != "" {
		free, err := flock.TryLock(filepath.Join(dir, p.lock))
		if err != nil || free == nil {
			return u, nil //nolint:nilerr // what cannot be locked stays
		}
		defer free()
	}
	for _, d := range entries {
		path := filepath.Join(dir, d.Name())
		info, err := d.Info()
		if err != nil || !p.entry.MatchString(d.Name()) || used[path] || ctx.Err() != nil {
			continue
		}
		young := p.fresh
		if all {
			young = p.held
		}
		if time.Since(info.ModTime()) < young {
			continue
		}
		if err := u.drop(path, d.IsDir(), dryRun); err != nil {
			return u, err
		}
	}
	return u, ctx.Err()
}

// drop counts and removes one entry, unless somebody writes it: who does holds the file.
func (u *CacheUse) drop(path string, isDir, dryRun bool) error {
	if !isDir {
		free, err := flock.TryLock(path)
		if err != nil || free == nil {
			return nil //nolint:nilerr // what cannot be locked stays
		}
		defer free()
	}
	u.Count++
	u.Bytes += disk.UsedBelow(path)
	if dryRun {
		return nil
	}
	return paths.CacheError("removing "+path, os.RemoveAll(path))
}

// bootFiles are the cached files that machines were last started with.
func (e *Engine) bootFiles() (map[string]bool, error) {
	names, err := e.Records.Names()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, name := range names {
		data, err := os.ReadFile(e.Paths.Machine(name, "").Boot())
		if err != nil {
			continue // never started
		}
		var b machine.Boot
		if json.Unmarshal(data, &b) == nil && e.Locks.Alive(name) {
			used[b.Initrd], used[filepath.Dir(b.Agent)] = true, true
		}
	}
	return used, nil
}
