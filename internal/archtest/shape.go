package archtest

import (
	"fmt"
	"go/ast"
	"slices"
)

// Sizes past which a second look is asked for. They are no gate: where the longer form truly
// reads better, it stays.
const (
	longFile     = 500 // lines
	longFunc     = 80  // lines
	wideIface    = 4   // methods
	wideIfaceBig = 6   // methods, for a store
	manyParams   = 5
)

// Shape lists what asks for a second look by its size, largest first within each kind.
func (t *Tree) Shape() []string {
	type item struct {
		kind  string
		size  int
		where string
	}
	var items []item
	for _, dir := range t.dirs() {
		for _, f := range t.Packages[dir].Files {
			if f.Lines > longFile {
				items = append(items, item{"file", f.Lines, f.Path})
			}
			if f.Test {
				continue
			}
			ast.Inspect(f.AST, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					where := t.at(n.Pos()) + " " + n.Name.Name
					if lines := t.lines(n); lines > longFunc {
						items = append(items, item{"func", lines, where})
					}
					if c := n.Type.Params.NumFields(); c > manyParams {
						items = append(items, item{"params", c, where})
					}
				case *ast.TypeSpec:
					iface, ok := n.Type.(*ast.InterfaceType)
					if !ok || iface.Methods == nil {
						return true
					}
					limit := wideIface
					if n.Name.Name == "Store" {
						limit = wideIfaceBig
					}
					if c := iface.Methods.NumFields(); c > limit {
						items = append(items, item{"interface", c, t.at(n.Pos()) + " " + n.Name.Name})
					}
				}
				return true
			})
		}
	}
	slices.SortStableFunc(items, func(a, b item) int {
		if a.kind != b.kind {
			if a.kind < b.kind {
				return -1
			}
			return 1
		}
		return b.size - a.size
	})
	out := make([]string, len(items))
	for i, it := range items {
		out[i] = fmt.Sprintf("%-9s %4d  %s", it.kind, it.size, it.where)
	}
	return out
}

func (t *Tree) lines(n ast.Node) int {
	return t.fset.Position(n.End()).Line - t.fset.Position(n.Pos()).Line + 1
}
