package userland

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be what the agent's binary is in a guest: a
// program that is a command when it is started under the command's name.
func TestMain(m *testing.M) {
	if Has(commandName(os.Args[0])) {
		os.Exit(Main(os.Args))
	}
	os.Exit(m.Run())
}

// result is what a command did.
type result struct {
	out, err string
	code     int
}

// testEnv is a small environment; without PATH every command is ours.
func testEnv(dir string) []string {
	return []string{"PATH=/nonexistent", "HOME=" + dir, "LC_ALL=C", "TZ=UTC", "PWD=" + dir}
}

// run runs a command inside this process.
func run(t *testing.T, dir, stdin string, argv ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	code := Run(t.Context(), argv, dir, testEnv(dir), Stdio{In: strings.NewReader(stdin), Out: &out, Err: &errOut})
	return result{out.String(), errOut.String(), code}
}

// multicall makes a directory with links to the test binary, one per command,
// as a guest has them in /bin.
func multicall(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, name := range Names() {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

// write makes a file with its parents.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestUnknownCommandIs127(t *testing.T) {
	got := run(t, t.TempDir(), "", "no-such-command")
	if got.code != 127 || got.err != "no-such-command: not found\n" {
		t.Fatalf("got %+v", got)
	}
}

func TestNamesAreSortedUniqueAndKnown(t *testing.T) {
	names := Names()
	for i, name := range names {
		if i > 0 && names[i-1] >= name {
			t.Errorf("%q comes after %q", name, names[i-1])
		}
		if !Has(name) {
			t.Errorf("Has(%q) is false", name)
		}
	}
	if !Has("sh") || !Has("-sh") || Has("no-such-command") || Has("") {
		t.Error("Has is wrong")
	}
}

func TestHelpIsShort(t *testing.T) {
	for _, name := range Names() {
		switch name {
		case "true", "false", "echo", "test", "[": // --help is data to them
			continue
		}
		got := run(t, t.TempDir(), "", name, "--help")
		if got.code != 0 || !strings.HasPrefix(got.out, "usage: "+name) || strings.Count(got.out, "\n") != 1 {
			t.Errorf("%s --help: %+v", name, got)
		}
	}
}

func TestUnknownOptionIsAnError(t *testing.T) {
	for _, name := range Names() {
		switch name {
		// These take any word, or have no options at all.
		case "true", "false", "echo", "test", "[", "expr", "yes", "printf", "kill", "killall", "nohup", "clear", "whoami", "sleep", "dd":
			continue
		}
		got := run(t, t.TempDir(), "", name, "--no-such-option")
		if got.code == 0 || !strings.HasPrefix(got.err, name+": ") {
			t.Errorf("%s --no-such-option: %+v", name, got)
		}
	}
}

func TestEndedContextStopsCommands(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, argv := range [][]string{{"yes"}, {"sleep", "100"}, {"cat", "/dev/zero"}, {"sh", "-c", "while :; do :; done"}, {"find", "/proc"}, {"dd", "if=/dev/zero"}} {
		var out bytes.Buffer
		code := Run(ctx, argv, "/", nil, Stdio{Out: &out, Err: &out})
		if code == 0 || out.Len() > 64<<10 {
			t.Errorf("%v: status %d after %d bytes", argv, code, out.Len())
		}
	}
}

// runFor runs a command with a time limit and returns its status.
func runFor(t *testing.T, limit time.Duration, argv ...string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return Run(ctx, argv, t.TempDir(), []string{"PATH=/nonexistent"}, Stdio{})
}
