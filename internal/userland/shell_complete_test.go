//go:build unix

package userland

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{
		"alpha": 0o644, "alpine": 0o644, "two words": 0o644, "run-me": 0o755, ".hidden": 0o644, "new\nline": 0o644, "ünï": 0o644,
		"sub/deep": 0o644, "bin/mytool": 0o755, "bin/mydata": 0o644,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	var shown string
	k := &completer{
		dir: func() string { return dir }, path: func() string { return "/nowhere:" + dir + "/bin" },
		home: func() string { return dir + "/sub" }, print: func(text string) { shown += text },
	}
	for in, want := range map[string]string{
		"cat alph|":        "cat alpha |",
		"cat al|":          "cat alp|",
		"cat s| more":      "cat sub/| more",
		"cat sub/|":        "cat sub/deep |",
		"cat two|":         `cat two\ words |`,
		`cat two\ w|`:      `cat two\ words |`,
		`cat "two w|`:      `cat two\ words |`,
		"cat ü|":           "cat ünï |",
		"cat ~/d|":         "cat ~/deep |",
		"cat .h|":          "cat .hidden |",
		"cat new|":         "cat new|",
		"cat no|":          "cat no|",
		"myt|":             "mytool |",
		"myd|":             "myd|",
		"true; myt|":       "true; mytool |",
		"A=1 myt|":         "A=1 mytool |",
		"cat <alph|":       "cat <alpha |",
		"./r|":             "./run-me |",
		"./a|":             "./a|",
		"bin/|":            "bin/mytool |",
		"unal|":            "unalias |",
		"hostn|":           "hostname |",
		"echo 'a b' alph|": "echo 'a b' alpha |",
	} {
		line, rest, _ := strings.Cut(in, "|")
		got, pos, ok := k.key(line+rest, len(line), '\t')
		if !ok || got[:pos]+"|"+got[pos:] != want {
			t.Errorf("%q: %q, want %q", in, got[:pos]+"|"+got[pos:], want)
		}
	}
	if shown != "" {
		t.Errorf("listed at the first Tab: %q", shown)
	}
	k.key("ls alp", 6, '\t')
	k.key("ls alp", 6, '\t')
	if shown != "alpha  alpine\n" {
		t.Errorf("listed %q", shown)
	}
	if _, _, ok := k.key("x", 1, 'y'); ok {
		t.Error("a letter was taken")
	}
}

// What is typed is anything.
func FuzzCompletion(f *testing.F) {
	f.Add("cat 'a\\ b", 3)
	f.Fuzz(func(t *testing.T, line string, pos int) {
		if pos < 0 || pos > len(line) {
			return
		}
		k := &completer{dir: func() string { return "/" }, path: func() string { return "" }, home: func() string { return "" }, print: func(string) {}}
		if got, at, _ := k.key(line, pos, '\t'); at < 0 || at > len(got) {
			t.Errorf("%q at %d: %q at %d", line, pos, got, at)
		}
	})
}

func TestInteractiveCompletionAndHistory(t *testing.T) {
	s := startSession(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "only-one"), []byte("content\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.line("cd " + dir)
	s.send("cat on\t")
	s.expect(`only-one `)
	s.send("\r")
	s.expect(`content\r\n`)
	s.expect(`[#$] $`)
	s.send("\x1b[A\r") // the last line again
	s.expect(`content\r\n`)
	s.expect(`[#$] $`)
	s.send("exit\r")
	s.end(0)
}
