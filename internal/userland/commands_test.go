package userland

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestErrorsNameCommandPathAndReason(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "x\n")
	for _, test := range []struct {
		argv []string
		err  string
		code int
	}{
		{[]string{"cat", "nosuch"}, "cat: nosuch: No such file or directory\n", 1},
		{[]string{"cat", "."}, "cat: .: Is a directory\n", 1},
		{[]string{"ls", "nosuch"}, "ls: nosuch: No such file or directory\n", 2},
		{[]string{"head", "nosuch"}, "head: nosuch: No such file or directory\n", 1},
		{[]string{"grep", "x", "nosuch"}, "grep: nosuch: No such file or directory\n", 2},
		{[]string{"grep", "\\(", "file"}, "grep: missing closing ): `(?s)(?:()`\n", 2},
		{[]string{"sort", "nosuch"}, "sort: nosuch: No such file or directory\n", 2},
		{[]string{"sed", "p", "nosuch"}, "sed: can't read nosuch: No such file or directory\n", 2},
		{[]string{"cp", "nosuch", "x"}, "cp: nosuch: No such file or directory\n", 1},
		{[]string{"mv", "nosuch", "x"}, "mv: nosuch: No such file or directory\n", 1},
		{[]string{"rm", "nosuch"}, "rm: nosuch: No such file or directory\n", 1},
		{[]string{"rm", "."}, "rm: refusing to remove '.' or '..' directory: '.'\n", 1},
		{[]string{"rm", "-r", "/"}, "rm: it is dangerous to operate recursively on '/'\n", 1},
		{[]string{"mkdir", "file"}, "mkdir: file: File exists\n", 1},
		{[]string{"mkdir", "a/b"}, "mkdir: a/b: No such file or directory\n", 1},
		{[]string{"rmdir", "file"}, "rmdir: file: Not a directory\n", 1},
		{[]string{"touch", "a/b"}, "touch: a/b: No such file or directory\n", 1},
		{[]string{"chmod", "644", "nosuch"}, "chmod: nosuch: No such file or directory\n", 1},
		{[]string{"chown", "nosuchuser", "file"}, "chown: invalid user: 'nosuchuser'\n", 1},
		{[]string{"sha256sum", "nosuch"}, "sha256sum: nosuch: No such file or directory\n", 1},
		{[]string{"stat", "nosuch"}, "stat: nosuch: No such file or directory\n", 1},
		{[]string{"find", "nosuch"}, "find: nosuch: No such file or directory\n", 1},
		{[]string{"tar", "xf", "nosuch"}, "tar: " + dir + "/nosuch: No such file or directory\n", 2},
		{[]string{"tar", "tf", "file"}, "tar: unexpected EOF in archive\n", 2},
		{[]string{"gunzip", "file"}, "gunzip: file: unknown suffix -- ignored\n", 1},
		{[]string{"gunzip", "-c", "file"}, "gunzip: file: unexpected end of file\n", 1},
		{[]string{"dd", "if=nosuch"}, "dd: failed to open 'nosuch': No such file or directory\n", 1},
		{[]string{"env", "nosuch"}, "env: nosuch: not found\n", 127},
		{[]string{"env", "./file"}, "env: ./file: Permission denied\n", 126},
		{[]string{"xargs", "nosuch"}, "xargs: nosuch: not found\n", 127},
		{[]string{"kill", "999999999"}, "kill: (999999999) - No such process\n", 1},
		{[]string{"kill", "x"}, "kill: (x) - not a process id\n", 1},
		{[]string{"sleep", "x"}, "sleep: invalid time interval 'x'\n", 1},
		{[]string{"test", "1", "-eq", "x"}, "test: x: integer expression expected\n", 2},
		{[]string{"ln", "nosuch", "l"}, "ln: nosuch: No such file or directory\n", 1},
		{[]string{"date", "-d", "nonsense"}, "date: invalid date 'nonsense'\n", 1},
		{[]string{"head", "-n", "x"}, "head: invalid number of lines: 'x'\n", 1},
		{[]string{"ls", "-@"}, "ls: invalid option -- '@'\nusage: ls [-aAlhd1RFpStrinsgoLcu] [FILE]...\n", 2},
		{[]string{"cat", "--nonsense"}, "cat: unrecognized option '--nonsense'\nusage: cat [-nbsETvA] [FILE]...\n", 1},
	} {
		t.Run(strings.Join(test.argv, " "), func(t *testing.T) {
			got := run(t, dir, "", test.argv...)
			if got.err != test.err || got.code != test.code {
				t.Errorf("status %d, %q\nwant %d, %q", got.code, got.err, test.code, test.err)
			}
		})
	}
}

func TestOddFileNames(t *testing.T) {
	for _, name := range []string{"with space", "-dash", "new\nline", "quote'\"", "star*", "ünïcode", "\xff\xfe", "back\\slash", "$dollar", strings.Repeat("n", 255)} {
		t.Run(fmt.Sprintf("%.20q", name), func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, name), "content\n")
			for _, test := range []struct {
				argv []string
				want string
			}{
				{[]string{"cat", "./" + name}, "content\n"},
				{[]string{"cat", "--", name}, "content\n"},
				{[]string{"ls"}, name + "\n"},
				{[]string{"find", ".", "-type", "f"}, "./" + name + "\n"},
				{[]string{"sh", "-c", `for f in *; do cat "./$f"; done`}, "content\n"},
				{[]string{"sh", "-c", `find . -type f -print0 | xargs -0 cat`}, "content\n"},
				{[]string{"sh", "-c", `tar cf - . | (mkdir t; cd t; tar xf - --exclude=t); cat "t/$1"`, "sh", name}, "content\n"},
				{[]string{"sh", "-c", `sha256sum -- "$1" >/tmp/none 2>/dev/null; sha256sum -- "$1" | sha256sum --status -c && echo ok`, "sh", name}, "ok\n"},
				{[]string{"sh", "-c", `cp -- "$1" copy && mv copy "c $1" 2>/dev/null || mv copy c; rm -r -- "$1" t; find . -mindepth 1 -print0 | tr -cd '\000' | wc -c`, "sh", name}, "1\n"},
			} {
				if got := run(t, dir, "", test.argv...); got.out != test.want || got.code != 0 {
					t.Errorf("%.60q: %+v", test.argv, got)
				}
			}
		})
	}
}

// An archive from outside cannot reach out of the directory it is unpacked in.
func TestTarStaysInItsDirectory(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "outside"), "untouched")
	for name, headers := range hostileArchives(dir) {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(dir, "t-"+name)
			if err := os.Mkdir(target, 0o755); err != nil {
				t.Fatal(err)
			}
			run(t, target, archive(t, headers), "tar", "xf", "-")
			if got := read(t, filepath.Join(dir, "outside")); got != "untouched" {
				t.Errorf("the file outside is now %q", got)
			}
			if _, err := os.Lstat(filepath.Join(dir, "new")); err == nil {
				t.Error("a file was made outside")
			}
		})
	}
}

func TestTarKeepsAttributes(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "d/file"), "data")
	write(t, filepath.Join(dir, "d/ro/inner"), "x")
	stamp := time.Unix(1_000_000_000, 0)
	must(t, os.Chmod(filepath.Join(dir, "d/file"), 0o640))
	must(t, os.Link(filepath.Join(dir, "d/file"), filepath.Join(dir, "d/hard")))
	must(t, os.Symlink("file", filepath.Join(dir, "d/soft")))
	must(t, os.Chmod(filepath.Join(dir, "d/ro"), 0o555))
	must(t, os.Chtimes(filepath.Join(dir, "d/file"), stamp, stamp))
	must(t, os.Chtimes(filepath.Join(dir, "d/ro"), stamp, stamp))
	if got := run(t, dir, "", "sh", "-c", "tar czpf a.tgz d && mkdir out && tar xzpf a.tgz -C out"); got.code != 0 || got.err != "" {
		t.Fatalf("%+v", got)
	}
	st, err := os.Stat(filepath.Join(dir, "out/d/file"))
	must(t, err)
	if st.Mode().Perm() != 0o640 || !st.ModTime().Equal(stamp) || st.Sys().(*syscall.Stat_t).Nlink != 2 {
		t.Errorf("file: %v %v", st.Mode(), st.ModTime())
	}
	ro, err := os.Stat(filepath.Join(dir, "out/d/ro"))
	must(t, err)
	if ro.Mode().Perm() != 0o555 || !ro.ModTime().Equal(stamp) {
		t.Errorf("directory: %v %v", ro.Mode(), ro.ModTime())
	}
	if target, err := os.Readlink(filepath.Join(dir, "out/d/soft")); err != nil || target != "file" {
		t.Errorf("link: %q %v", target, err)
	}
	must(t, os.Chmod(filepath.Join(dir, "d/ro"), 0o755))
	must(t, os.Chmod(filepath.Join(dir, "out/d/ro"), 0o755))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCopyPreserves(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a/f"), "data")
	stamp := time.Unix(1_000_000_000, 500)
	must(t, os.Chmod(filepath.Join(dir, "a/f"), 0o751))
	must(t, os.Link(filepath.Join(dir, "a/f"), filepath.Join(dir, "a/g")))
	must(t, os.Chtimes(filepath.Join(dir, "a/f"), stamp, stamp))
	must(t, syscall.Mkfifo(filepath.Join(dir, "a/fifo"), 0o600))
	if got := run(t, dir, "", "cp", "-a", "a", "b"); got.code != 0 || got.err != "" {
		t.Fatalf("%+v", got)
	}
	f, err := os.Stat(filepath.Join(dir, "b/f"))
	must(t, err)
	g, err := os.Stat(filepath.Join(dir, "b/g"))
	must(t, err)
	if f.Mode().Perm() != 0o751 || !f.ModTime().Equal(stamp) || !os.SameFile(f, g) {
		t.Errorf("%v %v, linked %v", f.Mode(), f.ModTime(), os.SameFile(f, g))
	}
	fifo, err := os.Lstat(filepath.Join(dir, "b/fifo"))
	must(t, err)
	if fifo.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("the fifo became %v", fifo.Mode())
	}
}

func TestCopyOfADirectoryIntoItselfEnds(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "d/f"), "x")
	got := run(t, dir, "", "cp", "-r", "d", "d/inner")
	if got.code != 1 || got.err != "cp: cannot copy a directory, 'd', into itself, 'd/inner'\n" {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "d/inner/inner")); err == nil {
		t.Error("the copy was copied again")
	}
}

func TestRemoveDoesNotFollowLinks(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "keep/f"), "x")
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	must(t, os.Symlink("../keep", filepath.Join(dir, "d/link")))
	for _, flags := range []string{"-r", "-rv"} {
		must(t, os.MkdirAll(filepath.Join(dir, "d"), 0o755))
		if got := run(t, dir, "", "rm", flags, "d"); got.code != 0 {
			t.Fatalf("%+v", got)
		}
		if got := read(t, filepath.Join(dir, "keep/f")); got != "x" {
			t.Fatal("what the link leads to is gone")
		}
	}
}

func TestAskingCommandsHeedTheAnswer(t *testing.T) {
	for _, test := range []struct {
		answer string
		argv   []string
		gone   bool
	}{
		{"n\n", []string{"rm", "-i", "f"}, false},
		{"y\n", []string{"rm", "-i", "f"}, true},
		{"", []string{"rm", "-i", "f"}, false},
		{"y\ny\ny\n", []string{"rm", "-ri", "d"}, true},
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "f"), "x")
		write(t, filepath.Join(dir, "d/g"), "x")
		run(t, dir, test.answer, test.argv...)
		_, err := os.Stat(filepath.Join(dir, test.argv[2]))
		if gone := err != nil; gone != test.gone {
			t.Errorf("%v answered %q: gone %v", test.argv, test.answer, gone)
		}
	}
}

func TestSedInPlaceReplacesTheFileAtOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	write(t, path, "a\nb\n")
	must(t, os.Chmod(path, 0o640))
	if got := run(t, dir, "", "sed", "-i.bak", "s/a/x/", "f"); got.code != 0 || got.out != "" {
		t.Fatalf("%+v", got)
	}
	st, err := os.Stat(path)
	must(t, err)
	if got := read(t, path); got != "x\nb\n" || st.Mode().Perm() != 0o640 || read(t, path+".bak") != "a\nb\n" {
		t.Errorf("%q with mode %v", got, st.Mode())
	}
	if got := run(t, dir, "", "sed", "-i", "s/(/x/E", "f"); got.code == 0 || read(t, path) != "x\nb\n" {
		t.Errorf("a bad script: %+v", got)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	if diff := cmp.Diff([]string{path, path + ".bak"}, names); diff != "" {
		t.Errorf("left behind: %s", diff)
	}
}

func TestTailFollowsAGrowingFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	write(t, path, "one\n")
	lines := make(chan string, 10)
	ctx, cancel := contextWithCancel(t)
	done := make(chan int, 1)
	go func() {
		done <- Run(ctx, []string{"tail", "-F", "log"}, dir, nil, Stdio{Out: chanWriter(lines)})
	}()
	await(t, lines, "one\n")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	f.WriteString("two\n")
	f.Close()
	await(t, lines, "two\n")
	must(t, os.Rename(path, path+".1"))
	write(t, path, "three\n")
	await(t, lines, "three\n")
	cancel()
	if code := <-done; code != exitInterrupted {
		t.Errorf("status %d", code)
	}
}

type chanWriter chan<- string

func (c chanWriter) Write(p []byte) (int, error) {
	c <- string(p)
	return len(p), nil
}

func await(t *testing.T, lines <-chan string, want string) {
	t.Helper()
	select {
	case got := <-lines:
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("no %q", want)
	}
}

func TestStatOfTheRunningSystem(t *testing.T) {
	got := run(t, "/", "", "uname", "-s")
	want := map[string]string{"linux": "Linux\n", "darwin": "Darwin\n"}[runtime.GOOS]
	if got.out != want {
		t.Errorf("uname -s: %+v", got)
	}
	if got := run(t, "/", "", "id", "-u"); got.out != fmt.Sprintln(os.Geteuid()) {
		t.Errorf("id -u: %+v", got)
	}
}
