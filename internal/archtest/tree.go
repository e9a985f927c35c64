package archtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Tree is a parsed module: every Go file of every build tag, and the names of all text files.
type Tree struct {
	Module   string            // module path of go.mod
	Requires []string          // module paths that go.mod requires
	Packages map[string]*Group // by folder, slash-separated, relative to the module

	fsys fs.FS
	fset *token.FileSet
	text []string // text files that are ours to keep clean
}

// Group is the Go files of one folder.
type Group struct {
	Dir   string // "internal/machine"
	Files []*File
}

// File is one parsed Go file.
type File struct {
	Path    string
	Test    bool
	AST     *ast.File
	Imports []Import
	Lines   int
}

// Import is one import of a file.
type Import struct {
	Path string
	Name string // as the file refers to it: the explicit name or the last path element
	Pos  token.Pos
}

// Violation is one broken law.
type Violation struct {
	Where string // file:line, or a folder
	Law   string // short, stable name of the law
	What  string // what is wrong
	Fix   string // what to do about it
}

// String returns the violation on one line.
func (v Violation) String() string {
	return fmt.Sprintf("%s: [%s] %s; %s", v.Where, v.Law, v.What, v.Fix)
}

// Load reads the module whose root is fsys. A file that does not parse is an error.
func Load(fsys fs.FS) (*Tree, error) {
	t := &Tree{fsys: fsys, fset: token.NewFileSet(), Packages: map[string]*Group{}}
	if err := t.readGoMod(); err != nil {
		return nil, err
	}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while we walk: a build writes temporary files
		}
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != "." && skipDir(p, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		if isText(d.Name()) {
			t.text = append(t.text, p)
		}
		if !strings.HasSuffix(p, ".go") || strings.Contains("/"+p, "/testdata/") || strings.HasPrefix(d.Name(), "_") {
			return nil
		}
		return t.addGo(p)
	})
	return t, err
}

// skipDir leaves out what is not source: version control, tools and build results.
func skipDir(p, name string) bool {
	if p == "bin" || p == "dist" || p == ".tools" || p == "internal/agentbin/bin" {
		return true
	}
	return name == ".git" || name == "node_modules" || name == "vendor"
}

func isText(name string) bool {
	switch path.Ext(name) {
	case ".go", ".md", ".sh", ".yml", ".yaml", ".toml", ".json", ".txtar", ".txt", ".mod":
		return true
	}
	return slices.Contains([]string{"Justfile", "run", "LICENSE", "NOTICE", ".gitignore", ".gitattributes", ".editorconfig"}, name)
}

func (t *Tree) readGoMod() error {
	data, err := fs.ReadFile(t.fsys, "go.mod")
	if err != nil {
		return fmt.Errorf("reading go.mod: %w", err)
	}
	inRequire := false
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		switch {
		case len(words) >= 2 && words[0] == "module":
			t.Module = words[1]
		case len(words) >= 2 && words[0] == "require" && words[1] == "(":
			inRequire = true
		case len(words) >= 3 && words[0] == "require":
			t.Requires = append(t.Requires, words[1])
		case len(words) == 1 && words[0] == ")":
			inRequire = false
		case inRequire && len(words) >= 2:
			t.Requires = append(t.Requires, words[0])
		}
	}
	if t.Module == "" {
		return errors.New("reading go.mod: no module line")
	}
	return nil
}

func (t *Tree) addGo(p string) error {
	data, err := fs.ReadFile(t.fsys, p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	parsed, err := parser.ParseFile(t.fset, p, data, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return fmt.Errorf("parsing %s: %w", p, err)
	}
	f := &File{Path: p, Test: strings.HasSuffix(p, "_test.go"), AST: parsed, Lines: countLines(data)}
	for _, spec := range parsed.Imports {
		ipath, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("parsing %s: import %s: %w", p, spec.Path.Value, err)
		}
		name := path.Base(ipath)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		f.Imports = append(f.Imports, Import{Path: ipath, Name: name, Pos: spec.Pos()})
	}
	dir := path.Dir(p)
	g := t.Packages[dir]
	if g == nil {
		g = &Group{Dir: dir}
		t.Packages[dir] = g
	}
	g.Files = append(g.Files, f)
	return nil
}

func countLines(data []byte) int {
	n := 0
	s := bufio.NewScanner(bytes.NewReader(data))
	s.Buffer(nil, len(data)+1)
	for s.Scan() {
		n++
	}
	return n
}

// dirs returns the folders with Go files, sorted.
func (t *Tree) dirs() []string {
	var out []string
	for d := range t.Packages {
		out = append(out, d)
	}
	slices.Sort(out)
	return out
}

// at returns pos as file:line.
func (t *Tree) at(pos token.Pos) string {
	p := t.fset.Position(pos)
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// key returns the name under which the table knows a folder.
func key(dir string) string {
	if dir == "nix" {
		return "nix-flake" // the folder that embeds the flake; internal/nix runs nix
	}
	return strings.TrimPrefix(dir, "internal/")
}

// Check runs all laws and returns what is broken, in the order of the tree.
func (t *Tree) Check() []Violation {
	var out []Violation
	for _, dir := range t.dirs() {
		g := t.Packages[dir]
		out = append(out, t.checkImports(g)...)
		out = append(out, t.checkPackage(g)...)
		for _, f := range g.Files {
			out = append(out, t.checkFile(g, f)...)
		}
	}
	out = append(out, t.checkDependencies()...)
	out = append(out, t.checkCodes()...)
	out = append(out, t.checkText()...)
	return out
}
