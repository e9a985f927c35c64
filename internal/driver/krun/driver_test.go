package krun

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// script makes a program that stands for the runner, and is none.
func script(t *testing.T, text string) func(context.Context) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runner")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return func(context.Context) (string, error) { return path, nil }
}

// libraryAt makes a file that has only the name of a library.
func libraryAt(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func needLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the driver is for Linux")
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	needLinux(t)
	can := script(t, `echo '{"max_cpus":4}'`)
	kernelless := func(context.Context, driver.KernelChecker) (vmm.ProbeAssets, error) {
		return vmm.ProbeAssets{}, machine.Errorf("boot.kernel_invalid", "run `mvmctl kernel build`", "it reads no devices")
	}
	for _, tt := range []struct {
		name, code, remedy string
		o                  Options
	}{
		{"no KVM", "backend.kvm", "modprobe", Options{kvm: "/no/kvm"}},
		{"nowhere", "backend.missing", "dnf install libkrun", Options{folders: []string{t.TempDir()}}},
		{"the one that was named is not there", "backend.missing", "MVM_LIBKRUN", Options{Library: "/no/libkrun.so"}},
		{"too old by name", "backend.version", floor, Options{Library: libraryAt(t, "libkrun.so.1.16.0"), Runner: can}},
		{"too old by what it has", "backend.version", floor, Options{Library: libraryAt(t, "libkrun.so.1"), Runner: script(t, "echo mvm-krun: x lacks the function krun_add_vsock >&2; exit 1")}},
		{"it does not load", "backend.broken", "MVM_LIBKRUN", Options{Library: libraryAt(t, "libkrun.so.1.17.4"), Runner: script(t, "echo mvm-krun: no libcap-ng.so.0 >&2; exit 1")}},
		{"the runner says nonsense", "backend.broken", "install mvmctl anew", Options{Library: libraryAt(t, "libkrun.so.1.17.4"), Runner: script(t, "echo 3")}},
		{"no runner", "helper.missing", "build", Options{Library: libraryAt(t, "libkrun.so.1.17.4"), Runner: func(context.Context) (string, error) {
			return "", machine.Errorf("helper.missing", "build it", "there is none")
		}}},
		{"no kernel that suits", "backend.kvm", "mvmctl kernel build", Options{Library: libraryAt(t, "libkrun.so.1.17.4"), Runner: can, BootProbe: kernelless}},
	} {
		if tt.o.kvm == "" {
			tt.o.kvm = os.DevNull
		}
		_, err := New(tt.o).Probe(t.Context())
		e, ok := errors.AsType[*machine.Error](err)
		if !ok || e.Code != tt.code || !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(e.Remedy, tt.remedy) {
			t.Errorf("%s: %v (%s); want %s and the remedy %q", tt.name, err, machine.CodeOf(err), tt.code, tt.remedy)
		}
	}
}

// What was found out is not asked again, by another process either, until the library changes.
func TestProbeRemembers(t *testing.T) {
	needLinux(t)
	folder, cache, asked := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "asked")
	file := filepath.Join(folder, "libkrun.so.1.18.0")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink("libkrun.so.1.18.0", filepath.Join(folder, soname))); err != nil {
		t.Fatal(err)
	}
	o := Options{kvm: os.DevNull, CacheDir: cache, folders: []string{t.TempDir(), folder}, Runner: script(t, `echo x >> `+asked+`; echo '{"max_cpus":1024}'`)}
	probe := func(times int) {
		t.Helper()
		caps, err := New(o).Probe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if caps.Version != "1.18.0" || caps.BinaryPath != file || caps.MaxCPUs != maxCPUs || caps.Isolation != driver.IsolationVM || caps.Accelerator != "kvm" {
			t.Errorf("%+v", caps)
		}
		if data, err := os.ReadFile(asked); err != nil || len(data) != 2*times {
			t.Errorf("asked %q times, want %d: %v", data, times, err)
		}
	}
	probe(1)
	probe(1)
	if err := os.WriteFile(file, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	probe(2)
}

func TestKernels(t *testing.T) {
	dir := t.TempDir()
	elf := "\x7fELF" + strings.Repeat("\x02", 100)
	for name, tt := range map[string]struct{ arch, content, code, says string }{
		"good":          {"amd64", elf + mmioParameter, "", ""},
		"no parameter":  {"amd64", elf + "virtio_mmio.device=", "boot.kernel_invalid", "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"},
		"a bzImage":     {"amd64", strings.Repeat("MZ", 100), "boot.kernel_invalid", "vmlinux"},
		"short":         {"amd64", "\x7fELF", "boot.kernel_invalid", ""},
		"good arm64":    {"arm64", strings.Repeat("x", imageMagicAt) + imageMagic + "xxxx", "", ""},
		"an ELF, arm64": {"arm64", elf, "boot.kernel_invalid", "Image"},
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, k := range []machine.Kernel{{VMLinux: path, BzImage: "/none"}, {BzImage: path}} {
			err := New(Options{arch: tt.arch}).SuitsKernel(k)
			if machine.CodeOf(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v, want %q", name, err, tt.code)
			}
		}
	}
	if err := New(Options{arch: "amd64"}).SuitsKernel(machine.Kernel{VMLinux: filepath.Join(dir, "none")}); machine.CodeOf(err) != "boot.kernel_invalid" {
		t.Errorf("a kernel that is not there: %v", err)
	}
}

func TestContains(t *testing.T) {
	mark := []byte(mmioParameter)
	for _, at := range []int{0, 1, 1<<20 - 1, 1<<20 - len(mark)/2, 1 << 20, 1<<20 - len(mark), 2<<20 + 7} {
		data := append(append(make([]byte, at), mark...), 1, 2, 3)
		if ok, err := contains(bytes.NewReader(data), mark); !ok || err != nil {
			t.Errorf("at %d: %v, %v", at, ok, err)
		}
		if ok, err := contains(iotest.OneByteReader(bytes.NewReader(data[:at+len(mark)-1])), mark); ok || err != nil {
			t.Errorf("cut, at %d: %v, %v", at, ok, err)
		}
	}
	if _, err := contains(iotest.ErrReader(os.ErrPermission), mark); !errors.Is(err, os.ErrPermission) {
		t.Errorf("%v", err)
	}
}

// realBoot is a machine whose files are there.
func realBoot(t *testing.T) machine.Boot {
	t.Helper()
	dir := t.TempDir()
	put := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run, err := os.MkdirTemp("", "k") // short, for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	return machine.Boot{
		Name: "x", ID: "0123456789abcdef", CPUs: 1, MemoryBytes: 256 << 20, Initrd: put("initrd", "initrd"), RuntimeDir: run, Dir: dir,
		Kernel: machine.Kernel{VMLinux: put("vmlinux", "\x7fELF"+strings.Repeat("\x02", 100)+mmioParameter)},
		Disks:  []machine.Disk{{Role: machine.RoleRoot, Path: put("root", "r"), ReadOnly: true}, {Role: machine.RoleUpper, Path: put("upper", "u")}},
	}
}

// The runner gets the description, the console and the machine's files as the descriptors that the
// description names, and nothing else.
func TestWhatTheRunnerGets(t *testing.T) {
	needLinux(t)
	b := realBoot(t)
	runner, _ := script(t, fmt.Sprintf(`cat <&%d; echo; for n in 5 6 7 8; do readlink /proc/self/fd/$n; done; ls /proc/$$/fd; echo hello >&%d; exit 3`, 3, consoleFD))(t.Context())
	h := goldenHost("amd64")
	h.runner = runner
	var console bytes.Buffer
	_, err := launch(t.Context(), h, b, driver.Output{Console: &console}, nil, New(Options{}).log)
	e, ok := errors.AsType[*machine.Error](err)
	if !ok || e.Code != "boot.vmm_died" || !strings.Contains(e.Message, "exit code 3") {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{`"library":"/usr/lib64/libkrun.so.1.17.4"`, b.Kernel.VMLinux + "\n" + b.Initrd + "\n" + b.Disks[0].Path + "\n" + b.Disks[1].Path} {
		if !strings.Contains(e.Detail, want) {
			t.Errorf("no %s in %s", want, e.Detail)
		}
	}
	if strings.Contains(e.Detail, "\n9\n") {
		t.Errorf("the runner has more descriptors: %s", e.Detail)
	}
	if console.String() != "hello\n" {
		t.Errorf("console %q", console.String())
	}
}

// How libkrun ends before the machine runs, in its own words.
func TestFailedStarts(t *testing.T) {
	needLinux(t)
	for _, tt := range []struct{ says, code string }{
		{"mvm-krun: krun_set_kernel: invalid argument", "boot.kernel_invalid"},
		{"ERROR Building the microVM failed: ElfLoadKernel(Elf(ReadElfHeader))", "boot.kernel_invalid"},
		{"mvm-krun: krun_add_disk (upper): permission denied", "disk.unusable"},
		{"ERROR Building the microVM failed: Internal(Vm(VmFd(Error(12)))): Cannot allocate memory (os error 12)", "limit.memory"},
		{"ERROR Building the microVM failed: Internal(KvmContext(ApiVersion(3)))", "backend.kvm"},
		{"something else", "boot.vmm_died"},
	} {
		h := goldenHost("amd64")
		h.runner, _ = script(t, "echo '"+tt.says+"' >&2; exit 1")(t.Context())
		b := realBoot(t)
		_, err := launch(t.Context(), h, b, driver.Output{}, nil, New(Options{}).log)
		e, ok := errors.AsType[*machine.Error](err)
		if !ok || e.Code != tt.code || !strings.Contains(e.Message+e.Detail, tt.says) || e.Remedy == "" {
			t.Errorf("%q: %v (%s), want %s", tt.says, err, machine.CodeOf(err), tt.code)
		}
		if entries, err := os.ReadDir(b.RuntimeDir); err != nil || len(entries) > 0 {
			t.Errorf("%q: left %v, %v", tt.says, entries, err)
		}
	}
}

// A runner that does not get anywhere ends with the start.
func TestStartThatIsBrokenOff(t *testing.T) {
	needLinux(t)
	h, b := goldenHost("amd64"), realBoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	h.runner, _ = script(t, `echo started; exec sleep 300`)(t.Context())
	words := writer(func(p []byte) (int, error) { cancel(); return len(p), nil })
	_, err := launch(ctx, h, b, driver.Output{VMM: words}, nil, New(Options{}).log)
	if e, ok := errors.AsType[*machine.Error](err); !ok || e.Code != "boot.vmm_timeout" || e.Exit != machine.ExitInterrupt || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
