package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What goes wrong is said with its cause, a remedy and the right exit code, and nothing of the
// machine is left.
func TestBadInput(t *testing.T) {
	l := newLab(t, "fake", false)
	empty := filepath.Join(l.dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		env  []string
		args []string
		code int
		says []string // in the cause or the remedy
	}{
		"bad name":          {nil, []string{"up", "-d", "--name", "Bad_Name", "minimal"}, 2, []string{"not a machine name", "lower-case"}},
		"escape in a name":  {nil, []string{"up", "-d", "--name", "a\x1b[31m", "minimal"}, 2, []string{"not a machine name"}},
		"bad size":          {nil, []string{"up", "-d", "-m", "12X", "minimal"}, 2, []string{"512M"}},
		"little memory":     {nil, []string{"up", "-d", "-m", "1M", "minimal"}, 2, []string{"96M"}},
		"bad port":          {nil, []string{"up", "-d", "-p", "99999:1", "minimal"}, 2, []string{"65535"}},
		"unknown image":     {nil, []string{"up", "-d", "minmal"}, 125, []string{"no image", "minimal"}},
		"unknown backend":   {nil, []string{"up", "-d", "--hypervisor", "xen", "minimal"}, 2, []string{"no backend"}},
		"isolation":         {nil, []string{"up", "-d", "--require-isolation", "vm", "minimal"}, 125, []string{"isolates", "doctor"}},
		"unknown machine":   {nil, []string{"exec", "nobody", "--", "true"}, 125, []string{"no machine"}},
		"missing QEMU":      {[]string{"MVM_HYPERVISOR=qemu", "MVM_QEMU=/no/such/qemu"}, []string{"up", "-d", "minimal"}, 125, []string{"qemu"}},
		"a corrupt kernel":  {[]string{"MVM_HYPERVISOR=qemu"}, []string{"up", "-d", "--kernel", empty, "minimal"}, 125, []string{"kernel"}},
		"long runtime path": {[]string{"MVM_RUNTIME_DIR=/tmp/" + strings.Repeat("x", 120)}, []string{"up", "-d", "minimal"}, 125, []string{"MVM_RUNTIME_DIR"}},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(name, "kernel") {
				needQEMU(t)
			}
			r := l.with(tt.env, tt.args...)
			if r.code != tt.code {
				t.Errorf("exit %d, want %d: %v", r.code, tt.code, r)
			}
			for _, word := range tt.says {
				if !strings.Contains(r.stderr, word) {
					t.Errorf("it does not say %q: %v", word, r)
				}
			}
			if strings.ContainsAny(r.stderr, "\x1b") || strings.Contains(r.stderr, "goroutine ") {
				t.Errorf("raw bytes or a stack trace: %q", r.stderr)
			}
			l.nothingLeft()
		})
	}
}

// A guest that misbehaves from its first moment.
func TestHostileGuests(t *testing.T) {
	for fault, tt := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"never-answer": {[]string{"--timeout", "2s"}, 124, []string{"did not answer", "stuck here"}},
		"wrong-key":    {nil, 125, []string{"key"}},
		"die-early":    {nil, 125, []string{"kernel panic: no init found"}},
		"full":         {nil, 125, []string{"no space left"}},
	} {
		t.Run(fault, func(t *testing.T) {
			l := newLab(t, "fake", false)
			r := l.with([]string{"MVM_FAKE_FAULT=" + fault}, append([]string{"up", "-d", "--name", "m", "minimal"}, tt.args...)...)
			if r.code != tt.code {
				t.Errorf("exit %d, want %d: %v", r.code, tt.code, r)
			}
			for _, word := range tt.says {
				if !strings.Contains(r.stderr, word) {
					t.Errorf("it does not say %q: %v", word, r)
				}
			}
			l.nothingLeft()
		})
	}
}

// A console that never stops fills neither the disk nor the way to the guest.
func TestConsoleFlood(t *testing.T) {
	l := newLab(t, "fake", false)
	if r := l.with([]string{"MVM_FAKE_FAULT=flood"}, "up", "-d", "--name", "m", "minimal"); r.code != 0 {
		t.Fatalf("%v", r)
	}
	for range 20 {
		l.must("exec", "m", "--", "true")
	}
	var size int64
	for _, name := range []string{"console.log", "console.log.1"} {
		if info, err := os.Stat(filepath.Join(l.dir, "state/machines/m/logs", name)); err == nil {
			size += info.Size()
		}
	}
	if size == 0 || size > 4<<20 {
		t.Errorf("the console's logs have %d bytes; want some, at most 4 MiB", size)
	}
	l.must("rm", "--force", "m")
	l.nothingLeft()
}

// A sealed machine runs its program and refuses everything else.
func TestSealed(t *testing.T) {
	l := newLab(t, "fake", false)
	l.must("up", "-d", "--name", "m", "--sealed", "minimal")
	for _, args := range [][]string{
		{"exec", "m", "--", "true"}, {"console", "m"}, {"cp", "m:/etc/passwd", l.dir}, {"forward", "m", "0:80"},
	} {
		if r := l.run(args...); r.code != 125 || !strings.Contains(r.stderr, "sealed") {
			t.Errorf("%s: %v", args[0], r)
		}
	}
	l.must("down", "m")
	l.must("rm", "m")
	l.nothingLeft()
}

// One machine whose record is damaged, or was written by a later version, hides no other one
// and is not touched.
func TestDamagedAndNewerRecords(t *testing.T) {
	l := newLab(t, "fake", false)
	for _, name := range []string{"good", "bad", "newer"} {
		l.must("up", "-d", "--name", name, "minimal")
		l.must("down", name)
	}
	edit := func(name string, change func(string) string) string {
		p := filepath.Join(l.dir, "state/machines", name, "record.json")
		_ = os.Remove(p + ".previous")
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		text := change(string(data))
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	edit("bad", func(s string) string { return s[:len(s)/2] })
	path := edit("newer", func(s string) string { return strings.Replace(s, `"schema":1`, `"schema":99`, 1) })
	if n := len(l.list()); n != 3 {
		t.Errorf("ls shows %d of 3", n)
	}
	if v := l.machine("bad"); v == nil || v.State != "corrupt" || v.Problem == "" {
		t.Errorf("ls says %+v", v)
	}
	before, _ := os.ReadFile(path)
	if r := l.run("up", "-d", "--name", "newer"); r.code != 125 || !strings.Contains(r.stderr, "newer mvmctl") {
		t.Errorf("up of a newer record: %v", r)
	}
	if r := l.run("rm", "newer"); r.code != 125 {
		t.Errorf("rm of a newer record: %v", r)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("the newer record was changed")
	}
	if r := l.run("rm", "bad"); r.code != 125 || !strings.Contains(r.stderr, "rm --force bad") {
		t.Errorf("rm of a damaged record: %v", r)
	}
	l.must("rm", "--force", "bad")
	l.must("up", "-d", "--name", "good")
	l.must("rm", "--force", "good")
}
