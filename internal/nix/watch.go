package nix

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/mvmctl/mvmctl/internal/machine"
)

const (
	maxWatched = 8192                   // folders
	maxChanged = 64                     // names that are told
	quiet      = 300 * time.Millisecond // an editor's save, or a checkout, is many changes
)

// Watcher tells when files below a folder change. What happens between two calls of Next is not
// lost.
type Watcher struct {
	dir    string
	notify *fsnotify.Watcher
	count  int
	quiet  time.Duration
}

// NewWatcher watches a flake's folder and all below it, but not .git, build results and what
// editors leave for a moment. Links are not followed.
func NewWatcher(dir string) (*Watcher, error) {
	w := &Watcher{dir: filepath.Clean(dir), quiet: quiet}
	var err error
	if w.notify, err = fsnotify.NewWatcher(); err != nil {
		return nil, watchError(dir, err)
	}
	if err := w.add(w.dir); err != nil {
		w.notify.Close()
		return nil, err
	}
	return w, nil
}

// Close ends the watch.
func (w *Watcher) Close() error { return w.notify.Close() }

// Next waits until something changed and then was quiet for a moment, and returns what: paths
// relative to the folder, sorted; "." is "too much to tell".
func (w *Watcher) Next(ctx context.Context) ([]string, error) {
	var changed []string
	note := func(name string) {
		if len(changed) < maxChanged && !slices.Contains(changed, name) {
			changed = append(changed, name)
		}
	}
	var still <-chan time.Time
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-still:
			slices.Sort(changed)
			return changed, nil
		case e, ok := <-w.notify.Events:
			if !ok {
				return nil, watchError(w.dir, fs.ErrClosed)
			}
			name, counts, err := w.event(e)
			if err != nil {
				return nil, err
			}
			if !counts {
				continue
			}
			note(name)
		case err := <-w.notify.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return nil, watchError(w.dir, err)
			}
			// Folders may have come that nobody told us of.
			if err := w.add(w.dir); err != nil {
				return nil, err
			}
			note(".")
		}
		timer.Reset(w.quiet)
		still = timer.C
	}
}

// event looks at one change and follows new folders.
func (w *Watcher) event(e fsnotify.Event) (name string, counts bool, err error) {
	rel, err := filepath.Rel(w.dir, e.Name)
	if err != nil || ignored(rel) || e.Op == fsnotify.Chmod {
		return "", false, nil
	}
	if rel == "." && e.Has(fsnotify.Remove|fsnotify.Rename) {
		return "", false, watchError(w.dir, fs.ErrNotExist)
	}
	if e.Has(fsnotify.Create) {
		info, err := os.Lstat(e.Name)
		if err == nil && info.IsDir() {
			if err := w.add(e.Name); err != nil {
				return "", false, err
			}
		}
	}
	return filepath.ToSlash(rel), true, nil
}

// add watches a folder and all below it.
func (w *Watcher) add(root string) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && p != w.dir {
			return nil // gone again
		}
		if err != nil {
			return watchError(p, err)
		}
		if !d.IsDir() {
			return nil
		}
		if rel, err := filepath.Rel(w.dir, p); err != nil || rel != "." && ignored(rel) {
			return fs.SkipDir
		}
		if w.count++; w.count > maxWatched {
			return machine.Errorf("nix.watch", "put the flake into a folder of its own, beside large folders",
				"there are more than %d folders below %s", maxWatched, w.dir)
		}
		if err := w.notify.Add(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return watchError(p, err)
		}
		return nil
	})
}

func watchError(dir string, err error) error {
	return machine.Errorf("nix.watch", "see that the folder is there and can be read; on Linux also raise the limit: sysctl fs.inotify.max_user_watches=524288", "watching %s: %w", dir, err)
}

// ignored reports whether a path is no source: version control, links that nix build makes, and
// the temporary files of editors.
func ignored(rel string) bool {
	for part := range strings.SplitSeq(filepath.ToSlash(rel), "/") {
		switch {
		case part == ".git", part == ".direnv", part == ".jj", part == ".hg", part == "4913",
			part == "result", strings.HasPrefix(part, "result-"),
			strings.HasPrefix(part, ".#"), strings.HasSuffix(part, "~"),
			strings.HasSuffix(part, ".swp"), strings.HasSuffix(part, ".swx"), strings.HasSuffix(part, ".tmp"):
			return true
		}
	}
	return false
}
