package e2e

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/e2e/kvmhost"
	"github.com/mvmctl/mvmctl/e2e/kvmhost/wire"
	"github.com/mvmctl/mvmctl/internal/driver/krun"
	"github.com/mvmctl/mvmctl/internal/kernel"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// kvmTime bounds one command in the KVM host, where all guests are emulated twice.
func kvmTime() time.Duration {
	if kvmAll() {
		return 25 * time.Minute
	}
	return 10 * time.Minute
}

// kvmQuick are the conformance tests that run there with all the others: those whose code depends
// on the accelerator and the transport. `just kvmhost` runs them all, which takes minutes.
const kvmQuick = "^TestConformance$/^(life|second dial|power-off from inside|kernel panic|VMM killed from outside|supervisor killed|unprivileged)$"

// kvmAll reports whether there is time for everything.
func kvmAll() bool { return os.Getenv("MVM_KVMHOST") == "all" }

// kvmFilter is the part of -run that chooses among the tests inside, as in `just kvmhost qemu/life`.
func kvmFilter() string {
	parts := strings.SplitN(flag.Lookup("test.run").Value.String(), "/", 3)
	if len(parts) < 3 {
		return ""
	}
	return parts[2]
}

// kvmWants reports whether -run chooses a subtest of TestKVMHost. What one needs may be dear.
func kvmWants(t *testing.T, name string) bool {
	t.Helper()
	parts := strings.Split(flag.Lookup("test.run").Value.String(), "/")
	if len(parts) < 2 {
		return true
	}
	match, err := regexp.MatchString(parts[1], strings.ReplaceAll(name, " ", "_"))
	if err != nil {
		t.Fatal(err)
	}
	return match
}

// kvmLab is a KVM host with our programs in it.
type kvmLab struct {
	host *kvmhost.Host
	// Why there is no Firecracker, no jailer and no libkrun; "" where there is.
	vmm, jailer, noKrun string
	krun                string // path of libkrun in the host
	questionsID         string // of the image with the questions, "" when nobody asks them
}

// The places of things in the host.
const (
	kvmBin   = "/usr/local/mvm"     // our programs
	kvmJail  = "/usr/local/fc"      // Firecracker with its jailer
	kvmPlain = "/usr/local/fcplain" // without
	kvmCache = "/var/cache/mvm"
	kvmKrun  = "/usr/local/krun"      // libkrun
	kvmBuilt = "/var/cache/mvm-built" // with a kernel that libkrun can boot
)

// newKVMLab boots a KVM host.
func newKVMLab(t *testing.T) *kvmLab {
	t.Helper()
	p, err := paths.Find(os.Getenv, os.Geteuid())
	if err != nil {
		t.Skipf("missing: a cache folder: %v", err)
	}
	programs.once.Do(programs.make)
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	k, err := kernel.New(p.Cache).Find(t.Context(), "")
	if err != nil {
		t.Skipf("missing: a guest kernel: %v", err)
	}
	files := map[string]string{kvmBin + "/mvmctl": programs.plain, kvmBin + "/mvm-agent": programs.agent}
	folder := filepath.Dir(k.BzImage)
	if k.BzImage == "" {
		folder = filepath.Dir(k.VMLinux)
	}
	files[kvmCache+"/kernels/"+filepath.Base(folder)] = folder
	built := t.TempDir()
	for _, name := range []string{"qemu", "firecracker", "krun"} {
		test := filepath.Join(built, name+".test")
		build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", test, "../internal/driver/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building the tests of %s: %v\n%s", name, err, out)
		}
		files[kvmBin+"/"+name+".test"] = test
	}
	l := &kvmLab{}
	l.vmm, l.jailer = addFirecracker(files)
	l.questionsID = addQuestions(t, files, built)
	l.krun, l.noKrun = addLibkrun(t, files, kernel.New(p.Cache))
	begin := time.Now()
	l.host, err = kvmhost.Start(t.Context(), kvmhost.Options{CacheDir: filepath.Join(p.Cache, "test"), Files: files})
	if missing, ok := errors.AsType[kvmhost.MissingError](err); ok {
		t.Skip(missing)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.host.Close)
	t.Logf("the KVM host booted in %v", time.Since(begin).Round(time.Second/10))
	return l
}

// addFirecracker puts a Firecracker of this machine into the host, and says what is missing of it.
func addFirecracker(files map[string]string) (vmm, jailer string) {
	path := os.Getenv("MVM_FIRECRACKER")
	if path == "" {
		path, _ = exec.LookPath("firecracker")
	}
	if path == "" || !isFile(path) {
		return "missing: firecracker on PATH or in MVM_FIRECRACKER", "missing: jailer beside firecracker"
	}
	files[kvmPlain+"/firecracker"] = path
	if needsLoader(path) {
		return "", "missing: a firecracker that is linked statically, as its releases are: " + path + " finds no libraries in a jail"
	}
	files[kvmJail+"/firecracker"] = path
	beside := filepath.Join(filepath.Dir(path), "jailer")
	if !isFile(beside) {
		return "", "missing: jailer beside " + path
	}
	files[kvmJail+"/jailer"] = beside
	return "", ""
}

// addLibkrun puts a libkrun of this machine into the host, its runner and a kernel that it can boot, and
// says what is missing of it.
func addLibkrun(t *testing.T, files map[string]string, kernels *kernel.Store) (path, missing string) {
	t.Helper()
	library, err := filepath.EvalSymlinks(os.Getenv("MVM_LIBKRUN"))
	if err != nil || !isFile(library) {
		return "", "missing: libkrun in MVM_LIBKRUN (scripts/libkrun.sh fetches it)"
	}
	all, err := kernels.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fits := krun.New(krun.Options{})
	i := slices.IndexFunc(all, func(k kernel.Kernel) bool {
		return fits.SuitsKernel(machine.Kernel{VMLinux: k.VMLinux}) == nil
	})
	if i < 0 {
		return "", "missing: a kernel that libkrun can boot (`mvmctl kernel build` makes one)"
	}
	runner := filepath.Join(t.TempDir(), krun.RunnerName)
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", runner, "../cmd/"+krun.RunnerName)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the runner: %v\n%s", err, out)
	}
	folder := filepath.Dir(all[i].VMLinux)
	for _, cache := range []string{kvmBuilt, kvmCache} {
		files[cache+"/kernels/"+filepath.Base(folder)] = folder
	}
	files[kvmBin+"/"+krun.RunnerName] = runner // beside mvmctl, which looks for it there when it has none inside
	path = kvmKrun + "/" + filepath.Base(library)
	files[path] = library
	return path, ""
}

// needsLoader reports whether a program is linked dynamically.
func needsLoader(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false // it says so itself when it is started
	}
	defer func() { _ = f.Close() }()
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// run runs a command in the host to its end.
func (l *kvmLab) run(t *testing.T, uid uint32, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kvmTime())
	defer cancel()
	home := "/tmp/home" + fmt.Sprint(uid)
	c := wire.Command{Args: args, Dir: "/", UID: uid, Env: append([]string{
		"PATH=" + kvmBin + ":" + kvmJail + ":" + kvmPlain + ":/usr/local/bin:/usr/sbin:/usr/bin", "HOME=" + home, "MVM_CACHE_DIR=" + kvmCache,
		"MVM_AGENT=" + kvmBin + "/mvm-agent", "MVM_DRIVERTEST_PATIENCE=5m", "MVM_DRIVERTEST_FLOOD=40",
	}, env...)}
	var out, errOut bytes.Buffer
	code, err := l.host.Run(ctx, c, io.MultiWriter(&out, progress{t}), &errOut)
	if errors.Is(err, kvmhost.ErrStuck) && !strings.Contains(out.String(), "--- FAIL") {
		t.Skipf("missing: a KVM host that does not stand still: %v", err)
	}
	if err != nil {
		t.Fatalf("%q: %v\n%s%s", args, err, out.String(), errOut.String())
	}
	return result{stdout: out.String(), stderr: errOut.String(), code: code}
}

// must runs a command in the host that has to succeed, as root, and returns what it printed.
func (l *kvmLab) must(t *testing.T, args ...string) string {
	t.Helper()
	r := l.run(t, 0, nil, args...)
	if r.code != 0 {
		t.Fatalf("%q: %v", args, r)
	}
	return r.stdout
}

// TestKVMHost runs on a host with a real KVM, which this machine need not be.
func TestKVMHost(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it boots machines in a machine")
	}
	l := newKVMLab(t)
	t.Run("qemu", func(t *testing.T) {
		needSteady(t)
		l.conform(t, "qemu.test", "MVM_QEMU_ACCEL=kvm")
	})
	t.Run("firecracker", func(t *testing.T) {
		if l.vmm != "" {
			t.Skip(l.vmm)
		}
		l.conform(t, "firecracker.test", "MVM_FIRECRACKER="+kvmPlain+"/firecracker")
	})
	t.Run("firecracker with jailer", func(t *testing.T) {
		if l.vmm != "" {
			t.Skip(l.vmm)
		}
		if l.jailer != "" {
			t.Skip(l.jailer)
		}
		l.conform(t, "firecracker.test", "MVM_FIRECRACKER="+kvmJail+"/firecracker")
	})
	t.Run("jail", l.jail)
	t.Run("questions", l.questions)
	t.Run("libkrun", func(t *testing.T) {
		if l.noKrun != "" {
			t.Skip(l.noKrun)
		}
		l.conform(t, "krun.test", "MVM_LIBKRUN="+l.krun, "MVM_KRUN_RUNNER="+kvmBin+"/"+krun.RunnerName, "MVM_CACHE_DIR="+kvmBuilt)
	})
	t.Run("libkrun life", l.krunLife)
	t.Run("life", l.life)
	t.Run("without permission", l.withoutPermission)
	t.Run("many at once", func(t *testing.T) {
		needSteady(t)
		l.manyAtOnce(t, 2)
		l.manyAtOnce(t, 20)
	})
}

// needSteady skips what boots so many guests that one of them may be lost, and takes minutes.
func needSteady(t *testing.T) {
	t.Helper()
	if !kvmAll() {
		t.Skip("missing: a KVM that loses no guest; `just kvmhost` tries it with the emulated one")
	}
}

// up starts a machine in the host. When its guest is lost the rest of the test is skipped by name.
func (l *kvmLab) up(t *testing.T, args ...string) {
	t.Helper()
	l.upWith(t, nil, args...)
}

func (l *kvmLab) upWith(t *testing.T, env []string, args ...string) {
	t.Helper()
	r := l.run(t, 0, env, append([]string{"mvmctl", "up", "-d"}, args...)...)
	switch {
	case r.code == 0:
	case strings.Contains(r.stderr, "did not answer within") || strings.Contains(r.stderr, "reset itself while it booted"):
		t.Skipf("missing: a KVM host that keeps its guests: %s", strings.TrimSpace(r.stderr))
	default:
		t.Fatalf("up %q: %v", args, r)
	}
}

// life takes a machine through its life as somebody would who has KVM and says nothing of it.
func (l *kvmLab) life(t *testing.T) {
	doctor := l.must(t, "mvmctl", "doctor")
	t.Log(doctor)
	want := "up uses qemu ("
	if l.vmm == "" {
		want = "up uses firecracker ("
	}
	if reason := regexp.MustCompile(`a test guest did not boot with (kvm|KVM) \((it said nothing for [^)]*|it did not get there in [^)]*|the guest reset itself while it booted)\)`).FindString(doctor); reason != "" && !strings.Contains(doctor, "kvm, vm") {
		// Seldom, QEMU's emulation of SVM loses a nested guest for good. Nothing of ours runs then.
		t.Skipf("missing: a KVM host that keeps its guests: %s", reason)
	}
	if !strings.Contains(doctor, want) || !strings.Contains(doctor, "kvm, vm") {
		t.Errorf("doctor does not say %q with kvm, isolation vm", want)
	}
	begin := time.Now()
	l.up(t, "--name", "box", "--require-isolation", "vm", "minimal")
	t.Logf("up: %v", time.Since(begin).Round(time.Second/10))
	begin = time.Now()
	if out := l.must(t, "mvmctl", "exec", "box", "--", "sh", "-c", "echo $((6 * 7)) > /root/f; cat /root/f"); out != "42\n" {
		t.Errorf("exec: %q", out)
	}
	t.Logf("exec: %v", time.Since(begin).Round(time.Second/100))
	if r := l.run(t, 0, nil, "mvmctl", "exec", "box", "--", "sh", "-c", "exit 7"); r.code != 7 {
		t.Errorf("exit 7: %v", r)
	}
	l.must(t, "mvmctl", "down", "box")
	l.up(t, "--name", "box")
	if out := l.must(t, "mvmctl", "exec", "box", "--", "cat", "/root/f"); out != "42\n" {
		t.Errorf("after down and up: %q", out)
	}
	l.must(t, "mvmctl", "rm", "--force", "box")
	l.noVMM(t)
}

// krunLife takes a machine of libkrun through its life. The cache's default kernel is not for it.
func (l *kvmLab) krunLife(t *testing.T) {
	if l.noKrun != "" {
		t.Skip(l.noKrun)
	}
	env := []string{"MVM_LIBKRUN=" + l.krun}
	must := func(args ...string) string {
		t.Helper()
		r := l.run(t, 0, env, args...)
		if r.code != 0 {
			t.Fatalf("%q: %v", args, r)
		}
		return r.stdout
	}
	begin := time.Now()
	l.upWith(t, env, "--name", "krun", "--hypervisor", "libkrun", "--require-isolation", "vm", "minimal")
	t.Logf("up: %v", time.Since(begin).Round(time.Second/10))
	if out := must("mvmctl", "exec", "krun", "--", "sh", "-c", "echo $((6 * 7)) > /root/f; cat /root/f"); out != "42\n" {
		t.Errorf("exec: %q", out)
	}
	must("mvmctl", "pause", "krun")
	must("mvmctl", "resume", "krun")
	must("mvmctl", "down", "krun")
	l.upWith(t, env, "--name", "krun")
	if out := must("mvmctl", "exec", "krun", "--", "cat", "/root/f"); out != "42\n" {
		t.Errorf("after down and up: %q", out)
	}
	if doctor := must("mvmctl", "doctor"); !strings.Contains(doctor, "libkrun (1.17.4, kvm, vm), with --hypervisor libkrun") && strings.Contains(l.krun, "1.17.4") {
		t.Errorf("doctor does not tell of libkrun: %s", doctor)
	}
	must("mvmctl", "rm", "--force", "krun")
	l.noVMM(t)
}

// noVMM fails the test when a VMM or a supervisor runs in the host.
func (l *kvmLab) noVMM(t *testing.T) {
	t.Helper()
	if r := l.run(t, 0, nil, "sh", "-c", "ps | grep -E '[q]emu-system|[f]irecracker|[m]vm-krun|[m]vmctl supervise'"); r.stdout != "" {
		t.Errorf("left in the host: %s", r.stdout)
	}
}

// withoutPermission: KVM is there, works, and may not be opened by this user.
func (l *kvmLab) withoutPermission(t *testing.T) {
	const nobody = 65534
	home := fmt.Sprint("/tmp/home", nobody)
	l.must(t, "sh", "-c", "chmod 0600 /dev/kvm && mkdir -p "+home+"/cache && ln -sf "+kvmCache+"/kernels "+home+"/cache/ && chown -R nobody "+home)
	defer l.must(t, "chmod", "0666", "/dev/kvm")
	env := []string{"MVM_CACHE_DIR=" + home + "/cache", "MVM_FIRECRACKER=" + kvmPlain + "/firecracker"}
	doctor := l.run(t, nobody, env, "mvmctl", "doctor")
	t.Log(doctor.stdout)
	for _, want := range []string{"/dev/kvm may not be opened by you", "sudo usermod -aG kvm $USER"} {
		if !strings.Contains(doctor.stdout, want) {
			t.Errorf("doctor does not say %q: %v", want, doctor)
		}
	}
	for _, c := range []struct {
		code string
		env  []string
		args []string
	}{
		{"backend.kvm", nil, []string{"--hypervisor", "firecracker"}},
		{"backend.accel", []string{"MVM_QEMU_ACCEL=kvm"}, []string{"--hypervisor", "qemu"}},
		{"policy.isolation", nil, []string{"--require-isolation", "vm"}},
	} {
		r := l.run(t, nobody, append(c.env, env...), append([]string{"mvmctl", "up", "-d", "--json", "--name", "no", "minimal"}, c.args...)...)
		if r.code != 125 || !strings.Contains(r.stderr, `"code":"`+c.code+`"`) || !strings.Contains(r.stderr, "/dev/kvm may not be opened by you") {
			t.Errorf("%q: want exit 125, %s and the reason: %v", c.args, c.code, r)
		}
	}
	if r := l.run(t, nobody, env, "mvmctl", "ls", "-a", "--json"); strings.TrimSpace(r.stdout) != "[]" {
		t.Errorf("left of what was refused: %v", r)
	}
	l.noVMM(t)
}

// manyAtOnce starts several machines at the same time, of which each answers.
func (l *kvmLab) manyAtOnce(t *testing.T, n int) {
	t.Helper()
	const script = `i=0
while [ $i -lt "$1" ]; do
	mvmctl up -d --name m$i --memory 128MiB --timeout 10m minimal >/dev/null 2>/tmp/many-$i || echo "up m$i: $(cat /tmp/many-$i)" &
	i=$((i+1))
done
wait
i=0
while [ $i -lt "$1" ]; do
	mvmctl exec m$i -- hostname
	i=$((i+1))
done`
	begin := time.Now()
	var want string
	for i := range n {
		want += fmt.Sprintf("m%d\n", i)
	}
	if out := l.must(t, "sh", "-c", script, "sh", fmt.Sprint(n)); out != want {
		t.Errorf("%q, want %q", out, want)
	}
	t.Logf("%d machines up, each answering: %v", n, time.Since(begin).Round(time.Second))
	l.must(t, "sh", "-c", "i=0; while [ $i -lt $1 ]; do mvmctl rm --force m$i; i=$((i+1)); done", "sh", fmt.Sprint(n))
	l.noVMM(t)
}
