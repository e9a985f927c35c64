package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/nix"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// TestRunnerConformance runs the suite on machines that a runner of microvm.nix's shape starts,
// built by a real nix from a flake. Its QEMU is this host's, and it boots the suite's kernel with
// the agent.
func TestRunnerConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it boots some forty guests")
	}
	drivertest.Run(t, drivertest.Harness{
		SeesPanic: true,
		New:       func(testing.TB, drivertest.Assets) driver.Driver { return NewRunner(nil) },
		Runner:    builtRunner,
	})
}

// builtRunner builds the runner of the suite's machines with nix, once for all processes of a run.
func builtRunner(t testing.TB, a drivertest.Assets) string {
	t.Helper()
	note := filepath.Join(a.Cache, "runner")
	if path, err := os.ReadFile(note); err == nil {
		return string(path)
	}
	for _, p := range []string{"nix", "bash", qemuName()} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("missing: %s (scripts/dev-setup.sh installs it)", p)
		}
	}
	ownStore(t, filepath.Join(a.Dir, "nix"))
	kernel := a.Kernel.VMLinux
	if kernel == "" {
		kernel = a.Kernel.BzImage
	}
	h := host{arch: runtime.GOARCH, accel: accelTCG}
	New(Options{}).setAccel(&h, accelTCG)
	words, err := kernelCommandLine(h)
	if err != nil {
		t.Fatal(err)
	}
	h.flavor = flavorQ35
	if h.arch == "arm64" {
		h.flavor = flavorVirt
	}
	script := fmt.Sprintf(`set -eou pipefail
runtime_args=$(
echo "''${MVM_QEMU_ARGS:-}"
)

exec -a "microvm@suite" %s -name suite -M '%s,accel=tcg' -m 256M -smp 1 -nodefaults -no-user-config -no-reboot -kernel %s -initrd %s -chardev stdio,id=stdio,signal=off -device virtio-rng-pci -serial chardev:stdio -cpu '%s' -append '%s' -nographic -sandbox on -qmp unix:suite.sock,server,nowait ''${runtime_args:-}
`, mustPath(t, qemuName()), h.flavor, kernel, a.Initrd, cpuModel(h), words)
	flake := filepath.Join(a.Dir, "flake")
	if err := os.Mkdir(flake, 0o755); err != nil { //nolint:gosec // nix reads it
		t.Fatal(err)
	}
	text := strings.NewReplacer("@SCRIPT@", script, "@BASH@", mustPath(t, "bash"), "@PATH@", os.Getenv("PATH"), "@SYSTEM@", nixSystem()).Replace(runnerFlake)
	if err := os.WriteFile(filepath.Join(flake, "flake.nix"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := nix.Options{Flake: flake, Offline: true}
	name, err := nix.FindRunner(t.Context(), o)
	if err != nil || name != "suite" {
		t.Fatalf("the flake's machine is %q, %+v", name, err)
	}
	r, err := nix.BuildRunner(t.Context(), o, name)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	if err := os.WriteFile(note, []byte(r.OutPath), 0o644); err != nil { //nolint:gosec // for other users
		t.Fatal(err)
	}
	return r.OutPath
}

// runnerFlake makes a package of the layout that microvm.nix gives its runners.
const runnerFlake = `{
  outputs = { self }: {
    nixosConfigurations.other.config = { };
    nixosConfigurations.suite.config.microvm.declaredRunner = derivation {
      name = "microvm-qemu-suite";
      system = "@SYSTEM@";
      builder = "@BASH@";
      PATH = "@PATH@";
      script = ''
#!@BASH@
@SCRIPT@'';
      passAsFile = [ "script" ];
      args = [ "-c" ''
        set -e
        mkdir -p $out/bin $out/share/microvm
        cp $scriptPath $out/bin/microvm-run
        chmod +x $out/bin/microvm-run
        echo vnet_hdr >$out/share/microvm/tap-flags
        echo qemu >$out/share/microvm/hypervisor
      '' ];
    };
  };
}
`

// ownStore gives nix a store of its own below dir.
func ownStore(t testing.TB, dir string) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := exec.Command("chmod", "-R", "u+w", dir).CombinedOutput(); err != nil {
			t.Errorf("opening Nix's store: %v: %s", err, out)
		}
	})
	for name, value := range map[string]string{
		"NIX_STORE_DIR": dir + "/store", "NIX_STATE_DIR": dir + "/var", "NIX_LOG_DIR": dir + "/log", "NIX_CONF_DIR": dir + "/conf",
		"XDG_CACHE_HOME": dir + "/cache", "NIX_CONFIG": "build-users-group =\nsandbox = false\nsubstitute = false\nflake-registry =",
	} {
		t.Setenv(name, value)
	}
}

func qemuName() string {
	if runtime.GOARCH == "arm64" {
		return "qemu-system-aarch64"
	}
	return "qemu-system-x86_64"
}

func nixSystem() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64-linux"
	}
	return "x86_64-linux"
}

func mustPath(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip(err)
	}
	return path
}

// TestReadRunner: what a package says of itself decides what can be done with it, and one that
// cannot work here is refused with what to do.
func TestReadRunner(t *testing.T) {
	make := func(script string, files map[string]string) string {
		dir := t.TempDir()
		files["bin/microvm-run"] = script
		for name, text := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	for _, tt := range []struct {
		name, script string
		files        map[string]string
		code         string
		want         runnerPackage
		remedy       string // has it
	}{
		{name: "plain", script: "qemu -M microvm,accel=kvm:tcg,pcie=off -m 1", want: runnerPackage{mmio: true}},
		{name: "with PCI", script: "qemu -M 'microvm,accel=kvm:tcg,pcie=on' -m 1", want: runnerPackage{}},
		{name: "ours", script: "qemu -M q35 $(echo ${" + argsVariable + ":-})", want: runnerPackage{takesArgs: true}},
		{name: "stops", files: map[string]string{"bin/microvm-shutdown": "", "share/microvm/hypervisor": "qemu\n"}, want: runnerPackage{canShutdown: true}},
		{name: "another VMM", files: map[string]string{"share/microvm/hypervisor": "crosvm\n"}, code: "runner.hypervisor"},
		{name: "virtiofs", files: map[string]string{"share/microvm/virtiofs/store/socket": "x.sock\n"}, code: "runner.virtiofs"},
		{name: "no tap", files: map[string]string{"share/microvm/tap-interfaces": "mvm-no-such0\n"}, code: "runner.network", remedy: "ip tuntap add mvm-no-such0"},
		{name: "no macvtap", files: map[string]string{"share/microvm/macvtap-interfaces": "mvm-no-such0 02:00:00:00:00:01 eth0 bridge\n"}, code: "runner.network", remedy: "ip link add link eth0 name mvm-no-such0 address 02:00:00:00:00:01 type macvtap mode bridge"},
	} {
		if tt.files == nil {
			tt.files = map[string]string{}
		}
		dir := make(tt.script, tt.files)
		got, err := readRunner(dir)
		tt.want.dir = dir
		if machine.CodeOf(err) != tt.code || err == nil && got != tt.want {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
		if e, ok := errors.AsType[*machine.Error](err); ok && !strings.Contains(e.Remedy, tt.remedy) {
			t.Errorf("%s: remedy %q", tt.name, e.Remedy)
		}
	}
	var gone *machine.Error
	if _, err := readRunner(filepath.Join(t.TempDir(), "gone")); !errors.As(err, &gone) || gone.Code != "runner.invalid" || gone.Remedy != rebuild {
		t.Errorf("one that is not there any more: %v", err)
	}
	for _, dir := range []string{"", "relative", t.TempDir()} {
		if _, err := readRunner(dir); machine.CodeOf(err) != "runner.invalid" {
			t.Errorf("%q: %v", dir, err)
		}
	}
}

// TestRunnerRemedies: what is wrong with a machine whose flake says what it is, is put right there.
func TestRunnerRemedies(t *testing.T) {
	for words, want := range map[string][2]string{
		"x: cannot set up guest memory 'ram': Cannot allocate memory": {"limit.memory", "microvm.mem"},
		"qemu: could not load kernel '/k'":                            {"boot.kernel_invalid", "boot.kernelPackages"},
		"line 3: luck: command not found":                             {"boot.vmm_died", "words below"},
	} {
		err := inFlake(explain(machine.Boot{}, "ended with exit code 1", words))
		e, ok := errors.AsType[*machine.Error](err)
		if !ok || e.Code != want[0] || !strings.Contains(e.Remedy, want[1]) || strings.Contains(e.Remedy, "--") || strings.HasPrefix(e.Message, "QEMU") {
			t.Errorf("%q: %+v", words, e)
		}
	}
	err := inFlake(vmm.PanicError("Kernel panic - not syncing: System is deadlocked on memory"))
	if e, ok := errors.AsType[*machine.Error](err); !ok || !strings.Contains(e.Remedy, "microvm.mem") || strings.Contains(e.Remedy, "--memory") {
		t.Errorf("%+v", err)
	}
}

// TestRunnerShutdown: a bin/microvm-shutdown that fails says so, with its words, and one that waits for
// the machine's end is not waited for.
func TestRunnerShutdown(t *testing.T) {
	for _, tt := range []struct{ name, script, code, says string }{
		{"fails", "echo no socket to be found >&2; exit 7", "runner.shutdown", "exit code 7: no socket to be found"},
		{"fails and leaves something", "sleep 60 & echo lost; exit 1", "runner.shutdown", "exit code 1: lost"},
		{"asks", "exit 0", "", ""},
		{"waits", "exec sleep 60", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, script := range map[string]string{"microvm-run": "exec sleep 60", "microvm-shutdown": tt.script} {
				path := filepath.Join(dir, "bin", name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			vm, err := NewRunner(nil).Start(t.Context(), machine.Boot{Name: "m", Dir: t.TempDir(), Runner: dir}, driver.Output{})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			begin := time.Now()
			err = vm.Shutdown(ctx)
			if machine.CodeOf(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Shutdown: %v, want %q", err, tt.says)
			}
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("Shutdown took %v", took)
			}
			if err := vm.Kill(); err != nil {
				t.Error(err)
			}
			if err := vm.Wait(); err != nil {
				t.Errorf("Wait after Kill: %v", err)
			}
		})
	}
}
