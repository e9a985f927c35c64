package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/firecracker"
	"github.com/mvmctl/mvmctl/internal/driver/lima"
	"github.com/mvmctl/mvmctl/internal/driver/qemu"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/nix"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// Where the side in a Lima virtual machine keeps its things. The virtual machine is ours alone.
const (
	linuxDir = "/var/lib/mvmctl"
	linuxRun = "/run/mvmctl"
)

// limaVM is the Lima virtual machine of this user.
func limaVM(state string) *linuxenv.VM {
	return linuxenv.New(linuxenv.Options{
		Limactl: os.Getenv("MVM_LIMACTL"), Instance: os.Getenv("MVM_LIMA_INSTANCE"), Program: linuxProgram, LockDir: state,
		Template: linuxenv.Template{File: os.Getenv("MVM_LIMA_TEMPLATE")},
	})
}

// linuxProgram finds this program built for Linux: itself, or the one that is installed beside it.
func linuxProgram() (string, error) {
	if path := os.Getenv("MVM_LINUX_MVMCTL"); path != "" {
		return path, nil
	}
	exe, err := os.Executable()
	if err == nil && runtime.GOOS != "linux" {
		if exe, err = filepath.EvalSymlinks(exe); err == nil {
			exe = filepath.Join(filepath.Dir(exe), "mvmctl-linux-"+runtime.GOARCH)
			_, err = os.Stat(exe)
		}
	}
	if err != nil {
		return "", machine.Errorf("lima.program", "install mvmctl anew, with mvmctl-linux-"+runtime.GOARCH+" beside it, or set MVM_LINUX_MVMCTL", "there is no mvmctl for Linux to put into the virtual machine: %w", err)
	}
	return exe, nil
}

// serveLinux is the side in a Lima virtual machine: one session, over standard input and output.
func serveLinux() int {
	in, out := os.Stdin, os.Stdout
	// Nothing else of this program may write into the session.
	os.Stdout = os.Stderr
	catch(syscall.SIGHUP, syscall.SIGPIPE)
	log := newLog(os.Stderr)
	// qemu and firecracker find programs of the system's administrator.
	_ = os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	// They are there with a processor that has it; a cloud image loads them only when asked.
	for _, module := range []string{"kvm_intel", "kvm_amd", "vhost_vsock", "tun"} {
		_ = exec.CommandContext(context.Background(), "modprobe", "-q", module).Run()
	}
	h := &lima.Host{
		Dir: linuxDir, Run: linuxRun,
		Drivers: func(probe func(context.Context) (machine.Kernel, string, error)) []driver.Driver {
			return linuxDrivers(probe, log)
		},
		Stopping: stopping,
		Provide: func(ctx context.Context, emulate bool, words io.Writer) error {
			return provide(ctx, emulate, words, log)
		},
	}
	side := linuxenv.Side{Handler: h.Handler(), Build: version, Temp: filepath.Join(linuxDir, "tmp")}
	err := side.Serve(context.Background(), in, out)
	h.Close()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "linux side:", err)
		return 1
	}
	return 0
}

// stopping reports whether the virtual machine is being shut down.
func stopping(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output() // its exit code is not 0 then
	return strings.TrimSpace(string(out)) == "stopping"
}

// linuxDrivers are the backends in the virtual machine, the best one first.
func linuxDrivers(probe func(context.Context) (machine.Kernel, string, error), log *slog.Logger) []driver.Driver {
	cache := filepath.Join(linuxDir, "probes")
	boot := func(ctx context.Context) (vmm.ProbeAssets, error) {
		k, rd, err := probe(ctx)
		return vmm.ProbeAssets{Kernel: k, Initrd: rd}, err
	}
	return []driver.Driver{
		firecracker.New(firecracker.Options{
			CacheDir: cache, InstallDir: filepath.Join(linuxDir, "vmm"), Log: log, BootProbe: boot,
		}),
		qemu.New(qemu.Options{
			CacheDir: cache, Log: log, BootProbe: boot,
		}),
	}
}

// provide fetches Firecracker where there is KVM, and QEMU where there is not, it cannot be fetched, or
// something that emulates is asked for.
func provide(ctx context.Context, emulate bool, words io.Writer, log *slog.Logger) error {
	if _, err := os.Stat("/dev/kvm"); err == nil && !emulate {
		_, _ = io.WriteString(words, "fetching Firecracker\n")
		i, _ := linuxDrivers(nil, log)[0].(driver.Installer)
		err := i.Install(ctx)
		if err == nil {
			return nil
		}
		_, _ = fmt.Fprintf(words, "%v\n", err)
	}
	pkg, program := "qemu-system-x86", "qemu-system-x86_64"
	if runtime.GOARCH == "arm64" {
		pkg, program = "qemu-system-arm", "qemu-system-aarch64"
	}
	if _, err := exec.LookPath(program); err == nil {
		return nil
	}
	for _, args := range [][]string{{"apt-get", "-q", "update"}, {"apt-get", "-q", "-y", "--no-install-recommends", "install", pkg}} {
		_, err := linuxenv.Env{}.Run(ctx, linuxenv.Program{Args: args, Env: []string{"DEBIAN_FRONTEND=noninteractive", "PATH=" + os.Getenv("PATH")}, Stdout: words, Stderr: words})
		if err != nil {
			return machine.Errorf("backend.install", "look at the virtual machine's network: `limactl shell`", "installing %s in the virtual machine: %w", pkg, err)
		}
	}
	if _, err := exec.LookPath(program); err != nil {
		return machine.Errorf("backend.install", "look at the virtual machine's network: `limactl shell`", "installing %s in the virtual machine did not work", pkg)
	}
	return nil
}

// nixLinux is where nix builds guests: on a host that is not Linux and has no nix (one that has may
// know a builder for Linux), in the Lima virtual machine.
func nixLinux(state string) nix.Linux {
	if _, err := exec.LookPath("nix"); err == nil || linuxenv.Native() {
		return nil
	}
	return &inVM{vm: limaVM(state)}
}

// inVM runs programs in the Lima virtual machine, in one session that is opened when it is first
// needed and ends with this process.
type inVM struct {
	vm *linuxenv.VM

	mu      sync.Mutex
	session *linuxenv.Session
}

// env opens the session when there is none yet.
func (l *inVM) env(ctx context.Context) (linuxenv.Env, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == nil {
		s, err := l.vm.Connect(ctx, nil)
		if err != nil {
			return linuxenv.Env{}, err
		}
		l.session = s
	}
	return linuxenv.Env{Session: l.session}, nil
}

// Run implements nix.Linux.
func (l *inVM) Run(ctx context.Context, p linuxenv.Program) (int, error) {
	env, err := l.env(ctx)
	if err != nil {
		return 0, err
	}
	return env.Run(ctx, p)
}

// TempDir implements nix.Linux.
func (l *inVM) TempDir(ctx context.Context) (dir string, done func(), err error) {
	env, err := l.env(ctx)
	if err != nil {
		return "", nil, err
	}
	return env.TempDir(ctx)
}
