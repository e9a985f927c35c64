package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
)

// events writes what `go test -json` would say.
func events(t *testing.T, list ...event) string {
	t.Helper()
	var b strings.Builder
	for _, e := range list {
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(data, '\n'))
	}
	return b.String()
}

func TestTable(t *testing.T) {
	const facts = `    drivertest.go:9: backend: {"driver":"one","capabilities":{"version":"1|2","accelerator":"kvm","isolation":"vm","transport":"vsock","lacks":["volumes"]}}` + "\n"
	in := "go: downloading\n" + events(t,
		event{"output", "p/one", "TestConformance", facts},
		event{"pass", "p/one", "TestConformance/life", ""},
		event{"output", "p/one", "TestConformance/exec", "    life.go:7: it has no exec\n"},
		event{"skip", "p/one", "TestConformance/exec", ""},
		event{"pass", "p/one", "TestConformance", ""},
		event{"output", "p/e2e", "TestHost/two_Double", strings.Replace(facts, "one", "two", 1)},
		event{"fail", "p/e2e", "TestHost/two_Double/VMM_killed_from_outside", ""},
		event{"output", "p/three", "TestConformance", "    drivertest.go:9: driver three cannot run here: three is not installed\n"},
		event{"skip", "p/three", "TestConformance", ""},
		event{"pass", "p/three", "TestOther", ""},
	)
	runs, err := read(strings.NewReader(in))
	if err != nil || len(runs) != 3 {
		t.Fatalf("%d runs, %v", len(runs), err)
	}
	got := render(runs)
	for _, want := range []string{
		"| one, kvm, vm | 1\\|2 | `vm` | vsock | volumes |\n",
		"| test | one, kvm, vm | two, kvm, vm, double |\n",
		"| life | yes | not run |\n", "| exec | (1) | not run |\n", "| VMM killed from outside | not run | **no** |\n",
		"\n1. it has no exec\n", "- three, TestConformance: driver three cannot run here: three is not installed\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if runs[0].failed() || !runs[2].failed() && !runs[1].failed() {
		t.Error("which of them failed")
	}
}

func TestRewrite(t *testing.T) {
	page := "# Title\n" + beginMark + "old\n" + endMark + "end\n"
	got, err := rewrite([]byte(page), "new\n")
	if want := "# Title\n" + beginMark + "\nnew\n\n" + endMark + "end\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	if again, err := rewrite(got, "new\n"); err != nil || string(again) != string(got) {
		t.Errorf("again: %q, %v", again, err)
	}
	if _, err := rewrite([]byte("no marks"), ""); err == nil {
		t.Error("a page without marks is taken")
	}
}

// The page in the repository speaks of the tests that the suite has.
func TestPageIsOfThisSuite(t *testing.T) {
	page, err := os.ReadFile("../../docs/backends.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tables, _ := strings.Cut(string(page), beginMark)
	tables, _, _ = strings.Cut(tables, endMark)
	_, rows, found := strings.Cut(tables, "| test |")
	if !found {
		t.Fatal("docs/backends.md has no table; run `just backends`")
	}
	var names []string
	for line := range strings.Lines(rows) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " |"); ok && strings.HasPrefix(line, "| ") && !strings.HasPrefix(name, "---") {
			names = append(names, name)
		}
	}
	if got, want := strings.Join(names, "\n"), strings.Join(drivertest.Names(), "\n"); got != want {
		t.Errorf("the page is about other tests; run `just backends`:\n%s\n\nthe suite has\n%s", got, want)
	}
}
