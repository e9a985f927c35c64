package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// refsDir holds one ref per imported file, named by a digest of its path.
const refsDir = "refs"

// ref remembers that a file was imported, so that it need not be read again.
type ref struct {
	Path    string    `json:"path"`
	Size    int64     `json:"size"`
	MTimeNS int64     `json:"mtime_ns"`
	Tree    string    `json:"tree,omitempty"` // module tree that was used
	TreeNS  int64     `json:"tree_mtime_ns,omitempty"`
	ID      string    `json:"id"`
	Made    time.Time `json:"made"`
}

func (s *Store) refPath(path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(s.dir, refsDir, hex.EncodeToString(sum[:8])+".json")
}

// findPath answers for a kernel file: from the cache when nothing about the file has changed.
func (s *Store) findPath(ctx context.Context, path string) (Kernel, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Kernel{}, fmt.Errorf("resolving kernel path: %w", err)
	}
	if st, err := os.Stat(abs); err == nil {
		if k, ok := s.fromRef(ctx, abs, st); ok {
			return k, nil
		}
	} else if errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, machine.Errorf("kernel.missing", remedyMissing, "there is no kernel file %q", path)
	}
	return s.importFile(ctx, abs, kindFile)
}

func (s *Store) fromRef(ctx context.Context, abs string, st fs.FileInfo) (Kernel, bool) {
	raw, err := readFileLimit(s.refPath(abs), maxMeta)
	if err != nil {
		return Kernel{}, false
	}
	var r ref
	if json.Unmarshal(raw, &r) != nil || r.Path != abs || r.Size != st.Size() ||
		r.MTimeNS != st.ModTime().UnixNano() || !isID(r.ID) || r.TreeNS != mtimeNS(r.Tree) {
		return Kernel{}, false
	}
	m, err := readMeta(filepath.Join(s.dir, r.ID))
	if err != nil || s.checkStamps(ctx, m) != nil || m.Arch != s.arch {
		return Kernel{}, false
	}
	k, err := s.kernelOf(m).withConfig()
	return k, err == nil
}

func mtimeNS(path string) int64 {
	if path == "" {
		return 0
	}
	st, err := os.Stat(path)
	if err != nil {
		return -1
	}
	return st.ModTime().UnixNano()
}

// importFile imports a boot image or a package at an absolute path and remembers it.
func (s *Store) importFile(ctx context.Context, abs, kind string) (Kernel, error) {
	st, err := os.Stat(abs)
	if err != nil {
		return Kernel{}, fmt.Errorf("reading kernel: %w", err)
	}
	deb, err := isDeb(abs)
	if err != nil {
		return Kernel{}, asInvalid(abs, err)
	}
	var k Kernel
	r := ref{Path: abs, Size: st.Size(), MTimeNS: st.ModTime().UnixNano(), Made: time.Now().UTC()}
	if deb {
		k, err = s.importPackages(ctx, []string{abs}, source{kind: kind, label: "file " + abs})
	} else {
		src := source{image: abs, kind: kind, label: "file " + abs}
		if kind == kindHost {
			src.label = abs
		}
		dir, base := filepath.Split(abs)
		if name := "config" + strings.TrimPrefix(base, "vmlinuz"); strings.HasPrefix(base, "vmlinuz") {
			src.config = existing(filepath.Join(dir, name))
		}
		k, _, err = s.add(ctx, src, func(release string) string {
			r.Tree = s.locateTree(dir, release)
			r.TreeNS = mtimeNS(r.Tree)
			return r.Tree
		})
	}
	if err != nil {
		return Kernel{}, err
	}
	r.ID = k.ID
	if err := os.MkdirAll(filepath.Join(s.dir, refsDir), 0o755); err != nil {
		return Kernel{}, fmt.Errorf("remembering kernel: %w", err)
	}
	if err := writeJSON(s.refPath(abs), r); err != nil {
		return Kernel{}, fmt.Errorf("remembering kernel: %w", err)
	}
	return k, nil
}

// locateTree looks for the module tree of a release: beside the image, in the directory that
// holds the image's (…/boot/vmlinuz → …/lib/modules), and on the host.
func (s *Store) locateTree(dir, release string) string {
	dir = filepath.Clean(dir)
	for _, tree := range []string{
		filepath.Join(dir, "lib", "modules", release),
		filepath.Join(dir, "modules", release),
		filepath.Join(filepath.Dir(dir), "lib", "modules", release),
		filepath.Join(filepath.Dir(dir), "usr", "lib", "modules", release),
		filepath.Join(s.hostRoot, "lib", "modules", release),
		filepath.Join(s.hostRoot, "usr", "lib", "modules", release),
	} {
		if existing(filepath.Join(tree, "kernel")) != "" || existing(filepath.Join(tree, modulesBuiltin)) != "" {
			return tree
		}
	}
	if filepath.Base(dir) == release { // Fedora: /lib/modules/<release>/vmlinuz
		return dir
	}
	return ""
}

func existing(path string) string {
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// importPackages unpacks Debian packages that together hold one kernel and imports it.
func (s *Store) importPackages(ctx context.Context, files []string, src source) (Kernel, error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("making kernel cache: %w", err)
	}
	unlock, err := s.lock(ctx, lockUnpack)
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	s.sweep(tmpUnpack)
	dir, err := os.MkdirTemp(s.dir, tmpUnpack)
	if err != nil {
		return Kernel{}, fmt.Errorf("unpacking kernel package: %w", err)
	}
	defer os.RemoveAll(dir)
	for _, f := range files {
		if err := unpackDeb(ctx, f, dir); err != nil {
			return Kernel{}, asInvalid(f, err)
		}
	}
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) == 0 {
		return Kernel{}, asInvalid(files[0], badf("the package has no /boot/vmlinuz-*"))
	}
	src.image, src.shown = images[0], files[0]
	src.config = existing(filepath.Join(dir, "boot", "config-"+strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")))
	k, _, err := s.add(ctx, src, func(release string) string {
		return existing(filepath.Join(dir, "lib", "modules", release))
	})
	return k, err
}
