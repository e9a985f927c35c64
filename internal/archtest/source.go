package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// checkPackage checks what holds for a folder as a whole: its name and its package doc.
func (t *Tree) checkPackage(g *Group) []Violation {
	var out []Violation
	base := path.Base(g.Dir)
	for part := range strings.SplitSeq(g.Dir, "/") {
		if slices.Contains(bannedPackageNames(), part) || strings.HasSuffix(part, "util") || strings.HasSuffix(part, "utils") {
			out = append(out, Violation{g.Dir, "package-name", fmt.Sprintf("%q says nothing about what is inside", part), "name the package by the thing it is about, or move the code to its one caller"})
		}
	}

	var docs []*File
	name := ""
	onlyTests := true
	for _, f := range g.Files {
		onlyTests = onlyTests && f.Test
	}
	for _, f := range g.Files {
		if f.Test && (!onlyTests || strings.HasSuffix(f.AST.Name.Name, "_test")) {
			continue
		}
		name = f.AST.Name.Name
		if name != "main" && name != base && !onlyTests {
			out = append(out, Violation{t.at(f.AST.Name.Pos()), "package-name", fmt.Sprintf("package %s in folder %s", name, base), "give both the same name"})
		}
		if f.AST.Doc != nil {
			docs = append(docs, f)
		}
	}
	if name == "" {
		return out // an external test package alone
	}
	want := "// Package " + name + " "
	if name == "main" {
		want = "// Command " + base + " "
	}
	switch {
	case len(docs) == 0:
		out = append(out, Violation{g.Dir, "package-doc", "no file has a package doc", "say what it is, what it is not and who calls it, beginning with " + strconv.Quote(want)})
	case len(docs) > 1:
		out = append(out, Violation{t.at(docs[1].AST.Doc.Pos()), "package-doc", "a second package doc (the first is in " + docs[0].Path + ")", "keep one; separate other comments from the package clause by an empty line"})
	case !strings.HasPrefix(docs[0].AST.Doc.List[0].Text+" ", want):
		out = append(out, Violation{t.at(docs[0].AST.Doc.Pos()), "package-doc", "the package doc does not begin with " + strconv.Quote(want), "begin it so"})
	}
	return out
}

// checkFile checks one file's declarations and calls.
func (t *Tree) checkFile(g *Group, f *File) []Violation {
	var out []Violation
	for _, decl := range f.AST.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if ok && fn.Recv == nil && fn.Name.Name == "init" {
			out = append(out, Violation{t.at(fn.Pos()), "no-init", "an init function", "do it in a constructor that the composition root calls"})
		}
	}
	if !f.Test {
		out = append(out, t.checkCalls(f)...)
		out = append(out, t.checkBackendNames(g, f)...)
	}
	return out
}

// checkCalls finds process exits below main and fixed sleeps.
func (t *Tree) checkCalls(f *File) []Violation {
	_, mayExit := exitAllowed()[f.Path]
	mayExit = mayExit || f.AST.Name.Name == "main" && path.Base(f.Path) == "main.go"
	var out []Violation
	ast.Inspect(f.AST, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := sel.X.(*ast.Ident)
		if !ok {
			return true
		}
		switch what := f.importPath(pkg.Name) + "." + sel.Sel.Name; what {
		case "os.Exit", "syscall.Exit", "golang.org/x/sys/unix.Exit", "log.Fatal", "log.Fatalf", "log.Fatalln", "log.Panic", "log.Panicf", "log.Panicln":
			if !mayExit {
				out = append(out, Violation{t.at(sel.Pos()), "exit-in-main", what + " outside a program's main.go", "return an error; main turns it into text and an exit code"})
			}
		case "time.Sleep":
			out = append(out, Violation{t.at(sel.Pos()), "no-sleep", "time.Sleep outside tests", "wait for an event; where time itself is meant, select on a timer and on ctx.Done()"})
		}
		return true
	})
	return out
}

// importPath returns the path that a file imports under a name, or "".
func (f *File) importPath(name string) string {
	for _, imp := range f.Imports {
		if imp.Name == name {
			return imp.Path
		}
	}
	return ""
}

// checkBackendNames finds backend names in identifiers and string literals of generic code.
func (t *Tree) checkBackendNames(g *Group, f *File) []Violation {
	k := key(g.Dir)
	if !strings.HasPrefix(g.Dir, "internal/") || k == "driver" || strings.HasPrefix(k, "driver/") || k == "archtest" || k == "linuxenv" { // linuxenv is about one such program
		return nil
	}
	_, textAllowed := backendTextAllowed()[k]
	var out []Violation
	report := func(pos token.Pos, kind, text, word string) {
		out = append(out, Violation{
			t.at(pos), "backend-names",
			fmt.Sprintf("%s %s names the backend %q", kind, clip(text), word),
			"ask the driver contract (Capabilities, an optional interface) instead; names belong to internal/driver and cmd",
		})
	}
	ast.Inspect(f.AST, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.Ident:
			if w := backendWord(n.Name); w != "" {
				report(n.Pos(), "identifier", n.Name, w)
			}
		case *ast.BasicLit:
			if w := backendWord(n.Value); n.Kind == token.STRING && w != "" && !textAllowed {
				report(n.Pos(), "string", n.Value, w)
			}
		}
		return true
	})
	return out
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}

// backendWord returns the backend that text names as a word of its own: "qemuPath", "QEMUPath"
// and "run qemu-system" do, "climate" does not name "lima".
func backendWord(text string) string {
	for _, w := range words(text) {
		if slices.Contains(backendWords(), w) {
			return w
		}
	}
	return ""
}

// words splits at everything that is not a letter and at changes of case, and lowers the case.
func words(text string) []string {
	var out []string
	var cur []rune
	flush := func() {
		if len(cur) > 0 {
			out = append(out, strings.ToLower(string(cur)))
			cur = nil
		}
	}
	runes := []rune(text)
	for i, r := range runes {
		if !unicode.IsLetter(r) {
			flush()
			continue
		}
		if unicode.IsUpper(r) && len(cur) > 0 {
			afterLower := unicode.IsLower(cur[len(cur)-1])
			beforeLower := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if afterLower || beforeLower {
				flush()
			}
		}
		cur = append(cur, r)
	}
	flush()
	return out
}
