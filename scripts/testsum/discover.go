package main

import (
	"context"
	"flag"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// testFunc is one Test or Fuzz function of the source tree.
type testFunc struct {
	dir  string // "./internal/disk"
	name string
	tags constraint.Expr // nil when the file has no build line
}

// testFuncs finds the functions with a prefix in the _test.go files below the roots.
func testFuncs(prefix string, roots []string) ([]testFunc, error) {
	if len(roots) == 0 {
		roots = []string{"."}
	}
	named := regexp.MustCompile("^" + prefix + "([^a-z]|$)")
	var out []testFunc
	for _, root := range roots {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if n := d.Name(); d.IsDir() && p != root && (strings.HasPrefix(n, ".") || n == "testdata" || n == "bin" || n == "dist") {
				return fs.SkipDir
			}
			if d.IsDir() || !strings.HasSuffix(p, "_test.go") {
				return nil
			}
			f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			tags := buildLine(f)
			for _, decl := range f.Decls {
				fn, ok := decl.(*ast.FuncDecl)
				if ok && fn.Recv == nil && named.MatchString(fn.Name.Name) && fn.Name.Name != "TestMain" {
					out = append(out, testFunc{"./" + filepath.ToSlash(filepath.Dir(p)), fn.Name.Name, tags})
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b testFunc) int { return strings.Compare(a.dir+" "+a.name, b.dir+" "+b.name) })
	return out, nil
}

// buildLine returns a file's //go:build expression, or nil.
func buildLine(f *ast.File) constraint.Expr {
	for _, group := range f.Comments {
		if group.Pos() > f.Package {
			break
		}
		for _, c := range group.List {
			if constraint.IsGoBuild(c.Text) {
				if expr, err := constraint.Parse(c.Text); err == nil {
					return expr
				}
			}
		}
	}
	return nil
}

// needsTag reports whether a file is left out exactly because a tag is not set.
func needsTag(expr constraint.Expr, tag string) bool {
	if expr == nil {
		return false
	}
	here := func(set bool) func(string) bool {
		return func(t string) bool {
			return t == tag && set || t == runtime.GOOS || t == runtime.GOARCH || t == "unix"
		}
	}
	return expr.Eval(here(true)) && !expr.Eval(here(false))
}

// printTagged prints the arguments of go test that run just the tests which need a tag:
// one a line, or nothing when there are none.
func printTagged(w io.Writer, tag string, roots []string) error {
	funcs, err := testFuncs("Test", roots)
	if err != nil {
		return err
	}
	var names, dirs []string
	for _, f := range funcs {
		if needsTag(f.tags, tag) {
			names = append(names, f.name)
			dirs = append(dirs, f.dir)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	fmt.Fprintf(w, "-run\n^(%s)$\n", strings.Join(slices.Compact(names), "|"))
	for _, d := range slices.Compact(dirs) {
		fmt.Fprintln(w, d)
	}
	return nil
}

// runFuzz fuzzes every target in turn: real fuzzing, too short to find deep bugs, long enough
// to find a target that is broken or a decoder that falls over at once. The longer runs are
// `just fuzz`.
func runFuzz(ctx context.Context, dir, name string, args []string) (bool, error) {
	flags := flag.NewFlagSet("fuzz", flag.ContinueOnError)
	each := flags.Duration("each", 5*time.Second, "longest time for one target")
	budget := flags.Duration("budget", 100*time.Second, "time for all targets together, builds not counted")
	if err := flags.Parse(args); err != nil {
		return false, err
	}
	targets, err := testFuncs("Fuzz", flags.Args())
	if err != nil {
		return false, err
	}
	all := Result{Name: name}
	if len(targets) == 0 {
		all.Skips = []Skip{{name, "no fuzz target found"}}
		return false, save(dir, all)
	}
	slice := max(time.Second, min(*each, (*budget/time.Duration(len(targets))).Truncate(time.Second)))
	start := time.Now()
	for _, t := range targets {
		if ctx.Err() != nil {
			break
		}
		r, err := goTest(ctx, fmt.Sprintf("fuzz %s %s for %s", t.dir, t.name, slice),
			[]string{"-run", "^$", "-fuzz", "^" + t.name + "$", "-fuzztime", slice.String(), "-fuzzminimizetime", "20x", "-parallel", "2", t.dir})
		if err != nil {
			return false, err
		}
		all.Passed += r.Passed
		all.Failed = append(all.Failed, r.Failed...)
		all.Skips = append(all.Skips, r.Skips...)
	}
	all.Elapsed = time.Since(start)
	return len(all.Failed) > 0, save(dir, all)
}
