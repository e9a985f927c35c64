package kernel

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

const (
	modulesDep     = "modules.dep"
	modulesBuiltin = "modules.builtin"

	maxModulesDep     = 16 << 20 // Debian's generic kernel: 400 KB
	maxModulesDepLine = 1 << 20
	maxModuleName     = 64 // MODULE_NAME_LEN in the kernel is 56
)

// depTree is what modules.dep says (modules.dep(5)): paths relative to the module tree.
type depTree struct {
	path map[string]string   // module name → file
	deps map[string][]string // file → files it needs, depmod's order: to be loaded from the last on
}

// parseModulesDep reads a modules.dep file.
func parseModulesDep(r io.Reader) (depTree, error) {
	t := depTree{path: map[string]string{}, deps: map[string][]string{}}
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxModulesDepLine)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		file, rest, ok := strings.Cut(line, ":")
		if !ok {
			return depTree{}, badf("modules.dep: a line without a colon")
		}
		if err := checkModulePath(file); err != nil {
			return depTree{}, err
		}
		needs := strings.Fields(rest)
		for _, n := range needs {
			if err := checkModulePath(n); err != nil {
				return depTree{}, err
			}
		}
		t.path[moduleName(file)] = file
		t.deps[file] = needs
	}
	if err := sc.Err(); err != nil {
		return depTree{}, badf("modules.dep: %v", err)
	}
	return t, nil
}

// checkModulePath refuses paths that would leave the module tree.
func checkModulePath(p string) error {
	if p == "" || path.IsAbs(p) || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") ||
		strings.ContainsAny(p, "\\\x00") || moduleName(p) == "" {
		return badf("modules.dep: bad path %q", p)
	}
	return nil
}

// loadOrder lists the files for the wanted modules, dependencies first, and the names that are
// neither in the tree nor built in.
func (t depTree) loadOrder(wanted []string, builtin map[string]bool) (files, missing []string) {
	seen := map[string]bool{}
	for _, want := range wanted {
		name := canonicalName(want)
		file, ok := t.path[name]
		switch {
		case ok:
			files = t.appendWithDeps(files, file, seen)
		case !builtin[name] && !slices.Contains(missing, want):
			missing = append(missing, want)
		}
	}
	return files, missing
}

// appendWithDeps walks depth first without recursion: a hostile file may hold a chain as long as
// it likes. A cycle is cut where it closes.
func (t depTree) appendWithDeps(files []string, file string, seen map[string]bool) []string {
	type frame struct {
		file string
		next int // dependencies still to visit, from the last one down
	}
	if seen[file] {
		return files
	}
	seen[file] = true
	stack := []frame{{file, len(t.deps[file])}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if top.next == 0 {
			files = append(files, top.file)
			stack = stack[:len(stack)-1]
			continue
		}
		top.next--
		if dep := t.deps[top.file][top.next]; !seen[dep] {
			seen[dep] = true
			stack = append(stack, frame{dep, len(t.deps[dep])})
		}
	}
	return files
}

// writeModulesDep writes the tree in depmod's form, sorted so that equal trees give equal bytes.
func (t depTree) writeModulesDep(w io.Writer) error {
	files := make([]string, 0, len(t.deps))
	for f := range t.deps {
		files = append(files, f)
	}
	slices.Sort(files)
	for _, f := range files {
		var line strings.Builder
		line.WriteString(f + ":")
		for _, d := range t.deps[f] {
			line.WriteString(" " + d)
		}
		if _, err := fmt.Fprintln(w, line.String()); err != nil {
			return err
		}
	}
	return nil
}

// parseBuiltin reads modules.builtin: one path per line.
func parseBuiltin(raw []byte) map[string]bool {
	names := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		if n := moduleName(strings.TrimSpace(line)); n != "" {
			names[n] = true
		}
	}
	return names
}

// moduleName returns the name under which the kernel knows the module in a file, "" if the file
// is no module: virtio-rng.ko.xz is virtio_rng.
func moduleName(file string) string {
	base := path.Base(file)
	for _, ext := range []string{"", ".xz", ".zst", ".gz"} {
		if name, ok := strings.CutSuffix(base, ".ko"+ext); ok && name != "" && len(name) <= maxModuleName {
			return canonicalName(name)
		}
	}
	return ""
}

// canonicalName maps the two spellings of a module name to the kernel's own.
func canonicalName(name string) string { return strings.ReplaceAll(name, "-", "_") }
