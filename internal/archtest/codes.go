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
	used := map[string]string{} // code → first use
	for _, dir := range t.dirs() {
		if key(dir) == "archtest" {
			continue
		}
		makers := t.Packages[dir].codeMakers()
		for _, f := range t.Packages[dir].Files {
			if f.Test {
				continue
			}
			for _, c := range f.codes(makers) {
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

// codeMakers returns the package's own functions whose first parameter is called "code".
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

// codes returns the literal codes of a file: the first argument of machine.Errorf and Usagef
// and of the package's own makers, the field Code of an Error or Failure, and constants called
// Code….
func (f *File) codes(makers map[string]bool) []code {
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
			if f.makesError(n.Fun, makers) && len(n.Args) > 0 {
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

// makesError reports whether a call is machine.Errorf or Usagef, or a maker of this package.
func (f *File) makesError(fun ast.Expr, makers map[string]bool) bool {
	switch fun := fun.(type) {
	case *ast.Ident:
		return makers[fun.Name]
	case *ast.SelectorExpr:
		pkg, ok := fun.X.(*ast.Ident)
		if ok && f.importPath(pkg.Name) != "" {
			return strings.HasSuffix(f.importPath(pkg.Name), "/internal/machine") && (fun.Sel.Name == "Errorf" || fun.Sel.Name == "Usagef")
		}
		return makers[fun.Sel.Name]
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
