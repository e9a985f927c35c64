package archtest

import (
	"os"
	"strings"
	"testing"
)

// TestLaws runs every law over the module this test stands in.
func TestLaws(t *testing.T) {
	tree, err := Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Packages) < 3 {
		t.Fatalf("only %d packages found; the walk is broken", len(tree.Packages))
	}
	for _, v := range tree.Check() {
		t.Error(v)
	}
	if testing.Verbose() {
		t.Logf("sizes that ask for a second look (information, not a gate):\n%s", strings.Join(tree.Shape(), "\n"))
	}
}

// TestTableGoesDown: the table itself must not contradict its layers.
func TestTableGoesDown(t *testing.T) {
	rows := table()
	for name, r := range rows {
		for _, target := range r.may {
			if strings.HasPrefix(target, "*") {
				continue
			}
			to, ok := rows[target]
			if !ok {
				t.Errorf("%s may import %s, which has no row", name, target)
				continue
			}
			if to.layer > r.layer {
				t.Errorf("%s (layer %d) may import %s (layer %d): imports go down", name, r.layer, target, to.layer)
			}
			if to.side != sideWords && to.side != r.side && r.side != sideTop {
				t.Errorf("%s (%s) may import %s (%s): only words cross the boundary", name, r.side, target, to.side)
			}
		}
	}
}

// TestTableHasNoCycle: two packages that may import each other are one package.
func TestTableHasNoCycle(t *testing.T) {
	rows := table()
	const open, done = 1, 2
	mark := map[string]int{}
	var visit func(name string, trail []string)
	visit = func(name string, trail []string) {
		trail = append(trail, name)
		if mark[name] == open {
			t.Errorf("cycle: %s", strings.Join(trail, " → "))
			return
		}
		if mark[name] == done {
			return
		}
		mark[name] = open
		for _, target := range rows[name].may {
			if !strings.HasPrefix(target, "*") {
				visit(target, trail)
			}
		}
		mark[name] = done
	}
	for name := range rows {
		visit(name, nil)
	}
}

// TestTableIsDocumented: docs/architecture.md shows the table to people; it must know every
// package that exists.
func TestTableIsDocumented(t *testing.T) {
	tree, err := Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range tree.dirs() {
		if !strings.Contains(string(doc), "`"+key(dir)+"`") {
			t.Errorf("docs/architecture.md does not mention `%s`", key(dir))
		}
	}
}
