package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// limaLab is a lab whose machines run in a Lima virtual machine of its own, which there is not yet.
type limaLab struct {
	*lab
	home string // of the user who has the virtual machine; processes of it are not the lab's
}

const (
	limaInstance = "t"
	limaNobody   = 65534 // limactl refuses root
)

// inLima is a lab with the real limactl, and an image that scripts/lima-image.sh has made.
func inLima(t *testing.T) limaLab {
	t.Helper()
	image := os.Getenv("MVM_LIMA_IMAGE")
	if image == "" {
		image, _ = filepath.Abs("../.tools/lima")
	}
	if _, err := os.Stat(filepath.Join(image, "disk.raw")); err != nil {
		t.Skip("missing: an image for a Lima virtual machine (MVM_LIMA_IMAGE); scripts/lima-image.sh makes it")
	}
	limactl, err := exec.LookPath(cmp.Or(os.Getenv("MVM_LIMACTL"), "limactl"))
	if err != nil {
		t.Skipf("missing: limactl (MVM_LIMACTL): %v", err)
	}
	for _, tool := range []string{"qemu-system-x86_64", "qemu-img", "ssh", "setpriv"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("missing: %s, which limactl needs here", tool)
		}
	}
	switch {
	case runtime.GOARCH != "amd64":
		t.Skip("missing: an image for " + runtime.GOARCH)
	case os.Getuid() != 0:
		t.Skip("missing: root, to make files for another user")
	}
	as := []string{"--reuid", fmt.Sprint(limaNobody), "--regid", fmt.Sprint(limaNobody), "--clear-groups"}
	for _, path := range []string{limactl, filepath.Join(image, "disk.raw")} {
		if exec.CommandContext(t.Context(), "setpriv", append(as, "test", "-r", path)...).Run() != nil {
			t.Skipf("missing: a place for %s that others than root can reach", path)
		}
	}
	l := limaLab{lab: newLab(t, "lima", false)}
	l.ownCache()
	if l.home, err = os.MkdirTemp("", "mvm-lima-*"); err != nil { // short: limactl has sockets there
		t.Fatal(err)
	}
	program, template := filepath.Join(l.home, "limactl"), filepath.Join(l.dir, "template.yaml")
	file := func(name string) string { return filepath.Join(image, name) }
	if err := errors.Join(
		os.Chmod(l.home, 0o755), os.Mkdir(filepath.Join(l.home, "h"), 0o700), os.Chown(filepath.Join(l.home, "h"), limaNobody, limaNobody), //nolint:gosec // for another user
		os.WriteFile(program, fmt.Appendf(nil, "#!/bin/sh\nexec setpriv %s '%s' \"$@\"\n", strings.Join(as, " "), limactl), 0o700), //nolint:gosec // a program
		os.WriteFile(template, fmt.Appendf(nil, `images:
- {location: %q, arch: x86_64, kernel: {location: %q, cmdline: root=/dev/vda rw console=ttyS0 net.ifnames=0}, initrd: {location: %q}}
# A name that begins so has Lima emulate: the KVM of a host for tests is not to be relied on.
cpuType: {x86_64: "qemu64,+svm,+npt,+nrip-save"}
cpus: 2
memory: 3GiB
disk: 6GiB
firmware: {legacyBIOS: true}
`, file("disk.raw"), file("vmlinuz"), file("initrd")), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	l.env = append(l.env, "MVM_LIMACTL="+program, "MVM_LIMA_INSTANCE="+limaInstance, "MVM_LIMA_TEMPLATE="+template,
		"HOME="+l.home+"/h", "LIMA_HOME="+l.home+"/h/l", "USER=nobody", "LOGNAME=nobody")
	t.Cleanup(func() {
		l.limactl("delete", "--force", "--tty=false", limaInstance)
		_ = os.RemoveAll(l.home)
	})
	return l
}

// limactl runs limactl as its user does.
func (l limaLab) limactl(args ...string) {
	l.t.Helper()
	cmd := exec.Command(filepath.Join(l.home, "limactl"), args...)
	cmd.Env, cmd.Dir = l.env, "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Errorf("limactl %q: %v\n%s", args, err, out)
	}
}

// sessions are the processes on this host that connect a machine with the virtual machine.
func (l limaLab) sessions() []string {
	var found []string
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		data, _ := os.ReadFile(path)
		env, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "environ"))
		words := strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
		if bytes.Contains(env, []byte(l.home)) && slices.Contains(words, "linux-side") {
			found = append(found, strings.Join(words, " "))
		}
	}
	return found
}

// backends returns what doctor says of the backends, and how it ended.
func (l limaLab) backends(args ...string) (level, message string, fixed bool, r result) {
	l.t.Helper()
	r = l.run(append([]string{"doctor", "--json"}, args...)...)
	var report struct {
		Checks []struct {
			Name, Level, Message string
			Fixed                bool
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		l.t.Fatalf("doctor: %v\n%v", err, r)
	}
	for _, c := range report.Checks {
		if c.Name == "backends" {
			return c.Level, c.Message, c.Fixed, r
		}
	}
	l.t.Fatalf("doctor says nothing of backends: %v", r)
	return "", "", false, r
}

// TestLima: doctor --fix makes the virtual machine, and has nothing to do then; a machine in it outlives
// `limactl stop` by its disk; and two starts at once start the virtual machine once.
func TestLima(t *testing.T) {
	l := inLima(t)
	level, message, _, r := l.backends()
	if r.code != 1 || level != "fail" || !strings.Contains(message, "there is no Lima instance "+limaInstance) {
		t.Errorf("doctor without a virtual machine: %v", r)
	}
	if r := l.run("up", "-d", "--json", "--name", "m", "minimal"); r.code != 125 || r.errorCode() != "backend.missing" {
		t.Errorf("up without a virtual machine: %v", r)
	}
	if level, message, fixed, r := l.backends("--fix"); r.code != 0 || level != "ok" || !fixed || !strings.Contains(message, "up uses lima") {
		t.Fatalf("doctor --fix: %v", r)
	}
	if level, message, fixed, r := l.backends("--fix"); r.code != 0 || level != "ok" || fixed || !strings.Contains(message, "up uses lima") {
		t.Errorf("doctor --fix once more: %v", r)
	}
	l.must("up", "-d", "--name", "m", "minimal")
	l.must("exec", "m", "--", "sh", "-c", "echo mine >/srv/f; sync")

	l.limactl("stop", limaInstance)
	l.awaitGuest(func() bool { v := l.machine("m"); return v == nil || v.State != "running" })
	if v := l.machine("m"); v == nil || v.State != "failed" || !regexp.MustCompile("the Lima virtual machine was (lost|shut down)").MatchString(v.Problem) {
		t.Errorf("ls after limactl stop: %+v", v)
	}
	if r := l.run("exec", "m", "--", "true"); r.code != 125 {
		t.Errorf("exec after limactl stop: %v", r)
	}
	if left := l.sessions(); len(left) != 0 {
		t.Errorf("sessions after limactl stop: %q", left)
	}
	// Both start the virtual machine; one waits for the other.
	ended := make(chan result, 2)
	go func() { ended <- l.run("up", "-d", "--timeout", "210s", "--name", "m") }() // the virtual machine is emulated
	go func() { ended <- l.run("up", "-d", "--timeout", "210s", "--name", "n", "minimal") }()
	for range cap(ended) {
		if r := <-ended; r.code != 0 {
			t.Errorf("up after limactl stop: %v", r)
		}
	}
	if t.Failed() {
		for _, m := range []string{"m", "n"} {
			for _, log := range []string{"supervisor.log", "vmm.log"} {
				data, _ := os.ReadFile(filepath.Join(l.dir, "state", "machines", m, "logs", log))
				t.Logf("%s of %s: %s", log, m, data)
			}
		}
		t.Fatalf("the virtual machine says: %s", l.inVM("journalctl", "-b", "--no-pager", "-n", "80"))
	}
	if out := l.must("exec", "m", "--", "cat", "/srv/f"); out != "mine\n" {
		t.Errorf("what it wrote before: %q", out)
	}
	l.must("exec", "n", "--", "true")
	l.must("down", "m")

	// Without limactl the disk stays, and goes with the next command that has it.
	gone := []string{"MVM_LIMACTL=" + filepath.Join(l.dir, "no-such")}
	if r := l.with(gone, "rm", "--json", "m"); r.code != 125 || r.errorCode() != "lima.missing" {
		t.Errorf("rm without limactl: %v", r)
	}
	if r := l.with(gone, "rm", "--force", "m"); r.code != 0 || l.machine("m") != nil {
		t.Errorf("rm --force without limactl: %v", r)
	}
	notes := func() []string { n, _ := filepath.Glob(filepath.Join(l.dir, "state", "lima-leftovers", "*")); return n }
	if len(notes()) != 1 {
		t.Errorf("notes of what is left in the virtual machine: %q", notes())
	}
	l.must("rm", "--force", "n")
	if len(notes()) != 0 {
		t.Errorf("notes after a command that uses the virtual machine: %q", notes())
	}
	if out := l.inVM("ls", "/var/lib/mvmctl/machines"); out != "" {
		t.Errorf("disks in the virtual machine: %q", out)
	}
	if left := l.sessions(); len(left) != 0 {
		t.Errorf("sessions: %q", left)
	}
	l.nothingLeft()
}

// inVM runs a program in the virtual machine as root.
func (l limaLab) inVM(args ...string) string {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), filepath.Join(l.home, "limactl"), append([]string{"shell", "--workdir", "/", limaInstance, "sudo", "-n"}, args...)...)
	cmd.Env, cmd.Dir = l.env, "/"
	out, err := cmd.Output()
	if err != nil {
		l.t.Errorf("%q in the virtual machine: %v", args, err)
	}
	return string(out)
}

// limactl refuses root, which is told with what to do instead, before anything is made.
func TestLimaAsRoot(t *testing.T) {
	limactl, err := exec.LookPath(cmp.Or(os.Getenv("MVM_LIMACTL"), "limactl"))
	if err != nil {
		t.Skipf("missing: limactl (MVM_LIMACTL): %v", err)
	}
	if os.Getuid() != 0 {
		t.Skip("missing: root, whom limactl refuses")
	}
	l := newLab(t, "lima", false)
	l.env = append(l.env, "MVM_CACHE_DIR="+filepath.Join(l.dir, "cache"), "MVM_LIMACTL="+limactl, "LIMA_HOME="+filepath.Join(l.dir, "l"), noQEMU)
	l.tooOld("lima", "lima.root", "limactl does not run as root")
	l.nothingLeft()
}
