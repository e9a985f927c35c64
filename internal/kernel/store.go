package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unicode"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Store is the cache of guest kernels. Any number of processes may use one cache at a time.
//
// Layout of cacheDir/kernels: <id>/ holds one kernel (vmlinuz, vmlinux, config, meta.json,
// lib/modules/<release>/…) and never changes; refs/ remembers which kernel came from which file;
// names with a leading dot are locks and work in progress.
type Store struct {
	dir      string // cacheDir/kernels
	hostRoot string // "/", or a test's stand-in
	arch     string
	tools    string // directory of apt-get and apt-cache; "": from PATH
}

// Option changes how a Store works.
type Option func(*Store)

// WithHostRoot looks for the host's own kernels below root instead of "/".
func WithHostRoot(root string) Option { return func(s *Store) { s.hostRoot = root } }

// WithArch wants kernels for another processor (Go's spelling) than this program's.
func WithArch(arch string) Option { return func(s *Store) { s.arch = arch } }

// WithTools takes apt-get and apt-cache from a directory instead of from PATH.
func WithTools(dir string) Option { return func(s *Store) { s.tools = dir } }

// New returns the store in cacheDir. It touches nothing before it has to.
func New(cacheDir string, opts ...Option) *Store {
	s := &Store{dir: filepath.Join(cacheDir, "kernels"), hostRoot: "/", arch: runtime.GOARCH}
	for _, o := range opts {
		o(s)
	}
	return s
}

const remedyMissing = "run `mvmctl kernel fetch`, or give one with --kernel PATH"

// Find returns the kernel that want names.
//
//   - "" is the default: the newest cached kernel that came from a package or from the host's
//     /boot; then a suitable one of the host; then the distribution's package (see Fetch); and if
//     that cannot be had, a kernel that was given as a file or built before.
//   - A path (anything with a slash) is a kernel file, or a .deb with one. It is imported once and
//     again when it changes. Its modules are looked for beside it and in /lib/modules.
//   - Anything else is the release or the beginning of the id (4 digits or more) of a cached one.
//
// For a cached kernel it costs a few stat calls. The errors are "kernel.missing",
// "kernel.corrupt", "boot.kernel_invalid" and those of Fetch.
func (s *Store) Find(ctx context.Context, want string) (Kernel, error) {
	switch {
	case want == "":
		return s.findDefault(ctx)
	case strings.ContainsRune(want, filepath.Separator):
		return s.findPath(ctx, want)
	}
	return s.findNamed(ctx, want)
}

func (s *Store) findDefault(ctx context.Context) (Kernel, error) {
	entries, err := s.entries(ctx)
	if err != nil {
		return Kernel{}, err
	}
	var fallback *entry
	for i, e := range entries { // newest first
		switch {
		case e.kernel.Arch != s.arch || e.err != nil:
		case e.meta.isDefault():
			return e.kernel.withConfig()
		case fallback == nil:
			fallback = &entries[i]
		}
	}
	if k, err := s.findHost(ctx); err == nil || ctx.Err() != nil {
		return k, err
	}
	k, err := s.Fetch(ctx, func(int64, int64, string) {})
	if err != nil && fallback != nil && ctx.Err() == nil {
		return fallback.kernel.withConfig()
	}
	return k, err
}

func (s *Store) findNamed(ctx context.Context, want string) (Kernel, error) {
	entries, err := s.entries(ctx)
	if err != nil {
		return Kernel{}, err
	}
	var hits []entry
	foreign := ""
	for _, e := range entries {
		if e.meta.Release == want || e.meta.ID == want || len(want) >= 4 && strings.HasPrefix(e.meta.ID, want) {
			if e.meta.Arch != s.arch {
				foreign = e.meta.Arch
				continue
			}
			hits = append(hits, e)
		}
	}
	if len(hits) == 0 && foreign != "" {
		return Kernel{}, machine.Errorf("kernel.missing", "`mvmctl kernel list` shows the cached kernels",
			"kernel %q is for %s, and machines here are %s", want, foreign, s.arch)
	}
	if len(hits) == 0 {
		return Kernel{}, machine.Errorf("kernel.missing", "`mvmctl kernel list` shows the cached kernels; a file needs a slash: ./"+want,
			"no cached kernel has the release or id %q", want)
	}
	for _, h := range hits[1:] {
		if h.meta.Release != hits[0].meta.Release {
			return Kernel{}, machine.Errorf("kernel.missing", "give more digits of the id; `mvmctl kernel list` shows them",
				"%q is the beginning of several kernels' ids", want)
		}
	}
	if hits[0].err != nil {
		return Kernel{}, hits[0].err
	}
	return hits[0].kernel.withConfig()
}

// entry is one kernel of the cache; err says why it must not be used.
type entry struct {
	meta   meta
	kernel Kernel // without Config
	err    error
}

// entries reads the cache, newest release first. What cannot be read as a kernel at all (another
// version's format, a half-removed directory) is left out.
func (s *Store) entries(ctx context.Context) ([]entry, error) {
	names, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading kernel cache: %w", err)
	}
	var found []entry
	for _, n := range names {
		if !n.IsDir() || !isID(n.Name()) {
			continue
		}
		m, err := readMeta(filepath.Join(s.dir, n.Name()))
		if err != nil || m.ID != n.Name() {
			continue
		}
		e := entry{meta: m, kernel: s.kernelOf(m)}
		e.err = s.checkStamps(ctx, m)
		found = append(found, e)
	}
	slices.SortStableFunc(found, func(a, b entry) int {
		if c := compareReleases(b.meta.Release, a.meta.Release); c != 0 {
			return c
		}
		return b.meta.Imported.Compare(a.meta.Imported)
	})
	return found, nil
}

// List returns the cached kernels, the default first and then by release, the newest first.
// Damaged ones are included: Verify tells.
func (s *Store) List(ctx context.Context) ([]Kernel, error) {
	entries, err := s.entries(ctx)
	if err != nil {
		return nil, err
	}
	kernels := make([]Kernel, len(entries))
	for i, e := range entries {
		kernels[i] = e.kernel
		if k, err := e.kernel.withConfig(); err == nil {
			kernels[i] = k
		}
	}
	// The order of findDefault.
	first := slices.IndexFunc(entries, func(e entry) bool { return e.err == nil && e.meta.Arch == s.arch && e.meta.isDefault() })
	if first > 0 {
		k := kernels[first]
		kernels = slices.Insert(slices.Delete(kernels, first, first+1), 0, k)
	}
	if first >= 0 {
		kernels[0].Default = true
	}
	return kernels, nil
}

// findHost imports the newest suitable kernel from the host's /boot.
func (s *Store) findHost(ctx context.Context) (Kernel, error) {
	files, err := filepath.Glob(filepath.Join(s.hostRoot, "boot", "vmlinuz-*"))
	if err != nil {
		return Kernel{}, err
	}
	slices.SortFunc(files, func(a, b string) int { return compareReleases(filepath.Base(b), filepath.Base(a)) })
	for _, f := range files {
		k, err := s.importFile(ctx, f, kindHost)
		if err == nil || ctx.Err() != nil {
			return k, err
		}
	}
	return Kernel{}, machine.Errorf("kernel.missing", remedyMissing, "the host has no kernel that suits a microVM")
}

// compareReleases orders versions as people do: runs of digits by value, the rest by letters.
func compareReleases(a, b string) int {
	for a != "" && b != "" {
		na, ra := leadingRun(a)
		nb, rb := leadingRun(b)
		a, b = ra, rb
		da, db := unicode.IsDigit(rune(na[0])), unicode.IsDigit(rune(nb[0]))
		if da && db {
			na, nb = strings.TrimLeft(na, "0"), strings.TrimLeft(nb, "0")
			if c := cmp.Compare(len(na), len(nb)); c != 0 {
				return c
			}
		}
		if c := strings.Compare(na, nb); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// leadingRun splits off the leading digits, or the leading non-digits.
func leadingRun(s string) (run, rest string) {
	digit := func(c byte) bool { return c >= '0' && c <= '9' }
	i := 1
	for i < len(s) && digit(s[i]) == digit(s[0]) {
		i++
	}
	return s[:i], s[i:]
}
