package kernel

import (
	"bytes"
	"context"
	"debug/elf"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
)

const (
	maxModule    = 64 << 20 // uncompressed; Debian's largest (amdgpu) is 20 MB with its symbols
	maxTreeFiles = 100_000
	maxModinfo   = 1 << 20
)

// modinfo is the part of a module's .modinfo section that we use.
type modinfo struct {
	depends  []string
	vermagic string // "6.1.0-56-cloud-amd64 SMP …"
}

// readModule returns a module file uncompressed, whatever its extension says (.ko, .ko.xz,
// .ko.zst, .ko.gz).
func readModule(ctx context.Context, path string) ([]byte, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > maxModule {
		return nil, badf("module %s is larger than %d bytes", filepath.Base(path), maxModule)
	}
	head := make([]byte, 6)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, truncated("module "+filepath.Base(path), err)
	}
	comp := sniffCompression(head)
	if comp == "" {
		return nil, badf("module %s is neither an ELF file nor compressed", filepath.Base(path))
	}
	var out bytes.Buffer
	out.Grow(int(size))
	if _, err := decompress(ctx, &out, f, comp, maxModule); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// parseModinfo reads the .modinfo section of a module: NUL-separated key=value strings.
func parseModinfo(module []byte) (modinfo, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return modinfo{}, badf("it is no ELF file: %v", err)
	}
	defer f.Close()
	sec := f.Section(".modinfo")
	if sec == nil {
		return modinfo{}, badf("it has no .modinfo section")
	}
	raw, err := io.ReadAll(io.LimitReader(sec.Open(), maxModinfo))
	if err != nil {
		return modinfo{}, badf("its .modinfo section: %v", err)
	}
	var info modinfo
	for pair := range bytes.SplitSeq(raw, []byte{0}) {
		key, value, _ := strings.Cut(string(pair), "=")
		switch key {
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					info.depends = append(info.depends, canonicalName(name))
				}
			}
		case "vermagic":
			info.vermagic = value
		}
	}
	return info, nil
}

// indexModules lists the modules below a tree: name → path relative to the tree.
func indexModules(ctx context.Context, tree string) (map[string]string, error) {
	index := map[string]string{}
	tree, err := filepath.EvalSymlinks(tree) // WalkDir does not follow a link, not even at its root
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if cerr := ctx.Err(); cerr != nil {
			return cerr
		}
		name := moduleName(d.Name())
		if !d.Type().IsRegular() || name == "" {
			return nil
		}
		rel, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		if len(index) >= maxTreeFiles {
			return badf("it has more than %d modules", maxTreeFiles)
		}
		index[name] = filepath.ToSlash(rel)
		return nil
	})
	return index, err
}

// closure finds the files that the wanted modules need, from the modules themselves: a package
// has no modules.dep (depmod makes it when the package is installed), and a module's own
// `depends` cannot be out of date.
func closure(ctx context.Context, tree, release string, wanted []string) (depTree, error) {
	index, err := indexModules(ctx, tree)
	if err != nil {
		return depTree{}, err
	}
	t := depTree{path: map[string]string{}, deps: map[string][]string{}}
	queue := append([]string(nil), wanted...)
	for len(queue) > 0 {
		name := canonicalName(queue[0])
		queue = queue[1:]
		file, ok := index[name]
		if _, done := t.deps[file]; !ok || done {
			continue
		}
		raw, err := readModule(ctx, filepath.Join(tree, filepath.FromSlash(file)))
		if err != nil {
			return depTree{}, err
		}
		info, err := parseModinfo(raw)
		if err != nil {
			return depTree{}, badf("module %s: %v", name, err)
		}
		if magic, _, _ := strings.Cut(info.vermagic, " "); magic != release {
			return depTree{}, badf("module %s is for kernel %q, not %q", name, magic, release)
		}
		t.path[name] = file
		t.deps[file] = []string{}
		for _, dep := range info.depends {
			if depFile, ok := index[dep]; ok { // else it is built in
				t.deps[file] = append(t.deps[file], depFile)
			}
		}
		queue = append(queue, info.depends...)
	}
	return t, nil
}
