package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

func TestProbeWatchAcrossWrites(t *testing.T) {
	lives := 0
	w := NewProbeWatch(func() { lives++ })
	for _, c := range []byte("noise " + probeMark + " more " + probeMark) {
		_, _ = w.Write([]byte{c})
	}
	select {
	case <-w.Seen:
	default:
		t.Error("the mark was not seen")
	}
	if lives == 0 {
		t.Error("no sign of life was reported")
	}
}

// oneWord is a machine that says something on its console and ends.
type oneWord struct {
	driver.VM
	err error
}

func (oneWord) Kill() error   { return nil }
func (o oneWord) Wait() error { return o.err }

// prober makes trials whose guests say, or end as, it is told, and counts them.
type prober struct {
	m       Memory[Trial]
	now     time.Time
	boots   int
	says    string
	untried error // there is nothing to boot
	refused error // the VMM does not start
	dies    error // it starts and ends so
}

func (p *prober) try(t *testing.T, how string) (string, error) {
	t.Helper()
	known := p.m.Load()
	return Probe{
		Binary: Stamp{Path: "/x", Size: 1}, How: how, Known: &known, Keep: func(t Trial) { p.m.Change(func(to *Trial) { *to = t }) },
		Now:    func() time.Time { return p.now },
		Assets: func(context.Context) (ProbeAssets, error) { return ProbeAssets{}, p.untried },
		Launch: func(_ context.Context, _ machine.Boot, out driver.Output, words []string) (driver.VM, error) {
			p.boots++
			if p.refused != nil {
				return nil, p.refused
			}
			_, _ = fmt.Fprintln(out.Console, p.says, words)
			return oneWord{err: p.dies}, nil
		},
	}.Try(t.Context())
}

// A trial is made once, is believed for what it was made with, and is not believed to be made when
// there was nothing to boot.
func TestProbeRemembers(t *testing.T) {
	p := &prober{m: Memory[Trial]{Dir: t.TempDir(), Name: "x"}}
	gone := machine.Errorf("boot.vmm_died", "", "it ended with exit code 1")
	for _, tt := range []struct {
		how, says        string
		untried, refused error
		reason           string
		boots            int
		wantsUntried     bool
	}{
		{"kvm", probeMark, io.EOF, nil, "", 0, true},
		{"kvm", probeMark, nil, nil, "", 1, false},
		{"kvm", "", nil, nil, "", 1, false},
		{"hvf", "", nil, gone, gone.Error(), 2, false},
		{"hvf", probeMark, nil, nil, gone.Error(), 2, false},
	} {
		p.says, p.untried, p.refused = tt.says, tt.untried, tt.refused
		reason, err := p.try(t, tt.how)
		if _, ok := errors.AsType[*UntriedError](err); ok != tt.wantsUntried || !ok && err != nil || reason != tt.reason || p.boots != tt.boots {
			t.Errorf("%+v: %q, %v after %d boots", tt, reason, err, p.boots)
		}
		p.now = p.now.Add(1000 * time.Hour)
	}
}

// What may have been chance is no answer: a host that had no room for the guest was not tried, and a
// guest that was lost is tried again, the sooner the less often it happened.
func TestProbeForgetsChance(t *testing.T) {
	for name, err := range map[string]error{
		"no folder":    io.ErrShortWrite,
		"no process":   machine.Errorf("limit.processes", "stop some", "no process"),
		"no memory":    machine.Errorf("limit.memory", "stop some", "no memory"),
		"wrapped":      fmt.Errorf("starting: %w", machine.Errorf("limit.memory", "stop some", "no memory")),
		"no directory": nil,
	} {
		p := &prober{m: Memory[Trial]{Dir: t.TempDir(), Name: "x"}, refused: err, says: probeMark}
		if err == nil {
			t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "none"))
		}
		_, got := p.try(t, "kvm")
		if untried, ok := errors.AsType[*UntriedError](got); !ok || p.m.Load() != (Trial{}) {
			t.Errorf("%s: %v, remembered %+v", name, got, p.m.Load())
		} else if want := machine.CodeOf(err) != ""; want != (untried.Remedy() == "stop some") {
			t.Errorf("%s: remedy %q", name, untried.Remedy())
		}
		t.Setenv("TMPDIR", "")
		p.refused = nil
		if reason, err := p.try(t, "kvm"); reason != "" || err != nil {
			t.Errorf("%s, then again: %q, %v", name, reason, err)
		}
	}

	for name, p := range map[string]*prober{
		"silent":    {},
		"reset":     {dies: machine.Errorf("guest.reset", "", "it reset itself")},
		"slow":      {refused: machine.Errorf("boot.vmm_timeout", "", "it did not become ready")},
		"killed":    {refused: machine.Errorf("boot.vmm_died", "", "X was killed by signal 9 (killed) before it started")},
		"disk busy": {refused: machine.Errorf("disk.busy", "", "busy")},
	} {
		p.m, p.now = Memory[Trial]{Dir: t.TempDir(), Name: "x"}, time.Unix(1e9, 0)
		lost := func(boots int) {
			t.Helper()
			if reason, err := p.try(t, "kvm"); reason == "" || err != nil || p.boots != boots {
				t.Errorf("%s: %q, %v after %d boots, want %d", name, reason, err, p.boots, boots)
			}
		}
		lost(1)
		p.now = p.now.Add(firstDoubt - time.Second)
		lost(1)
		p.now = p.now.Add(time.Second)
		lost(2) // a second time
		p.now = p.now.Add(2*firstDoubt - time.Second)
		lost(2)
		for range 30 {
			p.now = p.now.Add(lastDoubt)
			lost(p.boots + 1)
		}
		p.now = p.now.Add(-lastDoubt) // the clock was wrong
		lost(p.boots + 1)
		p.now = p.now.Add(lastDoubt)
		p.says, p.dies, p.refused = probeMark, nil, nil
		if reason, err := p.try(t, "kvm"); reason != "" || err != nil {
			t.Errorf("%s, then it boots: %q, %v", name, reason, err)
		}
		if kept := p.m.Load(); !kept.Until.IsZero() || kept.Misses != 0 {
			t.Errorf("%s: a guest that booted is remembered as %+v", name, kept)
		}
	}
}

func TestMemoryOfRubbish(t *testing.T) {
	m := Memory[Trial]{Dir: t.TempDir(), Name: "x"}
	for _, data := range []string{"", "{", `{"how":3}`, strings.Repeat(" ", maxMemory) + `{"how":"x"}`} {
		if err := os.WriteFile(m.path(), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := m.Load(); got != (Trial{}) {
			t.Errorf("%.20q: %+v", data, got)
		}
	}
	m.Change(func(t *Trial) { t.How = "y" })
	if m.Load().How != "y" {
		t.Error("nothing was remembered")
	}
	if none := (Memory[Trial]{}); none.Load() != (Trial{}) {
		t.Error("a memory without a place remembers")
	}
}

func TestCompareVersions(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"1.8.0", "1.13.1", -1}, {"1.8", "1.8.0", 0}, {"6.1.0-56-cloud-amd64", "6.17", -1}, {"6.17.0-rc1", "6.17", 0}, {"6.18", "6.17", 1}, {"", "1", -1}, {"99999999999999999999", "1", 1}} {
		if got := CompareVersions(tt.a, tt.b); got != tt.want {
			t.Errorf("%q, %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestCheckBoot(t *testing.T) {
	for code, change := range map[string]func(*machine.Boot){
		"":                    func(*machine.Boot) {},
		"input.range":         func(b *machine.Boot) { b.CPUs = 9 },
		"name.invalid":        func(b *machine.Boot) { b.Name = "-x" },
		"boot.kernel_missing": func(b *machine.Boot) { b.Kernel = machine.Kernel{} },
		"boot.initrd_missing": func(b *machine.Boot) { b.Initrd = "" },
		"boot.disk_twice":     func(b *machine.Boot) { b.Disks = append(b.Disks, b.Disks[0]) },
	} {
		b := machine.Boot{Name: "x", CPUs: 8, MemoryBytes: 256 << 20, Kernel: machine.Kernel{BzImage: "/k"}, Initrd: "/i", Disks: []machine.Disk{{Role: "root"}}}
		change(&b)
		if err := CheckBoot(b, 8, ""); machine.CodeOf(err) != code {
			t.Errorf("%v, want %q", err, code)
		}
		for _, role := range []machine.Role{"", "Root", "a/b", "a_b", "a,b", "longer-than-a-serial"} {
			b.Disks = []machine.Disk{{Role: role}}
			if err := CheckBoot(b, 8, ""); code == "" && machine.CodeOf(err) != "boot.disk_role" {
				t.Errorf("role %q: %v", role, err)
			}
		}
	}
}

func TestOpenDiskRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.WriteFile(at("disk"), nil, 0o600), os.WriteFile(at("two"), nil, 0o600), os.Link(at("two"), at("names")),
		os.Symlink(at("disk"), at("link")), unix.Mkfifo(at("fifo"), 0o600), os.Mkdir(at("dir"), 0o700))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		readOnly bool
		code     string
	}{
		{"disk", false, ""},
		{"two", true, ""},
		{"two", false, "disk.changed"},
		{"link", true, "disk.changed"},
		{"fifo", true, "disk.changed"},
		{"dir", true, "disk.changed"},
		{"none", true, "disk.missing"},
		{"disk/x", true, "disk.unusable"},
	} {
		f, err := OpenDisk(machine.Disk{Role: machine.RoleUpper, Path: at(tt.name), ReadOnly: tt.readOnly})
		if err == nil {
			_ = f.Close()
		}
		if machine.CodeOf(err) != tt.code {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.code)
		}
	}
	for _, name := range []string{"fifo", "dir", "none"} {
		if _, err := OpenBootFile(at(name)); machine.CodeOf(err) != "boot.kernel_invalid" {
			t.Errorf("%s as a kernel: %v", name, err)
		}
	}
}

func TestChildEnds(t *testing.T) {
	for _, tt := range []struct {
		script, end string
		well        bool
	}{
		{"exit 0", "ended with exit code 0", true},
		{"exit 3", "ended with exit code 3", false},
		{"kill -9 $$", "was killed by signal 9 (killed)", false},
	} {
		c, err := Command{Name: "X", Argv: []string{"/bin/sh", "-c", tt.script}}.Start()
		if err != nil {
			t.Fatal(err)
		}
		<-c.Exited
		if c.End() != tt.end || c.Well() != tt.well || !c.Ended() {
			t.Errorf("%s: %q, well %v", tt.script, c.End(), c.Well())
		}
		if err := c.Kill(); err != nil {
			t.Errorf("Kill after the end: %v", err)
		}
	}
	if _, err := (Command{Name: "X", Argv: []string{"/none/such"}, Remedy: "get it"}).Start(); machine.CodeOf(err) != "backend.missing" {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestSerials(t *testing.T) {
	if got := makeSerial(65024, 0, 246947); got != "650240246947" {
		t.Errorf("got %q", got)
	}
	if got := makeSerial(65024, 0, 12345678901234567890); got != "65024012345678901234" {
		t.Errorf("got %q, which is not cut to %d bytes", got, MaxSerial)
	}
	b := machine.Boot{Disks: []machine.Disk{{Role: "root"}, {Role: "upper"}}}
	if err := CheckSerials("X", b, []string{"1", "2"}); err != nil {
		t.Error(err)
	}
	if err := CheckSerials("X", b, []string{"2", "2"}); machine.CodeOf(err) != "disk.serial" {
		t.Errorf("got %v, want disk.serial", err)
	}
	if got := DriveWords(b, []string{"1", "2"}); len(got) != 1 || got[0] != "mvm.drives=root:1,upper:2" {
		t.Errorf("got %q", got)
	}
	if got := DriveWords(machine.Boot{}, nil); got != nil {
		t.Errorf("got %q for a machine without disks", got)
	}
}

// A guest that does not listen is a connection that ends, one that does is one that answers.
func TestAwaitGuest(t *testing.T) {
	for name, guest := range map[string]func(net.Conn){
		"": func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1<<16))
			_, _ = c.Write([]byte{0x16})
		},
		"it hangs up":       func(net.Conn) {},
		"it hangs up later": func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<16)) },
	} {
		ours, theirs := net.Pipe()
		go func() {
			guest(theirs)
			_ = theirs.Close()
		}()
		if err := AwaitGuest(t.Context(), ours); (name == "") != (err == nil) || err != nil && !errors.Is(err, ErrDeaf) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ours, theirs := net.Pipe()
	defer func() { _ = theirs.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := AwaitGuest(ctx, ours); err == nil {
		t.Error("silence is taken for an answer")
	}
}
