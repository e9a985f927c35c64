package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

func TestKernelCommandLine(t *testing.T) {
	b := everyBoot()[1]
	words := vmm.DriveWords(b, []string{"65", "66", "67", "68", "69"})
	for arch, want := range map[string]string{
		"amd64": "console=ttyS0 quiet panic=-1 mvm.poweroff=reboot reboot=k i8042.noaux i8042.nomux i8042.dumbkbd mvm.drives=root:65,upper:66,config:67,secrets:68,vol-0:69",
		"arm64": "console=ttyS0 quiet panic=-1 mvm.poweroff=reboot mvm.drives=root:65,upper:66,config:67,secrets:68,vol-0:69",
	} {
		got, err := kernelCommandLine(arch, words...)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v\nwant %q", arch, got, err, want)
		}
	}
	for _, bad := range []string{"", "--", "a b", `a="b"`, "init=/bin/sh", "rdinit=x", "a\n", strings.Repeat("x", maxCmdline)} {
		if _, err := kernelCommandLine("amd64", bad); machine.CodeOf(err) != "input.cmdline" {
			t.Errorf("%q: %v, want input.cmdline", vmm.Clip(bad, 20), err)
		}
	}
}

func TestRefusedBoots(t *testing.T) {
	for code, change := range map[string]func(*machine.Boot){
		"input.range":         func(b *machine.Boot) { b.CPUs = maxCPUs + 1 },
		"name.invalid":        func(b *machine.Boot) { b.Name = "-x" },
		"boot.kernel_missing": func(b *machine.Boot) { b.Kernel = machine.Kernel{} },
		"boot.initrd_missing": func(b *machine.Boot) { b.Initrd = "" },
		"boot.disk_twice":     func(b *machine.Boot) { b.Disks = append(b.Disks, b.Disks[0]) },
	} {
		b := everyBoot()[1]
		change(&b)
		if err := checkBoot(b); machine.CodeOf(err) != code {
			t.Errorf("%v, want %s", err, code)
		}
	}
}

func TestVersions(t *testing.T) {
	for text, want := range map[string]string{
		"Firecracker v1.13.1\n\nSupported snapshot data format versions: v4.0.0\n": "1.13.1",
		"Jailer v1.8.0\n":                       "1.8.0",
		"Firecracker v1.14.0-dev":               "1.14.0",
		"Firecracker 1.13.1":                    "",
		"\x1b[31mFirecracker v1.13.1":           "",
		"Firecracker v99999999999999999999.1.1": "",
		"":                                      "",
	} {
		got, ok := parseVersion(text)
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", text, got, ok)
		}
	}
	for version, code := range map[string]string{"1.7.0": "backend.version", "0.25.2": "backend.version", "1.8.0": "", "1.16.1": "", "2.0.0": ""} {
		err := checkVersion(version, "/x")
		if machine.CodeOf(err) != code || code != "" && !errors.Is(err, driver.ErrUnavailable) {
			t.Errorf("%s: %v, want %q", version, err, code)
		}
	}
	for _, tt := range []struct{ version, kernel, code string }{
		{"1.13.1", "6.1.0-56-cloud-amd64", ""}, {"1.13.1", "6.17.3", "backend.version"}, {"1.14.0", "6.18.0", ""}, {"1.13.1", "", ""},
	} {
		if err := checkKernel(tt.version, tt.kernel); machine.CodeOf(err) != tt.code {
			t.Errorf("%s with %s: %v, want %q", tt.version, tt.kernel, err, tt.code)
		}
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Firecracker runs on Linux only, this is " + runtime.GOOS)
	}
	dir := t.TempDir()
	program := func(name, script string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
		return path
	}
	good := program("firecracker", "echo Firecracker v1.16.1")
	closed := filepath.Join(dir, "kvm")
	if err := os.Mkdir(closed, 0o700); err != nil { // what even root cannot open for writing
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name         string
		o            Options
		code, remedy string
	}{
		{"no program", Options{Binary: filepath.Join(dir, "none")}, "backend.missing", "MVM_FIRECRACKER"},
		{"no program file", Options{Binary: dir}, "backend.missing", "MVM_FIRECRACKER"},
		{"program fails", Options{Binary: program("fails", "echo no >&2; exit 3")}, "backend.broken", "MVM_FIRECRACKER"},
		{"another program", Options{Binary: program("other", "echo QEMU 7")}, "backend.version", "releases"},
		{"old", Options{Binary: program("old", "echo Firecracker v1.7.0")}, "backend.version", "1.8.0"},
		{"no device", Options{Binary: good, kvm: filepath.Join(dir, "no-kvm")}, "backend.kvm", "modprobe"},
		{"device does not open", Options{Binary: good, kvm: closed}, "backend.kvm", "dmesg"},
		{"nothing to try with", Options{Binary: good, kvm: os.DevNull, BootProbe: func(context.Context) (vmm.ProbeAssets, error) { return vmm.ProbeAssets{}, errors.New("no kernel") }}, "backend.kvm", "kernel fetch"},
		{"probe does not boot", Options{Binary: good, kvm: os.DevNull, BootProbe: func(context.Context) (vmm.ProbeAssets, error) { return vmm.ProbeAssets{}, nil }}, "backend.kvm", "nested"},
	} {
		_, err := New(tt.o).Probe(t.Context())
		e, ok := errors.AsType[*machine.Error](err)
		if !ok || e.Code != tt.code || !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(e.Remedy, tt.remedy) {
			t.Errorf("%s: %v; code %q, remedy %q; want %q and %q", tt.name, err, machine.CodeOf(err), e.Remedy, tt.code, tt.remedy)
		}
	}
}

func TestProbeWithoutPermission(t *testing.T) {
	if os.Geteuid() == 0 {
		asNobody(t) // root may open everything
		return
	}
	path := filepath.Join(t.TempDir(), "kvm")
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	e, ok := errors.AsType[*machine.Error](vmm.CheckKVM(path))
	if !ok || e.Code != "backend.kvm" || !strings.Contains(e.Remedy, "usermod -aG kvm") || !strings.Contains(e.Remedy, "setfacl") {
		t.Errorf("got %v", e)
	}
}

// asNobody runs the same test as a user without rights.
func asNobody(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "fc") // not t.TempDir, which is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "test-program")
	data, err := os.ReadFile(self)
	if err := errors.Join(err, os.Chmod(dir, 0o777), os.WriteFile(program, data, 0o755)); err != nil { //nolint:gosec // for another user
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func TestJailerArgs(t *testing.T) {
	uid, err := jailUID("0123456789abcdef")
	if err != nil || uid != firstUID+0x0123456789abcdef>>37 {
		t.Fatalf("uid %#x, %v", uid, err)
	}
	for _, bad := range []string{"", "0123456789abcdeg", "0123456789abcdef0", "../../../../../x"} {
		if _, err := jailUID(bad); err == nil {
			t.Errorf("%q is taken for a machine id", bad)
		}
	}
	h := host{bin: binary{Stamp: vmm.Stamp{Path: "/opt/fc/firecracker"}}, jailer: "/opt/fc/jailer", cgroup: true}
	b := everyBoot()[0]
	b.MemoryBytes = 256 << 20
	id := fmt.Sprint(uid)
	want := []string{
		"/bin/sh", "-c", jailScript, "sh", "/run/m/secrets.img", "/m/jail/secrets", "--", "/opt/fc/jailer", "--id", b.ID, "--exec-file", "/opt/fc/firecracker", "--uid", id, "--gid", id,
		"--chroot-base-dir", "/m/jail", "--resource-limit", "no-file=1024",
		"--cgroup-version", "2", "--parent-cgroup", "mvm", "--cgroup", "memory.max=402653184", "--cgroup", "pids.max=17",
		"--", "--api-sock", "/fc.api",
	}
	j := &jail{base: "/m/jail", uid: uid, binds: []string{"/run/m/secrets.img", "/m/jail/secrets"}}
	if d := cmp.Diff(want, jailerArgs(h, b, j)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	h.cgroup = false
	without := slices.Concat(want[:20], want[len(want)-3:])
	if d := cmp.Diff(without, jailerArgs(h, b, j)); d != "" {
		t.Errorf("without control groups (-want +got):\n%s", d)
	}
	for _, arg := range jailerArgs(h, b, j) {
		if strings.Contains(arg, "seccomp") {
			t.Errorf("%q: Firecracker's own filters are to stay on", arg)
		}
	}
}

func TestFaultsBecomeErrors(t *testing.T) {
	b := everyBoot()[0]
	for _, tt := range []struct {
		path, text, code string
	}{
		{"/actions", "Memory backend error: Cannot allocate memory (os error 12)", "limit.memory"},
		{"/boot-source", "The kernel file cannot be opened: No such file", "boot.kernel_invalid"},
		{"/actions", "Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image", "boot.kernel_invalid"},
		{"/drives/root", "Unable to create the virtio block device: Permission denied", "disk.unusable"},
		{"/actions", "Kvm error: Error creating VM object", "backend.kvm"},
		{"/vsock", "something new", "vmm.api"},
	} {
		err := explainFault(b, &fault{Request: request{Method: "PUT", Path: tt.path}, Status: 400, Text: tt.text})
		if err.Code != tt.code || err.Remedy == "" || !strings.Contains(err.Message, tt.text) {
			t.Errorf("%s %q: %s (%s), want %s", tt.path, tt.text, err.Code, err.Message, tt.code)
		}
	}
}

func TestJailsNeedTheControllersOfTheirLimits(t *testing.T) {
	for have, want := range map[string]string{
		"cpuset cpu io memory hugetlb pids rdma misc\n": "",
		"memory":  `"pids"`,
		"cpuset":  `"memory"`,
		"":        `"memory"`,
		"missing": "version 2;",
	} {
		root := t.TempDir()
		if have != "missing" {
			if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte(have), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := lackingControllers(root); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", have, got, want)
		}
	}
}

// Machines are jailed only by the jailer of Firecracker's own release, and by root; why they are
// not is said.
func TestWhichJailerIsUsed(t *testing.T) {
	for name, tt := range map[string]struct {
		script string // "": there is none
		mode   os.FileMode
		uid    int
		note   string // "": it is used
	}{
		"the same release": {"echo Jailer v1.13.1", 0o700, 0, ""},
		"an older one":     {"echo Jailer v1.12.0", 0o700, 0, `is version "1.12.0" and Firecracker 1.13.1`},
		"a newer one":      {"echo Jailer v1.14.0", 0o700, 0, `is version "1.14.0"`},
		"another program":  {"echo hello", 0o700, 0, `is version ""`},
		"one that fails":   {"exit 1", 0o700, 0, `is version ""`},
		"no program":       {"echo Jailer v1.13.1", 0o600, 0, "there is no"},
		"none":             {"", 0, 0, "there is no"},
		"a user's":         {"echo Jailer v1.13.1", 0o700, 1000, "with your own rights"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			jailer := filepath.Join(dir, "jailer")
			if tt.script != "" {
				if err := os.WriteFile(jailer, []byte("#!/bin/sh\n"+tt.script+"\n"), tt.mode); err != nil {
					t.Fatal(err)
				}
			}
			h := host{bin: binary{Stamp: vmm.Stamp{Path: filepath.Join(dir, "firecracker")}, Version: "1.13.1"}}
			New(Options{}).findJailer(t.Context(), &h, tt.uid)
			if (h.jailer == jailer) != (tt.note == "") || h.jailer == "" && !strings.Contains(strings.Join(h.notes, "\n"), tt.note) {
				t.Errorf("jailer %q, notes %q", h.jailer, h.notes)
			}
		})
	}
}
