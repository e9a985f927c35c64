package archtest

import (
	"go/ast"
	"go/token"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// errorsDoc lists every stable error code for people.
const errorsDoc = "docs/errors.md"

// checkCodes holds the error codes of the source against the document that lists them: scripts
// depend on codes, so none appears, changes or goes unseen.
func (t *Tree) checkCodes() []Violation {
	data, err := fs.ReadFile(t.fsys, errorsDoc)
	if err != nil {
		return []Violation{{errorsDoc, "error-codes", "it cannot be read: " + err.Error(), "write it: one table row per code"}}
	}
	documented := documentedCodes(string(data))
	makers := map[string]map[string]bool{}
	for _, dir := range t.dirs() {
		makers[dir] = t.Packages[dir].codeMakers()
	}
	used := map[string]string{} // code → first use
	for _, dir := range t.dirs() {
		if key(dir) == "archtest" {
			continue
		}
		for _, f := range t.Packages[dir].Files {
			if f.Test {
				continue
			}
			for _, c := range f.codes(dir, makers) {
				if used[c.text] == "" {
					used[c.text] = t.at(c.pos)
				}
			}
		}
	}
	var out []Violation
	for c, where := range used {
		if !slices.Contains(documented, c) {
			out = append(out, Violation{where, "error-codes", "the code " + c + " is not in " + errorsDoc, "add a row, or use the code that is there for this cause"})
		}
	}
	for _, c := range documented {
		if used[c] == "" {
			out = append(out, Violation{errorsDoc, "error-codes", "the code " + c + " is documented and not used", "remove the row"})
		}
	}
	slices.SortFunc(out, func(a, b Violation) int { return strings.Compare(a.What, b.What) })
	return out
}

// documentedCodes returns the first cells of the document's table rows.
func documentedCodes(doc string) []string {
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+(?:\\.[a-z_]+)*)` \\|")
	var out []string
	for _, m := range row.FindAllStringSubmatch(doc, -1) {
		out = append(out, m[1])
	}
	return out
}

type code struct {
	text string
	pos  token.Pos
}

// codeMakers returns the package's functions whose first parameter is called "code".
func (g *Group) codeMakers() map[string]bool {
	out := map[string]bool{}
	for _, f := range g.Files {
		for _, decl := range f.AST.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Type.Params.NumFields() == 0 {
				continue
			}
			if first := fn.Type.Params.List[0]; len(first.Names) > 0 && first.Names[0].Name == "code" {
				out[fn.Name.Name] = true
			}
		}
	}
	return out
}

// codes returns the literal codes of a file in dir: the first argument of a maker of its own
// package or of another of ours (by folder), such as machine.Errorf, the field Code of an Error or Failure, and constants called
// Code….
func (f *File) codes(dir string, makers map[string]map[string]bool) []code {
	var out []code
	add := func(e ast.Expr) {
		lit, ok := e.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return
		}
		text, err := strconv.Unquote(lit.Value)
		if err == nil && regexp.MustCompile(`^[a-z_]+(\.[a-z_]+)*$`).MatchString(text) {
			out = append(out, code{text, lit.Pos()})
		}
	}
	ast.Inspect(f.AST, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if f.makesError(n.Fun, dir, makers) && len(n.Args) > 0 {
				add(n.Args[0])
			}
		case *ast.CompositeLit:
			if name := typeName(n.Type); name != "Error" && name != "Failure" {
				return true
			}
			for _, elt := range n.Elts {
				if kv, ok := elt.(*ast.KeyValueExpr); ok {
					if k, ok := kv.Key.(*ast.Ident); ok && k.Name == "Code" {
						add(kv.Value)
					}
				}
			}
		case *ast.ValueSpec:
			for i, name := range n.Names {
				if strings.HasPrefix(name.Name, "Code") && i < len(n.Values) {
					add(n.Values[i])
				}
			}
		}
		return true
	})
	return out
}

// makesError reports whether a call is one of a maker.
func (f *File) makesError(fun ast.Expr, dir string, makers map[string]map[string]bool) bool {
	switch fun := fun.(type) {
	case *ast.Ident:
		return makers[dir][fun.Name]
	case *ast.SelectorExpr:
		pkg, ok := fun.X.(*ast.Ident)
		if !ok || f.importPath(pkg.Name) == "" {
			return makers[dir][fun.Sel.Name]
		}
		for other, names := range makers {
			if names[fun.Sel.Name] && strings.HasSuffix(f.importPath(pkg.Name), "/"+other) {
				return true
			}
		}
	}
	return false
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}
