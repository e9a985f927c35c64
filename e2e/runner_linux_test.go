package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// runnerLab is a lab with flakes that describe machines as microvm.nix does: their runners have its
// layout and are built by a real nix; the QEMU in them is this host's.
type runnerLab struct {
	*flakeLab
	seed machine.Boot // a machine of the lab's: its kernel is the runners' too
}

// image is what the lab's first machine is made of: its root disk and kernel are the runners' too.
func newRunnerLab(t *testing.T, image string) *runnerLab {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the runners of this test are for amd64")
	}
	for _, p := range []string{"bash", "mkfifo", "mkfs.ext4", "truncate"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("missing: %s", p)
		}
	}
	l := &runnerLab{flakeLab: newFlakeLab(t, "qemu")}
	l.must("up", "-d", image, "--name", "seed", "--timeout", "5m")
	data, err := os.ReadFile(filepath.Join(l.dir, "state/machines/seed/boot.json"))
	if err == nil {
		err = json.Unmarshal(data, &l.seed)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.must("rm", "--force", "seed")
	return l
}

// runner is one machine of a flake.
type runner struct {
	before, qemu, shutdown string // lines of the scripts; no shutdown: no such script
	build                  string // more lines of its build
}

// machines writes a flake with machines.
func (l *runnerLab) machines(name string, runners map[string]runner) string {
	l.t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		l.t.Skip(err)
	}
	text := "{ outputs = { self }: { nixosConfigurations = {\n  laptop.config = { };\n"
	for n, r := range runners {
		run := "#!" + bash + "\nset -eou pipefail\n" + r.before + "\nexec -a microvm@" + n + " " + r.qemu + "\n"
		stop := ""
		if r.shutdown != "" {
			stop = "#!" + bash + "\n" + r.shutdown + "\n"
		}
		text += "  " + n + `.config.microvm.declaredRunner = derivation {
    name = "microvm-qemu-` + n + `"; system = "x86_64-linux"; builder = "` + bash + `"; PATH = "` + os.Getenv("PATH") + `";
    run = ` + nixString(run) + `; stop = ` + nixString(stop) + `; passAsFile = [ "run" "stop" ];
    args = [ "-c" ` + nixString("set -e\nmkdir -p $out/bin $out/share/microvm\n"+r.build+`
cp $runPath $out/bin/microvm-run
if [ -s $stopPath ]; then cp $stopPath $out/bin/microvm-shutdown; fi
chmod +x $out/bin/*
echo qemu >$out/share/microvm/hypervisor
`) + ` ];
  };
`
	}
	return l.write(name, map[string]string{"flake.nix": text + "}; }; }\n"})
}

// nixString makes a text one string of Nix's language.
func nixString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `${`, `\${`).Replace(s) + `"`
}

// qemu is a command line of the shape that microvm.nix makes.
func (l *runnerLab) qemu(name, initrd, words, more string) string {
	kernel := l.seed.Kernel.VMLinux
	if kernel == "" {
		kernel = l.seed.Kernel.BzImage
	}
	return "qemu-system-x86_64 -name " + name + " -M 'q35,accel=tcg,mem-merge=on' -m 256M -smp 1 -nodefaults -no-user-config -no-reboot -kernel " + kernel +
		" -initrd " + initrd + " -chardev stdio,id=stdio,signal=off -device virtio-rng-pci -serial chardev:stdio -cpu max" +
		" -append 'console=ttyS0 reboot=t panic=-1 quiet cryptomgr.notests mvm.slow " + words + "' -nographic -sandbox on -qmp unix:" + name + ".sock,server,nowait " + more
}

// withAgent is a machine that takes MVM_QEMU_ARGS and has the agent, the root disk of the lab's first
// machine, and a disk of its own.
func (l *runnerLab) withAgent(name string) runner {
	return runner{
		before: "if [ ! -e upper.img ]; then truncate -s 64M upper.img; mkfs.ext4 -q -L mvm-upper upper.img; fi\nruntime_args=$(\necho \"${MVM_QEMU_ARGS:-}\"\n)",
		qemu: l.qemu(name, l.seed.Initrd, "", "-drive id=vda,format=raw,file="+l.seed.Disks[0].Path+",if=none,read-only=on -device virtio-blk-pci,drive=vda,serial=mvm-root "+
			"-drive id=vdb,format=raw,file=upper.img,if=none -device virtio-blk-pci,drive=vdb,serial=mvm-upper ${runtime_args:-}"),
	}
}

// plainInitrd is a guest without any agent: a shell that says that it is there.
func (l *runnerLab) plainInitrd() string {
	l.t.Helper()
	script := `set -e
mkdir -p root/bin root/proc root/dev; cd root
cp "$1" bin/busybox; ln -sf busybox bin/sh; mknod dev/console c 5 1
printf '#!/bin/sh\necho a plain guest is up\nexec /bin/busybox sleep 100000\n' >init; chmod +x init
find . | cpio -o -H newc >../plain.cpio 2>/dev/null`
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		l.t.Skip("missing: a static busybox")
	}
	cmd := exec.Command("sh", "-c", script, "sh", busybox)
	cmd.Dir = l.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Skipf("missing: what makes an initramfs (as root): %v: %s", err, out)
	}
	return filepath.Join(l.dir, "plain.cpio")
}

// refused runs a command that has to fail with a code.
func (l *runnerLab) refused(code, says string, args ...string) {
	l.t.Helper()
	coded := args[0] == "up" // and others have no --json
	if coded {
		args = append(slices.Clone(args), "--json")
	}
	r := l.run(args...)
	if r.code == 0 || !strings.Contains(r.stderr, says) || coded && !strings.Contains(r.stderr, `"`+code+`"`) {
		l.t.Errorf("%v: %v\nwant %s: %s", args, r, code, says)
	}
	if len(r.stdout)+len(r.stderr) > 8<<10 {
		l.t.Errorf("%v: it says %d bytes", args, len(r.stdout)+len(r.stderr))
	}
}

func (l *runnerLab) consoleSays(name, text string) {
	l.t.Helper()
	l.awaitGuest(func() bool { return strings.Contains(l.run("logs", name, "--source", "console").stdout, text) })
}

const hmp = "rm -f ctl.in ctl.out; mkfifo ctl.in ctl.out\n"

// TestRunnerPlain: a machine of a flake with microvm.nix whose guest has no agent is started,
// shown, logged and stopped; what it lacks it says.
func TestRunnerPlain(t *testing.T) {
	l := newRunnerLab(t, "minimal")
	initrd := l.plainInitrd()
	const pipe = "-chardev pipe,id=hmp,path=ctl -mon chardev=hmp,mode=readline"
	dir := l.machines("vms", map[string]runner{
		"web": {
			before: hmp + "[ -e data.img ] || truncate -s 1M data.img\n(trap '' HUP TERM; sleep 100000) &",
			qemu:   l.qemu("web", initrd, "", pipe), shutdown: "echo quit >ctl.in",
		},
		"stubborn": {qemu: l.qemu("stubborn", initrd, "", ""), shutdown: "sleep 100000"},
		"broken":   {qemu: "false", build: "for i in 1 2 3 4 5 6 7 8 9; do head -c 3000 /dev/zero | tr '\\0' x; echo; done; echo the build is broken; exit 1"},
		"dies":     {before: "echo no such thing as luck >&2; exit 3", qemu: "false"},
	})
	up := func(ref string, more ...string) []string {
		return append([]string{"up", "-d", "--hypervisor", "qemu", "--offline", "--flake", ref}, more...)
	}
	l.refused("nix.choose", "describes 4 machines", up(dir)...)
	l.refused("nix.attribute", "no machine nixosConfigurations.nope", up(dir+"#nope")...)
	l.refused("nix.build", "the build is broken", up(dir+"#broken")...)
	l.refused("boot.vmm_died", "no such thing as luck", up(dir+"#dies", "--name", "dies")...)
	l.refused("runner.setting", "cannot be given", up(dir+"#web", "--cpus", "2")...)
	l.refused("runner.setting", "cannot be given", up(dir+"#web", "-e", "A=1")...)
	l.refused("policy.isolation", "emulated", up(dir+"#web", "--require-isolation", "vm")...)
	l.refused("agent.none", "no port of this machine", up(dir+"#web", "-p", "0:80")...)
	l.refused("runner.missing", "not of images", "up", "-d", "minimal", "--hypervisor", "microvm.nix")
	l.nothingLeft()

	r := l.run(up(dir+"#web", "--name", "web")...)
	if r.code != 0 || !strings.Contains(r.stderr, "runs on this host as you") {
		t.Fatalf("up: %v", r)
	}
	l.consoleSays("web", "a plain guest is up")
	if v := l.machine("web"); v == nil || v.State != "running" || v.Problem != "" || v.Image != dir+"#web" {
		t.Errorf("ls: %+v", v)
	}
	var d struct {
		Driver, Isolation string
		Lacks             []string
		Status            machine.Status
	}
	if err := json.Unmarshal([]byte(l.must("inspect", "web", "--json")), &d); err != nil || d.Driver != "microvm.nix" || d.Isolation != "emulated" ||
		!d.Status.NoAgent || !slices.Contains(d.Lacks, "exec") || !slices.Contains(d.Lacks, "volumes") {
		t.Errorf("inspect: %+v, %v", d, err)
	}
	for _, args := range [][]string{{"exec", "web", "--", "true"}, {"console", "web"}, {"cp", "web:/etc/passwd", "x"}, {"diff", "web"}} {
		l.refused("agent.none", "no agent", args...)
	}
	l.refused("agent.none", "no agent", "forward", "web", "0:80")
	l.refused("backend.pause", "cannot be paused", "pause", "web")
	volume := filepath.Join(l.dir, "state/machines/web/work/data.img")
	if info, err := os.Stat(volume); err != nil || info.Size() != 1<<20 {
		t.Errorf("its volume: %v, %v", info, err)
	}
	l.must(up(dir+"#web", "--name", "web")...) // it runs as asked

	l.must("stop", "web")
	if v := l.machine("web"); v.State != "exited" {
		t.Errorf("after stop: %+v", v)
	}
	if _, err := os.Stat(volume); err != nil || len(l.processes()) > 0 {
		t.Errorf("after stop: %v, %d processes", err, len(l.processes()))
	}
	gc := exec.Command("nix-store", "--gc")
	gc.Env = l.env
	if out, err := gc.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l.must("start", "-d", "web") // its runner is kept, and its backend remembered
	l.killVMM("web")
	l.await(func() bool { return l.machine("web").State == "failed" })
	if v := l.machine("web"); !strings.Contains(v.Problem, "killed by signal 9") {
		t.Errorf("after its end: %+v", v)
	}
	l.must("rm", "--force", "web") // its supervisor may be at its last word

	l.must(up(dir+"#stubborn", "--name", "stubborn")...)
	begun := time.Now()
	l.must("stop", "-t", "1s", "stubborn")
	if v := l.machine("stubborn"); v.State != "exited" || time.Since(begun) > 30*time.Second {
		t.Errorf("after %v: %+v", time.Since(begun), v)
	}
	l.must("rm", "stubborn")
	l.nothingLeft()
}

// TestRunnerWithAgent: a runner that takes MVM_QEMU_ARGS, and whose guest has the agent, gives a
// machine that can be spoken with.
func TestRunnerWithAgent(t *testing.T) {
	l := newRunnerLab(t, "minimal")
	dir := l.machines("vm", map[string]runner{"ours": l.withAgent("ours")})
	l.must("up", "-d", "--hypervisor", "qemu", "--flake", dir, "--offline", "--name", "ours", "-p", "0:7", "--timeout", "5m")
	if out := l.must("exec", "ours", "--", "sh", "-c", "echo kept >/root/x; hostname"); out != "ours\n" {
		t.Errorf("exec: %q", out)
	}
	if out := l.must("diff", "ours"); !strings.Contains(out, "/root/x") {
		t.Errorf("diff: %q", out)
	}
	l.must("cp", "ours:/root/x", filepath.Join(l.dir, "x"))
	if data, err := os.ReadFile(filepath.Join(l.dir, "x")); err != nil || string(data) != "kept\n" {
		t.Errorf("cp: %q, %v", data, err)
	}
	l.must("stop", "ours")
	if v := l.machine("ours"); v.State != "exited" || v.Problem != "" {
		t.Errorf("after stop: %+v", v)
	}
	l.must("start", "-d", "ours")
	if out := l.must("exec", "ours", "--", "cat", "/root/x"); out != "kept\n" {
		t.Errorf("after another start: %q", out)
	}
	l.must("rm", "--force", "ours")
	l.nothingLeft()
}
