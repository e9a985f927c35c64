package archtest

import (
	"strings"
	"testing"
	"testing/fstest"
)

// tree builds a module from name → content, with what every module has.
func tree(t *testing.T, files map[string]string) *Tree {
	t.Helper()
	fsys := fstest.MapFS{
		"go.mod":               {Data: []byte("module example.org/m\n\nrequire (\n\tgithub.com/known/dep v1.0.0\n\tgithub.com/known/dep/sub v1.0.0 // indirect\n)\n")},
		"docs/dependencies.md": {Data: []byte("| module | why |\n| --- | --- |\n")},
		"docs/errors.md":       {Data: []byte("| code | when |\n| --- | --- |\n")},
	}
	for name, content := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(content)}
	}
	tr, err := Load(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// TestPlanted plants one violation at a time and expects exactly that one to be found; the
// cases without a law are legal and must stay silent.
func TestPlanted(t *testing.T) {
	const (
		store   = "// Package store keeps.\npackage store\n"
		machine = "// Package machine is words.\npackage machine\n"
	)
	pkg := func(name, body string) string { return "// Package " + name + " is.\npackage " + name + "\n" + body }

	cases := []struct {
		name  string
		files map[string]string
		law   string // "" means clean
		where string // prefix of Where
		says  string // part of the message
	}{
		{"clean tree", map[string]string{
			"internal/machine/m.go": machine + "func Usagef(code string) error { return nil }\n",
			"internal/store/s.go":   store + "import _ \"example.org/m/internal/machine\"\n",
		}, "", "", ""},

		{"import against the table", map[string]string{
			"internal/machine/m.go": machine + "import _ \"example.org/m/internal/store\"\n",
			"internal/store/s.go":   store,
		}, "imports", "internal/machine/m.go:3", "machine may not import store"},
		{"one backend imports another", map[string]string{
			"internal/driver/fake/f.go": pkg("fake", "import _ \"example.org/m/internal/driver/qemu\"\n"),
			"internal/driver/qemu/q.go": pkg("qemu", ""),
		}, "imports", "internal/driver/fake/f.go:3", "go through the driver contract"},
		{"engine imports a backend", map[string]string{
			"internal/engine/e.go":      pkg("engine", "import _ \"example.org/m/internal/driver/qemu\"\n"),
			"internal/driver/qemu/q.go": pkg("qemu", ""),
		}, "imports", "internal/engine/e.go:3", "engine may not import driver/qemu"},
		{"guest imports host", map[string]string{
			"internal/agent/a.go": pkg("agent", "import _ \"example.org/m/internal/disk\"\n"),
			"internal/disk/d.go":  pkg("disk", ""),
		}, "imports", "internal/agent/a.go:3", "share bytes"},
		{"host program imports guest", map[string]string{
			"cmd/mvmctl/main.go":  "// Command mvmctl is.\npackage main\nimport _ \"example.org/m/internal/agent\"\n",
			"internal/agent/a.go": pkg("agent", ""),
		}, "imports", "cmd/mvmctl/main.go:3", "cmd/mvmctl may not import agent"},
		{"build tags hide nothing", map[string]string{
			"internal/machine/m.go":         machine,
			"internal/machine/m_plan9.go":   "//go:build plan9\n\npackage machine\nimport _ \"example.org/m/internal/store\"\n",
			"internal/store/store_linux.go": store,
		}, "imports", "internal/machine/m_plan9.go:4", ""},
		{"a test may import upwards", map[string]string{
			"internal/machine/m.go":      machine,
			"internal/machine/m_test.go": "package machine\nimport _ \"example.org/m/internal/store\"\n",
			"internal/store/s.go":        store,
		}, "", "", ""},
		{"conformance suite from a test", map[string]string{
			"internal/driver/fake/f.go":       pkg("fake", ""),
			"internal/driver/fake/f_test.go":  "package fake\nimport _ \"example.org/m/internal/driver/drivertest\"\n",
			"internal/driver/drivertest/d.go": pkg("drivertest", ""),
		}, "", "", ""},
		{"conformance suite from a program", map[string]string{
			"cmd/mvmctl/main.go":              "// Command mvmctl is.\npackage main\nimport _ \"example.org/m/internal/driver/drivertest\"\n",
			"internal/driver/drivertest/d.go": pkg("drivertest", ""),
		}, "imports", "cmd/mvmctl/main.go:3", "_test.go"},
		{"pprof", map[string]string{
			"internal/machine/m.go": machine + "import _ \"net/http/pprof\"\n",
		}, "banned-import", "internal/machine/m.go:3", "profile in tests"},
		{"guest with a flag library", map[string]string{
			"internal/agent/a.go":  pkg("agent", "import _ \"github.com/spf13/cobra\"\n"),
			"docs/dependencies.md": "",
		}, "banned-import", "internal/agent/a.go:3", ""},

		{"unknown package", map[string]string{"internal/teapot/t.go": pkg("teapot", "")}, "table", "internal/teapot", "add a row"},
		{"unknown folder at the top", map[string]string{"tools/t.go": pkg("tools", "")}, "table", "tools", ""},
		{"known name in the wrong place", map[string]string{"machine/m.go": machine}, "table", "machine", ""},
		{"testdata is not source", map[string]string{"internal/machine/m.go": machine, "internal/machine/testdata/x/x.go": "package broken_init\nfunc init() {}\n"}, "", "", ""},

		{"no package doc", map[string]string{"internal/machine/m.go": "package machine\n"}, "package-doc", "internal/machine", "no file has"},
		{"two package docs", map[string]string{"internal/machine/a.go": machine, "internal/machine/b.go": machine}, "package-doc", "internal/machine/b.go:1", "second"},
		{"package doc with another beginning", map[string]string{"internal/machine/m.go": "// The machine package.\npackage machine\n"}, "package-doc", "internal/machine/m.go:1", "begin"},
		{"command doc", map[string]string{"cmd/mvmctl/main.go": "// Package main is.\npackage main\n"}, "package-doc", "cmd/mvmctl/main.go:1", "Command mvmctl"},
		{"folder and package differ", map[string]string{"internal/machine/m.go": "// Package engine is.\npackage engine\n"}, "package-name", "internal/machine/m.go:2", "same name"},

		{"init function", map[string]string{"internal/machine/m.go": machine + "func init() {}\n"}, "no-init", "internal/machine/m.go:3", ""},
		{"init method is legal", map[string]string{"internal/machine/m.go": machine + "type T struct{}\nfunc (T) init() {}\n"}, "", "", ""},
		{"exit below main", map[string]string{"internal/machine/m.go": machine + "import \"os\"\nfunc f() { os.Exit(1) }\n"}, "exit-in-main", "internal/machine/m.go:4", "os.Exit"},
		{"exit under another name", map[string]string{"internal/machine/m.go": machine + "import l \"log\"\nfunc f() { l.Fatalf(\"\") }\n"}, "exit-in-main", "internal/machine/m.go:4", "log.Fatalf"},
		{"exit in main.go", map[string]string{"cmd/mvmctl/main.go": "// Command mvmctl is.\npackage main\nimport \"os\"\nfunc main() { os.Exit(0) }\n"}, "", "", ""},
		{"exit beside main.go", map[string]string{
			"cmd/mvmctl/main.go": "// Command mvmctl is.\npackage main\n",
			"cmd/mvmctl/wire.go": "package main\nimport \"os\"\nfunc f() { os.Exit(0) }\n",
		}, "exit-in-main", "cmd/mvmctl/wire.go:3", ""},
		{"someone else's Exit", map[string]string{"internal/machine/m.go": machine + "type T struct{}\nfunc (T) Exit(int) {}\nfunc f(os T) { os.Exit(1) }\n"}, "", "", ""},
		{"sleep", map[string]string{"internal/machine/m.go": machine + "import \"time\"\nfunc f() { time.Sleep(1) }\n"}, "no-sleep", "internal/machine/m.go:4", "timer"},
		{"sleep passed as a value", map[string]string{"internal/machine/m.go": machine + "import \"time\"\nfunc f() func(time.Duration) { return time.Sleep }\n"}, "no-sleep", "internal/machine/m.go:4", ""},
		{"sleep in a test", map[string]string{"internal/machine/m.go": machine, "internal/machine/m_test.go": "package machine\nimport \"time\"\nfunc f() { time.Sleep(1) }\n"}, "", "", ""},

		{"backend name in an identifier", map[string]string{"internal/machine/m.go": machine + "type QEMUOptions struct{}\n"}, "backend-names", "internal/machine/m.go:3", `"qemu"`},
		{"backend name in a string", map[string]string{"internal/machine/m.go": machine + "const x = \"use the docker one\"\n"}, "backend-names", "internal/machine/m.go:3", `"docker"`},
		{"backend name in help text", map[string]string{"internal/cli/c.go": pkg("cli", "const x = \"--hypervisor qemu\"\n")}, "", "", ""},
		{"backend switch in the cli", map[string]string{"internal/cli/c.go": pkg("cli", "func useQemu() {}\n")}, "backend-names", "internal/cli/c.go:3", ""},
		{"backend name below driver", map[string]string{"internal/driver/qemu/q.go": pkg("qemu", "const Name = \"qemu\"\n")}, "", "", ""},
		{"part of a longer word", map[string]string{"internal/machine/m.go": machine + "const climate = \"limatics\"\n"}, "", "", ""},
		{"backend name in a comment", map[string]string{"internal/machine/m.go": machine + "// F is what QEMU wants.\nfunc F() {}\n"}, "", "", ""},

		{"dependency without a reason", map[string]string{"internal/machine/m.go": machine + "import _ \"github.com/known/dep/pkg\"\n"}, "dependencies", "internal/machine/m.go:3", "module github.com/known/dep is not in"},
		{"dependency with a reason", map[string]string{
			"internal/machine/m.go": machine + "import _ \"github.com/known/dep/sub/x\"\n",
			"docs/dependencies.md":  "| `github.com/known/dep/sub` | it is good |\n",
		}, "", "", ""},
		{"reason without a dependency", map[string]string{
			"internal/machine/m.go": machine,
			"docs/dependencies.md":  "| `github.com/known/dep` | it was good |\n",
		}, "dependencies", "docs/dependencies.md", "not imported"},

		{"error code without a row", map[string]string{"internal/machine/m.go": machine + "func Errorf(code, remedy string) {}\nfunc f() { Errorf(\"disk.gone\", \"\") }\n"}, "error-codes", "internal/machine/m.go:4", "disk.gone is not in"},
		{"error code of another package", map[string]string{
			"internal/machine/m.go": machine + "func Usagef(code string) error { return nil }\n",
			"internal/store/s.go":   store + "import \"example.org/m/internal/machine\"\nvar _ = machine.Usagef(\"disk.gone\")\n",
		}, "error-codes", "internal/store/s.go:4", ""},
		{"error code in a literal", map[string]string{"internal/machine/m.go": machine + "type Error struct{ Code string }\nvar _ = &Error{Code: \"disk.gone\"}\n"}, "error-codes", "internal/machine/m.go:4", ""},
		{"error code in a constant", map[string]string{"internal/agentproto/a.go": pkg("agentproto", "const CodeGone = \"disk.gone\"\n")}, "error-codes", "internal/agentproto/a.go:3", ""},
		{"error code with a row", map[string]string{
			"internal/machine/m.go": machine + "type Error struct{ Code string }\nvar _ = &Error{Code: \"disk.gone\"}\n",
			"docs/errors.md":        "| `disk.gone` | when it is gone |\n",
		}, "", "", ""},
		{"row without an error code", map[string]string{
			"internal/machine/m.go": machine,
			"docs/errors.md":        "| `disk.gone` | when it is gone |\n",
		}, "error-codes", "docs/errors.md", "not used"},
		{"format string of another Errorf", map[string]string{"internal/machine/m.go": machine + "import \"fmt\"\nvar _ = fmt.Errorf(\"gone\")\n"}, "", "", ""},

		{"path of one machine", map[string]string{"docs/x.md": "see /wo" + "rk/place/x\n"}, "local-paths", "docs/x.md:1", ""},
		{"path of one machine in a comment", map[string]string{"internal/machine/m.go": machine + "\n// like /tm" + "p/h/x\n"}, "local-paths", "internal/machine/m.go:4", ""},
		{"overlay work folder", map[string]string{"docs/x.md": "workdir=/upper/work/ and /run/mvm/work/x\n"}, "", "", ""},
	}
	for _, name := range []string{"util", "common", "types", "helpers", "netutil"} {
		cases = append(cases, struct {
			name  string
			files map[string]string
			law   string
			where string
			says  string
		}{"package named " + name, map[string]string{"internal/" + name + "/x.go": pkg(name, "")}, "package-name", "internal/" + name, ""})
	}

	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			found := tree(t, tc.files).Check()
			if tc.law == "package-name" {
				found = without(found, "table") // a badly named package has no row either
			}
			if tc.law == "" {
				for _, v := range found {
					t.Errorf("legal, but reported: %s", v)
				}
				return
			}
			if len(found) != 1 {
				t.Fatalf("%d violations, want one of law %s: %v", len(found), tc.law, found)
			}
			v := found[0]
			if v.Law != tc.law || !strings.HasPrefix(v.Where, tc.where) || !strings.Contains(v.String(), tc.says) {
				t.Errorf("got  %s\nwant law %s at %s saying %q", v, tc.law, tc.where, tc.says)
			}
			if v.Fix == "" {
				t.Error("it does not say what to do")
			}
		})
	}
}

func without(in []Violation, law string) []Violation {
	var out []Violation
	for _, v := range in {
		if v.Law != law {
			out = append(out, v)
		}
	}
	return out
}

// TestShapeReports: sizes are found and are no violation.
func TestShapeReports(t *testing.T) {
	long := "// Package machine is.\npackage machine\nfunc f(a, b, c, d, e, g int) {\n" + strings.Repeat("\t_ = 1\n", longFunc) + "}\ntype I interface { A(); B(); C(); D(); E() }\n" + strings.Repeat("\n", longFile)
	tr := tree(t, map[string]string{"internal/machine/m.go": long})
	if v := tr.Check(); len(v) != 0 {
		t.Errorf("sizes are a gate: %v", v)
	}
	got := strings.Join(tr.Shape(), "\n")
	for _, kind := range []string{"file ", "func ", "params ", "interface "} {
		if !strings.Contains(got, kind) {
			t.Errorf("no %q in the report:\n%s", kind, got)
		}
	}
}

// TestBrokenSourceIsAnError: a file that does not parse must not hide from the laws.
func TestBrokenSourceIsAnError(t *testing.T) {
	_, err := Load(fstest.MapFS{
		"go.mod":                {Data: []byte("module m\n")},
		"internal/machine/m.go": {Data: []byte("package machine\nfunc {")},
	})
	if err == nil || !strings.Contains(err.Error(), "internal/machine/m.go") {
		t.Errorf("error %v does not name the file", err)
	}
}
