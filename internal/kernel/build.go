package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/mvmctl/mvmctl/internal/flock"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Builds work in cacheDir/kernelbuild: source-<digest>/ is an unpacked source, build-<digest>/ a
// build under way with its log, .lock is held by the build and by every process that it starts.
const (
	WorkDir   = "kernelbuild"
	WorkLock  = ".lock"
	tmpSource = ".unpack-"
)

// BuildOptions say what Build builds, and how.
type BuildOptions struct {
	Arch     string // "amd64" or "arm64"; "": the store's
	Config   string // a file of options that win over ours; "": none
	Source   string // a folder or a tar file; "": the distribution's package
	Jobs     int    // processes at a time; 0: one per processor
	Progress func(done, total int64, what string)
}

// BuildRecord is what a kernel was built from: the same again gives the same bytes.
type BuildRecord struct {
	Version      string `json:"version"` // of the source
	Source       string `json:"source"`  // package, folder or file
	SourceSHA256 string `json:"source_sha256"`
	ConfigSHA256 string `json:"config_sha256"` // of the options that were asked for
	Compiler     string `json:"compiler"`
	Linker       string `json:"linker"`
}

// Build compiles a kernel without modules from source and puts it into the cache. When the cache
// has one of the same source, options and tools, it does nothing, and made is false. A build that
// was interrupted is continued. One build runs at a time.
//
// Errors: "kernel.tools" names all programs that are missing, "kernel.source" and "kernel.fetch"
// when the source cannot be had, "kernel.config" names the options that the source does not take,
// "kernel.build" has the end of the compiler's output.
func (s *Store) Build(ctx context.Context, o BuildOptions) (k Kernel, made bool, err error) {
	if o.Progress == nil {
		o.Progress = func(int64, int64, string) {}
	}
	t := *s // with another processor's kernels, it may be
	if o.Arch != "" {
		t.arch = o.Arch
	}
	if o.Jobs <= 0 {
		o.Jobs = runtime.NumCPU()
	}
	b := builder{store: &t, work: filepath.Join(filepath.Dir(s.dir), WorkDir), opts: o}
	if b.asked, err = askedOptions(t.arch, o.Config); err != nil {
		return Kernel{}, false, err
	}
	if b.tools, err = findTools(ctx, t.arch); err != nil {
		return Kernel{}, false, err
	}
	if b.code, err = t.findSource(ctx, o.Source, o.Progress); err != nil {
		return Kernel{}, false, err
	}
	if k, ok := t.cachedOrigin(ctx, b.origin()); ok {
		return k, false, nil
	}
	return b.run(ctx)
}

// builder is one build.
type builder struct {
	store *Store
	work  string // cacheDir/kernelbuild
	opts  BuildOptions
	asked []option
	tools toolchain
	code  codeOf
	lock  *os.File
}

// origin names all that the kernel is made from: equal origin, equal kernel.
func (b *builder) origin() string {
	return fmt.Sprintf("built for %s from sha256:%s with options sha256:%s by %s and %s",
		b.store.arch, b.code.digest, optionDigest(b.asked), b.tools.compiler, b.tools.linker)
}

// run does the work under the lock of the work folder.
func (b *builder) run(ctx context.Context) (Kernel, bool, error) {
	if strings.ContainsAny(b.work+b.code.dir, " \t:#%$'\"\\") {
		return Kernel{}, false, machine.Errorf("kernel.build", "choose another cache with MVM_CACHE_DIR, or move the source",
			"the kernel's makefiles cannot handle blanks and marks in %q", strings.TrimSpace(b.work+" "+b.code.dir))
	}
	if err := os.MkdirAll(b.work, 0o755); err != nil {
		return Kernel{}, false, paths.CacheError("making "+b.work, err)
	}
	if err := b.takeLock(ctx); err != nil {
		return Kernel{}, false, err
	}
	defer b.lock.Close()
	// Somebody else may have built it while we waited.
	if k, ok := b.store.cachedOrigin(ctx, b.origin()); ok {
		return k, false, nil
	}
	b.sweep()
	tree, err := b.source(ctx)
	if err != nil {
		return Kernel{}, false, err
	}
	version, err := sourceVersion(tree)
	if err != nil {
		return Kernel{}, false, err
	}
	out, err := b.outFolder()
	if err != nil {
		return Kernel{}, false, err
	}
	m := &maker{builder: b, tree: tree, out: out}
	if err := m.make(ctx); err != nil {
		return Kernel{}, false, err
	}
	b.opts.Progress(0, 0, "putting it into the cache")
	k, _, err := b.store.add(ctx, source{
		image: m.image(), config: m.configPath(), kind: kindBuilt, origin: b.origin(), label: "built from " + b.code.label,
		build: &BuildRecord{
			Version: version, Source: b.code.label, SourceSHA256: b.code.digest, ConfigSHA256: optionDigest(b.asked),
			Compiler: b.tools.compiler, Linker: b.tools.linker,
		},
	}, nil)
	if err != nil {
		return Kernel{}, false, paths.CacheError("importing the kernel", err)
	}
	return k, true, paths.CacheError("removing the build's files", os.RemoveAll(filepath.Dir(out)))
}

// takeLock waits for the work folder. The build's processes inherit the lock: it is free when
// the last of them has ended, also when this program is killed.
func (b *builder) takeLock(ctx context.Context) error {
	f, err := os.OpenFile(filepath.Join(b.work, WorkLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return paths.CacheError("locking "+b.work, err)
	}
	if free, err := flock.TryLock(f.Name()); err == nil && free != nil {
		free()
	} else {
		b.opts.Progress(0, 0, "waiting for another kernel build to end")
	}
	if err := flock.Hold(ctx, f); err != nil {
		return err
	}
	b.lock = f
	return nil
}

// sweep removes what killed builds left and nothing can continue: half-unpacked sources, and
// everything of another boot of this host, whose last writes may never have reached the disk.
func (b *builder) sweep() {
	entries, err := os.ReadDir(b.work)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(b.work, e.Name())
		if strings.HasPrefix(e.Name(), tmpSource) || strings.HasPrefix(e.Name(), "build-") && !sameBoot(path) {
			_ = os.RemoveAll(path)
		}
	}
}

// source returns the top of the unpacked source, which is kept for other builds.
func (b *builder) source(ctx context.Context) (string, error) {
	if b.code.dir != "" {
		return b.code.dir, nil
	}
	final := filepath.Join(b.work, "source-"+b.code.digest[:16])
	if existing(final) != "" {
		return final, nil
	}
	b.opts.Progress(0, 0, "unpacking the source")
	tmp, err := os.MkdirTemp(b.work, tmpSource)
	if err != nil {
		return "", paths.CacheError("unpacking kernel source", err)
	}
	defer os.RemoveAll(tmp)
	tree := filepath.Join(tmp, "source")
	if err := b.code.unpack(ctx, tree); err != nil {
		return "", err
	}
	// Once for eighty thousand files, so that the name means a whole source also after a crash.
	if err := syncFS(tree); err != nil {
		return "", paths.CacheError("unpacking kernel source", err)
	}
	if err := os.Rename(tree, final); err != nil {
		return "", paths.CacheError("unpacking kernel source", err)
	}
	return final, nil
}

// outFolder returns the folder for the build's files: that of an interrupted build of the same,
// which make continues, or a new one.
func (b *builder) outFolder() (string, error) {
	dir := filepath.Join(b.work, "build-"+nameDigest(b.origin()))
	out := filepath.Join(dir, "out")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", paths.CacheError("making "+out, err)
	}
	return out, paths.CacheError("making "+dir, os.WriteFile(filepath.Join(dir, fileBoot), []byte(bootID()), 0o644))
}

// fileBoot says in which boot of the host a build was under way.
const fileBoot = "boot_id"

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

func sameBoot(dir string) bool {
	raw, err := readFileLimit(filepath.Join(dir, fileBoot), 256)
	return err == nil && len(raw) > 0 && string(raw) == bootID()
}

// removeIfThere ignores that a file is gone already.
func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
