package archtest

import (
	"go/ast"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestThreatsHaveTests: each test that the threat model leans on exists under that name, in the
// package that the row names.
func TestThreatsHaveTests(t *testing.T) {
	tree, err := Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for dir, g := range tree.Packages {
		for _, f := range g.Files {
			for _, d := range f.AST.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && f.Test && fn.Recv == nil {
					tests[strings.TrimPrefix(dir, "internal/")+"."+fn.Name.Name] = true
				}
			}
		}
	}
	text, err := os.ReadFile("../../docs/security/threats.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z0-9/]+\\.(?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 30 {
		t.Errorf("only %d tests are named", len(named))
	}
	for _, n := range named {
		if !tests[n[1]] {
			t.Errorf("docs/security/threats.md names the test %s, which is not there", n[1])
		}
	}
}

// TestTheHostMountsNothing: no program of the host mounts a file system or attaches a file as a
// disk: what is in an image is for our own reader alone.
func TestTheHostMountsNothing(t *testing.T) {
	tree, err := Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	rows, looked := table(), 0
	for dir, g := range tree.Packages {
		name := strings.TrimPrefix(dir, "internal/")
		if r, ok := rows[name]; dir != "cmd/mvmctl" && (!ok || r.side != sideHost) {
			continue
		}
		for _, f := range g.Files {
			if f.Test {
				continue
			}
			looked++
			ast.Inspect(f.AST, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					if pkg, ok := n.X.(*ast.Ident); ok && (pkg.Name == "unix" || pkg.Name == "syscall") && strings.HasPrefix(strings.ToLower(n.Sel.Name), "mount") {
						t.Errorf("%s calls %s.%s", f.Path, pkg.Name, n.Sel.Name)
					}
				case *ast.BasicLit:
					switch n.Value {
					case `"mount"`, `"losetup"`, `"/dev/loop-control"`:
						t.Errorf("%s has the word %s", f.Path, n.Value)
					}
				}
				return true
			})
		}
	}
	if looked < 50 {
		t.Errorf("only %d files were looked at", looked)
	}
}
