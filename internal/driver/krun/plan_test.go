package krun

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/driver/krun/wire"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

var update = flag.Bool("update", false, "rewrite the golden descriptions")

// goldenBoot is a machine with every kind of disk.
func goldenBoot() machine.Boot {
	return machine.Boot{
		Name: "web-1", ID: "0123456789abcdef", Generation: 1, CPUs: 2, MemoryBytes: 512 << 20,
		Kernel: machine.Kernel{ID: "k1", Release: "6.1.0", BzImage: "/c/vmlinuz", VMLinux: "/c/vmlinux"},
		Initrd: "/c/initrd.cpio",
		Disks: []machine.Disk{
			{Role: machine.RoleRoot, Path: "/i/root.ext4", ReadOnly: true},
			{Role: machine.RoleUpper, Path: "/m/upper.img"},
			{Role: machine.RoleConfig, Path: "/m/config.img", ReadOnly: true},
			{Role: machine.RoleSecrets, Path: "/r/secrets.img", ReadOnly: true},
			{Role: "vol-0", Path: "/home/A B/data \"1\".img"},
		},
		RuntimeDir: "/run/user/1000/mvm/0123456789abcdef",
	}
}

func goldenHost(arch string) host {
	return host{lib: library{Stamp: vmm.Stamp{Path: "/usr/lib64/libkrun.so.1.17.4"}, Version: "1.17.4", MaxCPUs: 8}, runner: "/c/mvm-krun", arch: arch}
}

const goldenSocket = "/run/user/1000/mvm/0123456789abcdef/krun.agent"

func TestDescriptions(t *testing.T) {
	for _, tt := range []struct {
		name, arch string
		boot       func(*machine.Boot)
		words      []string
	}{
		{name: "all", arch: "amd64"},
		{name: "arm64", arch: "arm64", boot: func(b *machine.Boot) { b.MemoryBytes = 8 << 30 }},
		{name: "probe", arch: "amd64", boot: func(b *machine.Boot) { b.Disks = nil; b.CPUs = 1 }, words: []string{vmm.ProbeWord, "loglevel=7"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := goldenBoot()
			if tt.boot != nil {
				tt.boot(&b)
			}
			d, err := describe(b, goldenHost(tt.arch), goldenSocket, []string{"11", "12", "13", "14", "15"}, tt.words...)
			if err != nil {
				t.Fatal(err)
			}
			data, err := d.Encode()
			if err != nil {
				t.Fatal(err)
			}
			read, err := wire.Decode(bytes.NewReader(data))
			if diff := cmp.Diff(d, read); err != nil || diff != "" {
				t.Errorf("the runner reads another machine: %v\n%s", err, diff)
			}
			checkGolden(t, tt.name, data)
		})
	}
}

func checkGolden(t *testing.T, name string, data []byte) {
	t.Helper()
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, data, "", "  "); err != nil {
		t.Fatal(err)
	}
	pretty.WriteByte('\n')
	path := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(path, pretty.Bytes(), 0o644); err != nil { //nolint:gosec // a file of the repository
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if diff := cmp.Diff(string(want), pretty.String()); err != nil || diff != "" {
		t.Errorf("%v; -update accepts:\n%s", err, diff)
	}
}

func TestRefusedBoots(t *testing.T) {
	for _, tt := range []struct {
		code   string
		arch   string
		socket string
		words  []string
		change func(*machine.Boot)
	}{
		{code: "input.range", change: func(b *machine.Boot) { b.CPUs = 9 }},
		{code: "input.range", change: func(b *machine.Boot) { b.MemoryBytes = maxMemory + 1<<20 }},
		{change: func(b *machine.Boot) { b.MemoryBytes = maxMemory }},
		{arch: "arm64", change: func(b *machine.Boot) { b.MemoryBytes = maxMemory + 1<<20 }},
		{code: "name.invalid", change: func(b *machine.Boot) { b.Name = "-x" }},
		{code: "boot.kernel_missing", change: func(b *machine.Boot) { b.Kernel = machine.Kernel{} }},
		{code: "boot.initrd_missing", change: func(b *machine.Boot) { b.Initrd = "" }},
		{code: "boot.disk_twice", change: func(b *machine.Boot) { b.Disks[1] = b.Disks[0] }},
		{code: "env.path", socket: "/" + strings.Repeat("x", 108)},
		{code: "input.cmdline", words: []string{"init=/bin/sh"}},
		{code: "input.cmdline", words: []string{strings.Repeat("x", maxCmdline)}},
	} {
		b, arch, socket := goldenBoot(), "amd64", goldenSocket
		if tt.change != nil {
			tt.change(&b)
		}
		if tt.arch != "" {
			arch = tt.arch
		}
		if tt.socket != "" {
			socket = tt.socket
		}
		_, err := describe(b, goldenHost(arch), socket, []string{"1", "2", "3", "4", "5"}, tt.words...)
		if machine.CodeOf(err) != tt.code {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

// What is not the description of a whole machine is refused by the runner.
func TestDecodeRefuses(t *testing.T) {
	for _, text := range []string{"", "{", "3", `{"library":"x"}`, `{"library":"x","cpus":1,"memory_mib":1,"more":1}`, `{"library":"x","cpus":1,"memory_mib":1,"disks":[{"path":"/x"}]}`} {
		if d, err := wire.Decode(strings.NewReader(text)); err == nil {
			t.Errorf("%q: %+v", text, d)
		}
	}
	long := wire.Description{Library: strings.Repeat("x", 1<<20)}
	if _, err := long.Encode(); err == nil {
		t.Error("a description that no pipe holds is encoded")
	}
}
