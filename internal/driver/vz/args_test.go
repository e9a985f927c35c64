package vz

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

var update = flag.Bool("update", false, "rewrite the golden command lines")

// goldenBoot is a machine with every kind of disk.
func goldenBoot() machine.Boot {
	return machine.Boot{
		Name: "web-1", ID: "0123456789abcdef", Generation: 1, CPUs: 2, MemoryBytes: 512 << 20,
		Kernel: machine.Kernel{ID: "k1", Release: "6.1.0", BzImage: "/c/Image.gz", VMLinux: "/c/Image"},
		Initrd: "/c/initrd.cpio",
		Disks: []machine.Disk{
			{Role: machine.RoleRoot, Path: "/i/root.ext4", ReadOnly: true},
			{Role: machine.RoleUpper, Path: "/m/upper.img"},
			{Role: machine.RoleConfig, Path: "/m/config.img", ReadOnly: true},
			{Role: machine.RoleSecrets, Path: "/r/secrets.img", ReadOnly: true},
			{Role: "vol-0", Path: "/Users/A B/data \"1\".img"},
		},
		RuntimeDir: "/tmp/mvm-501/0123456789abcdef",
	}
}

func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		name  string
		boot  func(*machine.Boot)
		words []string
	}{
		{name: "all"},
		{name: "probe", boot: func(b *machine.Boot) { b.Disks = nil; b.CPUs = 1 }, words: []string{vmm.ProbeWord, "loglevel=7"}},
		{name: "paths", boot: func(b *machine.Boot) {
			b.Kernel.VMLinux, b.Initrd = "/Users/A, B/Image", "/Users/A=B/init rd"
			b.Disks = b.Disks[:1]
			b.Disks[0].Path = "/Users/A=B/root.ext4"
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := goldenBoot()
			if tt.boot != nil {
				tt.boot(&b)
			}
			args, err := commandLine(b, kernelOf(b.Kernel, "arm64"), socketsIn(b.RuntimeDir), 8, tt.words...)
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, tt.name, strings.ReplaceAll(strings.Join(args, " "), " --", "\n--")+"\n")
			checkMeaning(t, b, args)
		})
	}
}

// checkMeaning reads a command line back as vfkit does.
func checkMeaning(t *testing.T, b machine.Boot, args []string) {
	t.Helper()
	c, err := parseArgs(args)
	if err != nil {
		t.Fatal(err)
	}
	want := vfkitArgs{
		cpus: b.CPUs, memory: int(b.MemoryBytes >> 20), kernel: b.Kernel.VMLinux, initrd: b.Initrd, cmdline: c.cmdline,
		api: b.RuntimeDir + "/vz.api", rng: true, balloon: true, pty: true,
		vsockPort: 52, vsockPath: b.RuntimeDir + "/vz.agent", vsockConnect: true,
	}
	for _, d := range b.Disks {
		want.disks = append(want.disks, vfkitDisk{path: d.Path, id: d.Serial(), readOnly: d.ReadOnly})
	}
	if d := cmp.Diff(want, c, cmp.AllowUnexported(vfkitArgs{}, vfkitDisk{})); d != "" {
		t.Errorf("what vfkit reads (-want +got):\n%s", d)
	}
	if !strings.HasPrefix(c.cmdline, "console=hvc0 quiet panic=-1") {
		t.Errorf("kernel command line %q", c.cmdline)
	}
}

func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("command line (-golden +got):\n%s", diff)
	}
}

func TestCommandLineRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		boot func(*machine.Boot)
		word string
		code string
	}{
		{"more CPUs than the Mac has", func(b *machine.Boot) { b.CPUs = 9 }, "", "input.range"},
		{"a comma in a disk's path", func(b *machine.Boot) { b.Disks[1].Path = "/a,readonly" }, "", "env.path"},
		{"a quote in the kernel's path", func(b *machine.Boot) { b.Kernel.VMLinux = `/a"b` }, "", "env.path"},
		{"a quote in the initramfs's path", func(b *machine.Boot) { b.Initrd = `/a","cmdline=x` }, "", "env.path"},
		{"a quote in a word", nil, `a="b`, "input.cmdline"},
		{"another init", nil, "init=/bin/sh", "input.cmdline"},
		{"a space in a socket's path", func(b *machine.Boot) { b.RuntimeDir = "/Users/A B" }, "", "env.path"},
		{"a comma in a socket's path", func(b *machine.Boot) { b.RuntimeDir = "/a,b" }, "", "env.path"},
		{"a letter that URLs escape", func(b *machine.Boot) { b.RuntimeDir = "/Users/Ä" }, "", "env.path"},
		{"a question mark", func(b *machine.Boot) { b.RuntimeDir = "/a?b" }, "", "env.path"},
		{"a percent sign", func(b *machine.Boot) { b.RuntimeDir = "/a%20b" }, "", "env.path"},
		{"a long socket path", func(b *machine.Boot) { b.RuntimeDir = "/" + strings.Repeat("x", 100) }, "", "env.path"},
	} {
		b := goldenBoot()
		if tt.boot != nil {
			tt.boot(&b)
		}
		var words []string
		if tt.word != "" {
			words = []string{tt.word}
		}
		if _, err := commandLine(b, kernelOf(b.Kernel, "arm64"), socketsIn(b.RuntimeDir), 8, words...); machine.CodeOf(err) != tt.code {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.code)
		}
	}
}
