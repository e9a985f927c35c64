package userland

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"mvdan.cc/sh/v3/syntax"
)

// fuzzRun runs a command on what a fuzzer made up; only its survival counts.
func fuzzRun(t *testing.T, dir, stdin string, argv ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var b limitedBuffer
	var errOut bytes.Buffer
	code = Run(ctx, argv, dir, nil, Stdio{In: strings.NewReader(stdin), Out: &b, Err: &errOut})
	if strings.Contains(errOut.String(), "internal error") {
		t.Fatalf("%q: %s", argv, errOut.String())
	}
	if code < 0 || code > 255 {
		t.Fatalf("%q: status %d", argv, code)
	}
	return b.String(), code
}

// limitedBuffer stands for a reader that has seen enough after a while.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len() > 1<<20 {
		return 0, io.ErrClosedPipe
	}
	return b.Buffer.Write(p)
}

func FuzzPrintf(f *testing.F) {
	for _, s := range []string{"%d %s\n", "%*d", "%-5.3s|", "%b\\c", "%%", "%5", "%x%o%u%i", "\\x41\\101\\", "%.*f", "%e%g%G", "%c", "%q", "%999999999d"} {
		f.Add(s, "12", "x\\n")
	}
	f.Fuzz(func(t *testing.T, format, a, b string) { fuzzRun(t, "/", "", "printf", "--", format, a, b) })
}

func FuzzEcho(f *testing.F) {
	f.Add("a\\tb\\0101\\x41\\c")
	f.Fuzz(func(t *testing.T, s string) { fuzzRun(t, "/", "", "echo", "-e", s) })
}

func FuzzSed(f *testing.F) {
	for _, s := range oracleLines {
		if script, ok := strings.CutPrefix(s, "sed '"); ok {
			script, _, _ = strings.Cut(script, "'")
			f.Add(script, "one\ntwo\n")
		}
	}
	f.Fuzz(func(t *testing.T, script, input string) {
		if strings.ContainsAny(script, "rw") {
			t.Skip("names of files are not for fuzzing")
		}
		fuzzRun(t, t.TempDir(), input, "sed", "-e", script)
	})
}

func FuzzTr(f *testing.F) {
	for _, s := range [][2]string{{"a-z", "A-Z"}, {"[:alpha:]", "x"}, {"a", "[b*3]"}, {"\\000-\\377", "[x*]"}, {"[=a=]", ""}, {"[a*010]", "b"}, {"[", "]"}, {"a-", "-a"}} {
		f.Add(s[0], s[1], "input")
	}
	f.Fuzz(func(t *testing.T, set1, set2, input string) {
		fuzzRun(t, "/", input, "tr", "--", set1, set2)
		fuzzRun(t, "/", input, "tr", "-cds", "--", set1, set2)
	})
}

func FuzzGrep(f *testing.F) {
	for _, s := range []string{"a*b", "\\(x\\)\\{2\\}", "[[:alpha:]]", "^a|b$", "[]a]", "[^]]", "a\\|b", "{", "\\", "[", "*", "**", "+", "a{2}{3}", "\\<w\\>", "[a-\\]", "x{,3}"} {
		f.Add(s, "some text\nabxx\n")
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		fuzzRun(t, "/", text, "grep", "-e", pattern)
		fuzzRun(t, "/", text, "grep", "-Ewo", "-e", pattern)
		out, code := fuzzRun(t, "/", text, "grep", "-aF", "-e", pattern)
		if want := strings.Contains(text, pattern) && !strings.Contains(pattern, "\n") && text != ""; want && code != 0 {
			t.Fatalf("grep -F %q in %q: status %d, %q", pattern, text, code, out)
		}
	})
}

func FuzzExpr(f *testing.F) {
	f.Add("1 + 2 * ( 3 - 4 )")
	f.Add("abc : a\\(.\\)")
	f.Add("length x | substr abc 1 2")
	f.Fuzz(func(t *testing.T, s string) {
		fuzzRun(t, "/", "", append([]string{"expr"}, strings.Fields(s)...)...)
		fuzzRun(t, "/nonexistent", "", append([]string{"test"}, strings.Fields(s)...)...)
	})
}

func FuzzFindExpression(f *testing.F) {
	for _, s := range []string{"-name *.txt -o ( -type f -size +1k ) -print", "! -empty", "-perm -u+x,g=r", "-newer x", "-mtime +1 -prune", "-printf %p\\n%s", "-regex .*[ab]", "( ( ("} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "-exec") || strings.Contains(s, "-ok") || strings.Contains(s, "-delete") {
			t.Skip("no actions")
		}
		fuzzRun(t, t.TempDir(), "", append([]string{"find", "."}, strings.Fields(s)...)...)
	})
}

func FuzzSmallParsers(f *testing.F) {
	for _, s := range []string{"u+x,go=r", "1777", "a-3,5,7-", "2.3,4.5nr", "10KiB", "2024-02-29 12:00 -1 day", "%Y-%m-%d %_H %-e %3N", "1.5h", "0123456789abcdef  name", "-5+8", "ro,nosuid,size=1m", "192.0.2.1/24", "@12.5"} {
		f.Add(s)
	}
	now := time.Unix(1e9, 0)
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := parseMode(s); err == nil {
			if got := m.apply(0o644, true, 0o022); got > 0o7777 {
				t.Fatalf("mode %q gives %o", s, got)
			}
		}
		parseCutList(s)
		parseSortKey(s)
		if n, ok := parseCount(s); ok && n < 0 {
			t.Fatalf("count %q is %d", s, n)
		}
		if n, ok := parseProduct(s); ok && n < 0 {
			t.Fatalf("product %q is %d", s, n)
		}
		parseDate(s, now, false)
		parseDate(s, now, true)
		strftime(s, now)
		if d, ok := parseSleep(s); ok && d < 0 {
			t.Fatalf("sleep %q is %v", s, d)
		}
		parseSumLine(s, 64)
		parseTrSet(s)
		globMatcher(s, true)
		parseShellArgs(strings.Fields(s))
		expandOldStyle(append(strings.Fields(s), "x"))
		if dirname(s) == "" {
			t.Fatalf("the directory of %q has no name", s)
		}
		compareVersions(s, "1.2.3")
		compareNumbers(s, "1.5")
		compareHuman(s, "1K")
		statView{name: s, info: rootInfo(t)}.format(s)
	})
}

func rootInfo(t *testing.T) os.FileInfo {
	t.Helper()
	st, err := os.Lstat("/")
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// What rewrite and markExec make of a program is still a program.
func FuzzShellRewrite(f *testing.F) {
	for _, s := range shellScripts {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		file, err := syntax.NewParser().Parse(strings.NewReader(script), "")
		if err != nil {
			t.Skip("no program")
		}
		s := &shell{jobs: newJobTable()}
		s.rewrite(file)
		markExec(file, true)
		var out bytes.Buffer
		if err := syntax.NewPrinter().Print(&out, file); err != nil {
			t.Fatal(err)
		}
		s.rewriteEval([]string{"eval", script})
	})
}

func FuzzTarExtract(f *testing.F) {
	f.Add([]byte("not a tar"))
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			t.Skip("long enough")
		}
		dir := t.TempDir()
		fuzzRun(t, dir, string(data), "tar", "xf", "-")
		fuzzRun(t, dir, string(data), "tar", "tvf", "-")
		fuzzRun(t, dir, string(data), "gunzip", "-c")
	})
}
