package kernel

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	lockImport = ".import.lock" // held while a kernel is unpacked and put in place
	lockUnpack = ".unpack.lock" // held while a package is unpacked
	lockFetch  = ".fetch.lock"  // held while a package is downloaded
	tmpImport  = ".import-"
	tmpUnpack  = ".unpack-"
	tmpFetch   = ".fetch-"
)

// source is a kernel outside the cache.
type source struct {
	image  string // boot image
	shown  string // name for messages, "" for image
	config string // config file, "" if there is none
	tree   string // module tree for release, "" if there is none
	kind   string
	label  string // Kernel.Source
	origin string
	build  *BuildRecord // of what was built here
}

// add unpacks a kernel and puts it into the cache, or finds that it is there already. locate is
// asked for the module tree once the release is known.
func (s *Store) add(ctx context.Context, src source, locate func(release string) string) (Kernel, meta, error) {
	unlock, err := s.lock(ctx, lockImport)
	if err != nil {
		return Kernel{}, meta{}, err
	}
	defer unlock()
	s.sweep(tmpImport)
	dir, err := os.MkdirTemp(s.dir, tmpImport)
	if err != nil {
		return Kernel{}, meta{}, fmt.Errorf("importing kernel: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return Kernel{}, meta{}, fmt.Errorf("importing kernel: %w", err)
	}
	m, err := s.stage(ctx, src, locate, dir)
	if err != nil {
		return Kernel{}, meta{}, asInvalid(cmp.Or(src.shown, src.image), err)
	}
	final := filepath.Join(s.dir, m.ID)
	if old, err := readMeta(final); err == nil && s.checkDigests(ctx, old) == nil {
		// The same bytes. A package or the host's own outranks a file as the default.
		if old.Kind == kindFile && m.Kind != kindFile || old.Origin == "" && m.Origin != "" || m.Kind == kindBuilt {
			old.Kind, old.Source, old.Origin, old.Build = m.Kind, m.Source, m.Origin, m.Build
			if err := writeMeta(final, old); err != nil {
				return Kernel{}, meta{}, fmt.Errorf("updating kernel cache: %w", err)
			}
		}
		k, err := s.kernelOf(old).withConfig()
		return k, old, err
	}
	if err := s.place(dir, final); err != nil {
		return Kernel{}, meta{}, fmt.Errorf("importing kernel: %w", err)
	}
	k, err := s.kernelOf(m).withConfig()
	return k, m, err
}

// place renames a finished directory to its final name; a damaged kernel there is moved away.
func (s *Store) place(dir, final string) error {
	err := os.Rename(dir, final)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		away, terr := os.MkdirTemp(s.dir, tmpImport)
		if terr != nil {
			return errors.Join(err, terr)
		}
		defer os.RemoveAll(away)
		if rerr := os.Rename(final, filepath.Join(away, "old")); rerr != nil {
			return errors.Join(err, rerr)
		}
		err = os.Rename(dir, final)
	}
	if err != nil {
		return err
	}
	return syncDir(s.dir)
}

// sweep removes what a killed process left; the caller holds the lock under which it was made.
func (s *Store) sweep(prefix string) {
	left, err := filepath.Glob(filepath.Join(s.dir, prefix+"*"))
	if err != nil {
		return
	}
	for _, l := range left {
		os.RemoveAll(l)
	}
}

// stage fills dir with a complete cache entry.
func (s *Store) stage(ctx context.Context, src source, locate func(string) string, dir string) (meta, error) {
	img, err := unpackImage(ctx, src.image, dir)
	if err != nil {
		return meta{}, err
	}
	if img.arch != s.arch {
		return meta{}, badf("it is for %s, and machines here are %s", img.arch, s.arch)
	}
	if src.tree == "" && locate != nil {
		src.tree = locate(img.release)
	}
	m := meta{
		Format: metaFormat, Release: img.release, Arch: img.arch, PVH: img.pvh, Image: img.image,
		VMLinux: img.vmlinux, Kind: src.kind, Source: src.label, Origin: src.origin, Build: src.build, Imported: time.Now().UTC(),
	}
	config, err := stageConfig(src, img, dir)
	if err != nil {
		return meta{}, err
	}
	m.Config = config != nil
	kept, builtin, err := stageModules(ctx, src.tree, img.release, dir)
	if err != nil {
		return meta{}, err
	}
	m.Modules = len(kept.path) > 0 || len(builtin) > 0
	if err := checkSuits(config, kept, src.tree != ""); err != nil {
		return meta{}, err
	}
	if m.Files, err = stampFiles(ctx, dir); err != nil {
		return meta{}, err
	}
	m.ID = kernelID(img, m)
	return m, writeMeta(dir, m)
}

// stageConfig writes the options that are set to dir/config.
func stageConfig(src source, img image, dir string) (map[string]string, error) {
	config := img.config
	if src.config != "" {
		// Unreadable (Debian's kernels before 6.0 had 0600): then what the image says must do.
		if raw, err := readFileLimit(src.config, maxKernelConfig); err == nil {
			config = parseConfig(string(raw))
		}
	}
	if config == nil {
		return nil, nil
	}
	names := make([]string, 0, len(config))
	for n := range config {
		names = append(names, n)
	}
	slices.Sort(names)
	return config, writeSynced(filepath.Join(dir, fileConfig), func(w io.Writer) error {
		var text strings.Builder
		for _, n := range names {
			text.WriteString(n + "=" + config[n] + "\n")
		}
		_, err := io.WriteString(w, text.String())
		return err
	})
}

// stageModules copies the wanted modules with what they need, and writes their modules.dep.
func stageModules(ctx context.Context, tree, release, dir string) (depTree, map[string]bool, error) {
	if tree == "" {
		return depTree{}, nil, nil
	}
	kept, err := closure(ctx, tree, release, WantedModules())
	if err != nil {
		return depTree{}, nil, err
	}
	builtin, err := readBuiltin(tree)
	if err != nil || len(kept.path) == 0 && len(builtin) == 0 {
		return depTree{}, nil, err
	}
	root := filepath.Join(dir, "lib", "modules", release)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return depTree{}, nil, err
	}
	for _, rel := range kept.path {
		if err := copyModule(ctx, tree, root, rel); err != nil {
			return depTree{}, nil, err
		}
	}
	err = writeSynced(filepath.Join(root, modulesDep), kept.writeModulesDep)
	if err == nil && len(builtin) > 0 {
		raw, rerr := readFileLimit(filepath.Join(tree, modulesBuiltin), maxModulesDep)
		err = errors.Join(rerr, writeSynced(filepath.Join(root, modulesBuiltin), func(w io.Writer) error {
			_, err := w.Write(raw)
			return err
		}))
	}
	return kept, builtin, err
}

func copyModule(ctx context.Context, tree, root, rel string) error {
	from, _, err := openRegular(filepath.Join(tree, filepath.FromSlash(rel)))
	if err != nil {
		return err
	}
	defer from.Close()
	to := filepath.Join(root, filepath.FromSlash(rel))
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return writeSynced(to, func(w io.Writer) error {
		_, err := io.Copy(w, &ctxReader{ctx, io.LimitReader(from, maxModule)})
		return err
	})
}

// checkSuits refuses a kernel that cannot run a microVM, as far as its configuration tells.
func checkSuits(config map[string]string, kept depTree, haveTree bool) error {
	if config == nil {
		return nil
	}
	for _, need := range []struct {
		module  string // file name of the module, "" if it can only be built in
		options []string
	}{
		{"", []string{"CONFIG_BLK_DEV_INITRD"}},
		{"virtio_blk", []string{"CONFIG_VIRTIO_BLK"}},
		{"ext4", []string{"CONFIG_EXT4_FS"}},
		{"overlay", []string{"CONFIG_OVERLAY_FS"}},
	} {
		option := need.options[0]
		switch value := config[option]; {
		case value == "y":
		case value != "m":
			return badf("it was built without %s", option)
		case kept.path[need.module] == "" && haveTree:
			return badf("its module tree has no %s", need.module)
		case kept.path[need.module] == "":
			return badf("it needs its modules, and there is no lib/modules for it beside it or on this host")
		}
	}
	return nil
}

// stampFiles records all files below dir.
func stampFiles(ctx context.Context, dir string) ([]fileStamp, error) {
	var stamps []fileStamp
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		sum, err := hashFile(ctx, path)
		if err != nil {
			return err
		}
		stamps = append(stamps, fileStamp{
			Path: filepath.ToSlash(rel), Size: st.Size(), MTimeNS: st.ModTime().UnixNano(), SHA256: sum,
		})
		return nil
	})
	return stamps, err
}

// kernelID hashes what a machine can tell apart: the image and its modules, not where they came
// from or when.
func kernelID(img image, m meta) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "mvm-kernel %d\n%s %s\n%s\n", metaFormat, m.Arch, m.Release, img.digest)
	for _, f := range m.Files {
		if strings.HasPrefix(f.Path, "lib/") {
			fmt.Fprintf(sum, "%s %s\n", f.SHA256, f.Path)
		}
	}
	return hex.EncodeToString(sum.Sum(nil))[:16]
}
