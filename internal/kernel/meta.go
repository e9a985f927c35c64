package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// metaFormat is raised when the layout of a cached kernel or the list of WantedModules changes;
// kernels of another format are not seen, and fetched or imported anew.
const metaFormat = 1

const maxMeta = 1 << 20

// Where a kernel came from, for choosing a default.
const (
	kindPackage = "package"
	kindHost    = "host"
	kindFile    = "file"
	kindBuilt   = "built"
)

// meta is the meta.json of a cached kernel. It is written last, so a directory that has one is
// complete.
type meta struct {
	Format   int          `json:"format"`
	ID       string       `json:"id"`
	Release  string       `json:"release"`
	Arch     string       `json:"arch"`
	PVH      bool         `json:"pvh"`
	Image    string       `json:"image,omitempty"`   // name of the boot image
	VMLinux  string       `json:"vmlinux,omitempty"` // name of the uncompressed kernel
	Modules  bool         `json:"modules"`           // lib/modules/<release> exists
	Config   bool         `json:"config"`            // config exists
	Kind     string       `json:"kind"`
	Source   string       `json:"source"`
	Origin   string       `json:"origin,omitempty"` // package files with their digests, or what it was built from
	Build    *BuildRecord `json:"build,omitempty"`
	Imported time.Time    `json:"imported"`
	Files    []fileStamp  `json:"files"`
}

// fileStamp lets Find see that a file is as it was without reading it, and Verify prove it.
type fileStamp struct {
	Path    string `json:"path"` // relative, slashes
	Size    int64  `json:"size"`
	MTimeNS int64  `json:"mtime_ns"`
	SHA256  string `json:"sha256"`
}

// isDefault tells whether a kernel may be the default: a file that somebody gave once, and what
// was built to be asked for, are not.
func (m meta) isDefault() bool { return m.Kind != kindFile && m.Kind != kindBuilt }

func isID(name string) bool {
	return len(name) == 16 && strings.Trim(name, "0123456789abcdef") == ""
}

// readMeta reads and checks the meta.json of a kernel directory.
func readMeta(dir string) (meta, error) {
	raw, err := readFileLimit(filepath.Join(dir, fileMeta), maxMeta)
	if err != nil {
		return meta{}, err
	}
	var m meta
	if err := json.Unmarshal(raw, &m); err != nil {
		return meta{}, badf("%s: %v", fileMeta, err)
	}
	if m.Format != metaFormat {
		return meta{}, badf("%s has format %d, not %d", fileMeta, m.Format, metaFormat)
	}
	if err := checkRelease(m.Release); err != nil {
		return meta{}, err
	}
	for _, name := range []string{m.Image, m.VMLinux} {
		if name != "" && !filepath.IsLocal(name) {
			return meta{}, badf("%s names the file %q", fileMeta, name)
		}
	}
	for _, f := range m.Files {
		if !filepath.IsLocal(filepath.FromSlash(f.Path)) {
			return meta{}, badf("%s names the file %q", fileMeta, f.Path)
		}
	}
	return m, nil
}

// writeMeta writes it durably and atomically.
func writeMeta(dir string, m meta) error { return writeJSON(filepath.Join(dir, fileMeta), m) }

// writeJSON replaces a small file: temporary file, fsync, rename, fsync of the directory.
func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	err = tmp.Chmod(0o644)
	if err == nil {
		_, err = tmp.Write(append(raw, '\n'))
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// kernelOf is the Kernel that a meta describes, without its configuration.
func (s *Store) kernelOf(m meta) Kernel {
	dir := filepath.Join(s.dir, m.ID)
	k := Kernel{ID: m.ID, Release: m.Release, Arch: m.Arch, PVH: m.PVH, Source: m.Source, Build: m.Build}
	for _, f := range m.Files {
		if strings.HasPrefix(f.Path, "lib/") && moduleName(f.Path) != "" {
			k.ModuleCount++
		}
	}
	if m.Image != "" {
		k.BzImage = filepath.Join(dir, m.Image)
	}
	if m.VMLinux != "" {
		k.VMLinux = filepath.Join(dir, m.VMLinux)
	}
	if m.Modules {
		k.Modules = filepath.Join(dir, "lib", "modules", m.Release)
	}
	return k
}

// withConfig reads the configuration that lies beside the kernel, if one does.
func (k Kernel) withConfig() (Kernel, error) {
	raw, err := readFileLimit(filepath.Join(k.dir(), fileConfig), maxKernelConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return Kernel{}, fmt.Errorf("reading kernel configuration: %w", err)
	}
	k.Config = parseConfig(string(raw))
	return k, nil
}

// dir is the kernel's directory in the cache.
func (k Kernel) dir() string {
	if k.VMLinux != "" {
		return filepath.Dir(k.VMLinux)
	}
	return filepath.Dir(k.BzImage)
}

// corrupt is the error for a cached kernel that is not as it was imported.
func (s *Store) corrupt(m meta, format string, args ...any) error {
	return machine.Errorf("kernel.corrupt",
		fmt.Sprintf("delete %s, then run `mvmctl kernel fetch` or give --kernel PATH again", filepath.Join(s.dir, m.ID)),
		"the cached kernel %s (%s) is damaged: %s", m.Release, m.ID, fmt.Sprintf(format, args...))
}

// checkStamps compares sizes and times. A file with another time but the right size may be a
// cache that was copied: then its contents decide, and the new times are remembered.
func (s *Store) checkStamps(ctx context.Context, m meta) error {
	dir := filepath.Join(s.dir, m.ID)
	moved := false
	for _, f := range m.Files {
		st, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(f.Path)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return s.corrupt(m, "%s is missing", f.Path)
		case err != nil:
			return fmt.Errorf("checking kernel: %w", err)
		case !st.Mode().IsRegular() || st.Size() != f.Size:
			return s.corrupt(m, "%s has %d bytes instead of %d", f.Path, st.Size(), f.Size)
		case st.ModTime().UnixNano() != f.MTimeNS:
			moved = true
		}
	}
	if !moved {
		return nil
	}
	if err := s.checkDigests(ctx, m); err != nil {
		return err
	}
	for i, f := range m.Files {
		st, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(f.Path)))
		if err != nil {
			return fmt.Errorf("checking kernel: %w", err)
		}
		m.Files[i].MTimeNS = st.ModTime().UnixNano()
	}
	// A cache that cannot be written (another user's, a read-only mount) is still a good cache.
	if err := writeMeta(dir, m); err != nil && !errors.Is(err, fs.ErrPermission) && !isReadOnly(err) {
		return fmt.Errorf("updating kernel cache: %w", err)
	}
	return nil
}

// checkDigests reads every file.
func (s *Store) checkDigests(ctx context.Context, m meta) error {
	for _, f := range m.Files {
		got, err := hashFile(ctx, filepath.Join(s.dir, m.ID, filepath.FromSlash(f.Path)))
		if errors.Is(err, fs.ErrNotExist) {
			return s.corrupt(m, "%s is missing", f.Path)
		}
		if err != nil {
			return fmt.Errorf("checking kernel: %w", err)
		}
		if got != f.SHA256 {
			return s.corrupt(m, "%s does not have its digest any more", f.Path)
		}
	}
	return nil
}

// Verify reads all files of a cached kernel and compares them with the digests that were taken
// when it was imported. A difference is "kernel.corrupt".
func (s *Store) Verify(ctx context.Context, k Kernel) error {
	m, err := readMeta(filepath.Join(s.dir, k.ID))
	if err != nil || m.ID != k.ID || !isID(k.ID) {
		return machine.Errorf("kernel.missing", remedyMissing, "no kernel %q is cached", k.ID)
	}
	return s.checkDigests(ctx, m)
}

func hashFile(ctx context.Context, path string) (string, error) {
	f, _, err := openRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, &ctxReader{ctx, f}, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
