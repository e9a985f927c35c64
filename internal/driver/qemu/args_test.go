package qemu

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
		Kernel: machine.Kernel{ID: "k1", Release: "6.1.0", BzImage: "/c/vmlinuz", VMLinux: "/c/vmlinux"},
		Initrd: "/c/initrd.cpio",
		Disks: []machine.Disk{
			{Role: machine.RoleRoot, Path: "/i/root.ext4", ReadOnly: true},
			{Role: machine.RoleUpper, Path: "/m/upper.img"},
			{Role: machine.RoleConfig, Path: "/m/config.img", ReadOnly: true},
		},
	}
}

func TestCommandLine(t *testing.T) {
	inherited := fds{qmp: 3, console: 4, kernel: 5, initrd: 6, disks: []int{7, 8, 9}}
	withVsock := inherited
	withVsock.vsock, withVsock.cid = 10, 4711
	byPath := fds{qmp: 3, console: 4, disks: []int{5, 6, 7}}
	sandboxed := binary{Sandbox: true}
	tests := []struct {
		name  string
		host  host
		fds   fds
		boot  func(*machine.Boot)
		words []string
	}{
		{name: "microvm-tcg", host: host{bin: sandboxed, arch: "amd64", accel: accelTCG, flavor: flavorMicroVM, tscKHz: 2596138}, fds: inherited},
		{name: "microvm-kvm-vsock", host: host{bin: sandboxed, arch: "amd64", accel: accelKVM, flavor: flavorMicroVM}, fds: withVsock},
		{
			name: "q35-tcg-bzimage", host: host{bin: sandboxed, arch: "amd64", accel: accelTCG, flavor: flavorQ35}, fds: inherited,
			boot: func(b *machine.Boot) { b.Kernel.VMLinux = "" },
		},
		{name: "q35-hvf", host: host{arch: "amd64", accel: accelHVF, flavor: flavorQ35}, fds: byPath},
		{name: "virt-hvf", host: host{arch: "arm64", accel: accelHVF, flavor: flavorVirt}, fds: byPath},
		{name: "virt-kvm-vsock", host: host{bin: sandboxed, arch: "arm64", accel: accelKVM, flavor: flavorVirt}, fds: withVsock},
		{
			name: "probe-kvm", host: host{bin: sandboxed, arch: "amd64", accel: accelKVM, flavor: flavorMicroVM}, fds: fds{qmp: 3, console: 4, kernel: 5, initrd: 6},
			boot: func(b *machine.Boot) { b.Disks = nil }, words: []string{vmm.ProbeWord, "loglevel=7"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := goldenBoot()
			if tt.boot != nil {
				tt.boot(&b)
			}
			args, err := commandLine(b, tt.host, tt.fds, tt.words...)
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, tt.name, strings.ReplaceAll(strings.Join(args, " "), " -", "\n-")+"\n")
		})
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
	tests := []struct {
		name string
		boot func(*machine.Boot)
		word string
		code string
	}{
		{"a name that is an option list", func(b *machine.Boot) { b.Name = "a,process=x" }, "", "name.invalid"},
		{"no kernel", func(b *machine.Boot) { b.Kernel = machine.Kernel{} }, "", "boot.kernel_missing"},
		{"no initramfs", func(b *machine.Boot) { b.Initrd = "" }, "", "boot.initrd_missing"},
		{"too many CPUs", func(b *machine.Boot) { b.CPUs = 256 }, "", "input.range"},
		{"too little memory", func(b *machine.Boot) { b.MemoryBytes = 1 << 20 }, "", "input.range"},
		{"a role that is an option list", func(b *machine.Boot) { b.Disks[0].Role = "a,drive=x" }, "", "boot.disk_role"},
		{"a role too long for a serial", func(b *machine.Boot) { b.Disks[0].Role = "abcdefghijklmnopqrst" }, "", "boot.disk_role"},
		{"one role twice", func(b *machine.Boot) { b.Disks[1].Role = machine.RoleRoot }, "", "boot.disk_twice"},
		{"a space", nil, "a b", "input.cmdline"},
		{"a newline", nil, "a\nb", "input.cmdline"},
		{"a quote", nil, `a="b`, "input.cmdline"},
		{"another init", nil, "init=/bin/sh", "input.cmdline"},
		{"another initramfs init", nil, "rdinit=/bin/sh", "input.cmdline"},
		{"the end of the kernel's part", nil, "--", "input.cmdline"},
		{"nothing", nil, "", ""},
		{"too long", nil, strings.Repeat("x", vmm.MaxKernelCommandLine), "input.cmdline"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := goldenBoot()
			if tt.boot != nil {
				tt.boot(&b)
			}
			var words []string
			if tt.word != "" {
				words = []string{tt.word}
			}
			h := host{arch: "amd64", accel: accelTCG, flavor: flavorQ35}
			_, err := commandLine(b, h, fds{disks: []int{7, 8, 9}}, words...)
			if got := machine.CodeOf(err); got != tt.code {
				t.Errorf("code %q, want %q (%v)", got, tt.code, err)
			}
		})
	}
}
