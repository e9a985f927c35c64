package config

import (
	"errors"
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

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mvm.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPrecedence: environment over project file over user file over default, and every value
// says where it came from. With adds the strongest of all, a flag.
func TestPrecedence(t *testing.T) {
	user := write(t, "cpus = 2\nmemory = \"1G\"\ndisk = \"1G\"\nkernel = \"6.1\"\n")
	project := write(t, "\n# ours\ncpus = 3\n  memory = '2G' # more\n")
	c, err := Load(Options{User: user, Project: project, Env: func(k string) (string, bool) {
		v, ok := map[string]string{"MVM_CPUS": "4", "MVM_DISK": ""}[k]
		return v, ok
	}})
	if err != nil {
		t.Fatal(err)
	}
	c = c.With("kernel", Value{"6.6", SourceFlag, "--kernel"})
	c = c.With("kernel", Value{"6.5", SourceEnv, "MVM_KERNEL"}) // weaker: no effect
	want := map[string]Value{
		"cpus":       {"4", SourceEnv, "MVM_CPUS"},
		"memory":     {"2G", SourceProject, project + ":4:3"},
		"disk":       {"1G", SourceUser, user + ":3:1"}, // an empty variable is no value
		"kernel":     {"6.6", SourceFlag, "--kernel"},
		"hypervisor": {"auto", SourceDefault, ""},
	}
	for name, v := range want {
		if diff := cmp.Diff(v, c.Value(name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if c.Said("hypervisor") != "" || c.Said("cpus") != "4" {
		t.Errorf("said: hypervisor %q, cpus %q", c.Said("hypervisor"), c.Said("cpus"))
	}
}

// TestMistakes (threats A004, A005, A009): each has a code and a place, quickly and without
// eating memory.
func TestMistakes(t *testing.T) {
	check := func(name, text string) error {
		if name == "memory" && text != "1G" {
			return fmt.Errorf("%q is not a size", text)
		}
		return nil
	}
	nearest := func(name string, all []string) string {
		if name == "memry" && len(all) == len(Keys())+len(projectKeys()) {
			return "memory"
		}
		return ""
	}
	tests := []struct {
		name, text  string
		code, where string // where: what follows the path
		says        string
	}{
		{"unknown key", "cpus = 1\nmemry = \"1G\"\n", "config.unknown_key", ":2:1", `unknown key "memry"`},
		{"unknown table", "[machine]\ncpus = 1\n", "config.unknown_key", ":1:2", `unknown key "machine"`},
		{"dotted key", "a.b = 1\n", "config.unknown_key", ":1:1", `unknown key "a"`},
		{"known name as a table", "[cpus]\nx = 1\n", "config.invalid", ":1:2", "must be a string or an integer"},
		{"bad value", "memory = \"3X\"\n", "config.invalid", ":1:1", `memory: "3X" is not a size`},
		{"empty value", "kernel = \"\"\n", "config.invalid", ":1:1", "the value is empty"},
		{"wrong type", "cpus = 1.5\n", "config.invalid", ":1:1", "must be a string or an integer"},
		{"list", "cpus = [1]\n", "config.invalid", ":1:1", "must be a string or an integer"},
		{"duplicate", "cpus = 1\ncpus = 2\n", "config.invalid", ":2:1", "not TOML"},
		{"huge number", "cpus = 1e400\n", "config.invalid", ":1:", ""},
		{"big integer", "cpus = 99999999999999999999\n", "config.invalid", ":1:", ""},
		{"no value", "cpus =\n", "config.invalid", ":1:", "not TOML"},
		{"bad UTF-8", "cpus = \"\xff\"\n", "config.invalid", ":1:", "not TOML"},
		{"NUL", "cpus = 1\x00\n", "config.invalid", ":1:", "not TOML"},
		{"deep", "cpus = " + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), "config.invalid", ":1:1", "nest deeper"},
		{"deep tables", strings.Repeat("a={", 100_000), "config.invalid", ":1:1", "nest deeper"},
		{"deep below a string", "kernel = \"\"\"[[\n[\"\"\"\n" + "cpus = " + strings.Repeat("[", 40), "config.invalid", ":3:1", "nest deeper"},
		{"large", "#" + strings.Repeat("x", 10<<20), "config.invalid", "", "larger than 1 MiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, tt.text)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := Load(Options{Project: path, Check: check, Nearest: nearest})
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error is %v", err)
			}
			if e.Code != tt.code || !strings.HasPrefix(e.Where, path+tt.where) || !strings.Contains(e.Message, tt.says) || e.Remedy == "" || strings.Contains(e.Message, "\n") {
				t.Errorf("%+v", e)
			}
			if took > time.Second || after.TotalAlloc-before.TotalAlloc > 64<<20 {
				t.Errorf("took %v and %d bytes", took, after.TotalAlloc-before.TotalAlloc)
			}
		})
	}
	_, err := Load(Options{Project: write(t, "memry = 1\n"), Nearest: nearest})
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.Remedy, `did you mean "memory"?`) {
		t.Errorf("no suggestion in %+v", e)
	}
	_, err = Load(Options{Check: check, Env: func(k string) (string, bool) { return "3X", k == "MVM_MEMORY" }})
	if !errors.As(err, &e) || e.Code != "config.invalid" || e.Where != "MVM_MEMORY" {
		t.Errorf("variable: %+v", err)
	}
}

// TestFiles: an absent file is fine; one that is no file, or cannot be read, is said so.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(Options{User: filepath.Join(dir, "none", "config.toml"), Project: filepath.Join(dir, "mvm.toml")}); err != nil {
		t.Errorf("absent files: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, "/dev/null"} {
		var e *Error
		if _, err := Load(Options{Project: path}); !errors.As(err, &e) || e.Code != "input.not_regular" {
			t.Errorf("%s: %v", path, err)
		}
	}
	if os.Geteuid() == 0 {
		return // root may read everything
	}
	path := write(t, "cpus = 1\n")
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	var e *Error
	if _, err := Load(Options{Project: path}); !errors.As(err, &e) || e.Code != "config.unreadable" {
		t.Errorf("unreadable: %v", err)
	}
}

func TestKeys(t *testing.T) {
	for _, k := range Keys() {
		if k.Env != "MVM_"+strings.ToUpper(k.Name) || k.Default == "" || k.Doc == "" || strings.Contains(k.Flag, "_") {
			t.Errorf("%+v", k)
		}
	}
}

// FuzzParse: no file makes the reader panic, and what it accepts is a known key with a text.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"cpus = 1\n", "memory = \"\"\"\nx\"\"\"", "[a]\nb={c=[1]}", "'''", "\"\\", "#", "cpus = 0x1F\n", "\ufeffcpus=1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o := Options{Check: func(string, string) error { return nil }, Nearest: func(string, []string) string { return "" }}
		c, err := parse(Config{}, "f", data, SourceProject, o)
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("%T: %v", err, err)
			}
			return
		}
		for _, k := range Keys() {
			if v := c.Value(k.Name); v.Text == "" {
				t.Errorf("%s is empty: %+v", k.Name, v)
			}
		}
	})
}
