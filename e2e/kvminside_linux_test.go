package e2e

import (
	"cmp"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// kvmQuestions is the place in the KVM host of the image that is asked questions, and of these tests.
const kvmQuestions = "/usr/local/questions"

// addQuestions puts into the host what TestSameAnswersOnEveryBackend needs there: these tests, their
// programs and the image, whose digest it returns; "" when they are not to run.
func addQuestions(t *testing.T, files map[string]string, dir string) string {
	t.Helper()
	if !kvmAll() || !kvmWants(t, "questions") {
		return ""
	}
	test := filepath.Join(dir, "e2e.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", test, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building these tests: %v\n%s", err, out)
	}
	image := filepath.Join(dir, "image")
	at, err := layout.Write(image, empty.Index)
	if err == nil {
		err = at.AppendImage(makeQuestions(t))
	}
	if err != nil {
		t.Fatal(err)
	}
	files[kvmBin+"/e2e.test"] = test
	files[kvmQuestions] = image
	l := newLab(t, "fake", false)
	l.must("image", "pull", "oci:"+image, "-t", questionName)
	return l.imageID(questionName)
}

// questions asks the questions of TestSameAnswersOnEveryBackend where there is KVM.
func (l *kvmLab) questions(t *testing.T) {
	needSteady(t)
	asked := cmp.Or(kvmFilter(), "^(qemu|firecracker)$")
	r := l.run(t, 0, []string{"MVM_E2E_PROGRAMS=" + kvmBin, "MVM_QUESTIONS=oci:" + kvmQuestions, "MVM_QUESTIONS_ID=" + l.questionsID},
		kvmBin+"/e2e.test", "-test.run=^TestSameAnswersOnEveryBackend$/"+asked, "-test.v=test2json", "-test.timeout="+kvmTime().String())
	l.subtests(t, r, "TestSameAnswersOnEveryBackend")
	if kvmFilter() != "" {
		return // what follows is for all of them
	}
	want := map[string]string{"qemu": "vm"}
	switch {
	case l.vmm == "" && l.jailer == "":
		want["firecracker"] = "vm+jail"
	case l.vmm == "":
		want["firecracker"] = "vm"
	}
	for name, isolation := range want {
		if line := name + ", isolation " + isolation + "\n"; !strings.Contains(r.stdout, line) {
			t.Errorf("nothing in its output is %q: that backend was not asked, or has no KVM", line)
		}
	}
}

// jailScript prints what holds a jailed Firecracker, one fact a line.
const jailScript = `set -e
pid=$(pidof firecracker)
set -- $(grep ^Uid: /proc/$pid/status); echo "uid $2 $3"
set -- $(grep ^Gid: /proc/$pid/status); echo "gid $2 $3"
grep -E '^(Seccomp|NoNewPrivs|CapEff|CapPrm):' /proc/$pid/status | tr '\t' ' '
cgroup=$(cut -d: -f3 /proc/$pid/cgroup); echo "cgroup $cgroup"
echo "memory $(cat /sys/fs/cgroup$cgroup/memory.max)"
echo "pids $(cat /sys/fs/cgroup$cgroup/pids.max)"
for ns in pid mnt; do [ "$(readlink /proc/$pid/ns/$ns)" != "$(readlink /proc/self/ns/$ns)" ] && echo "own $ns namespace"; done
echo "root $(ls -a /proc/$pid/root/ | sort | tr '\n' ' ')"
for fd in /proc/$pid/fd/*; do case $(readlink $fd) in */disk-upper*) echo "upper $(stat -L -c %i:%h $fd)";; esac; done
echo "disk $(stat -c %i:%h:%u $HOME/.local/state/mvm/machines/jailed/upper.img)"`

// jail looks at a machine that Firecracker's real jailer holds.
func (l *kvmLab) jail(t *testing.T) {
	if l.vmm != "" {
		t.Skip(l.vmm)
	}
	if l.jailer != "" {
		t.Skip(l.jailer)
	}
	l.up(t, "--name", "jailed", "--hypervisor", "firecracker", "--cpus", "1", "--memory", "192MiB", "--require-isolation", "vm+jail", "minimal")
	defer func() {
		l.must(t, "mvmctl", "rm", "--force", "jailed")
		l.noVMM(t)
	}()
	facts := l.must(t, "sh", "-c", jailScript)
	t.Log(facts)
	fact := map[string]string{}
	for line := range strings.Lines(facts) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		fact[strings.TrimSuffix(key, ":")] += value + ";"
	}
	var id struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(l.must(t, "mvmctl", "inspect", "--json", "jailed")), &id); err != nil || id.ID == "" {
		t.Fatalf("inspect: %v, id %q", err, id.ID)
	}
	// 2^27 users from 0x70000000, by the first bits of the machine's id.
	n, err := strconv.ParseUint(id.ID, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	user := strconv.FormatUint(0x70000000+n>>37, 10)
	inode, _, _ := strings.Cut(fact["disk"], ":")
	for key, want := range map[string]string{
		"uid": user + " " + user + ";", "gid": user + " " + user + ";", "own": "pid namespace;mnt namespace;",
		"Seccomp": "2;", "NoNewPrivs": "1;", "CapEff": "0000000000000000;", "CapPrm": "0000000000000000;",
		"cgroup": "/mvm/" + id.ID + ";", "memory": strconv.Itoa((192+128)<<20) + ";", "pids": "17;",
		"disk": inode + ":1:" + user + ";", "upper": inode + ":1;", // the machine's own disk, lent to its user
	} {
		if fact[key] != want {
			t.Errorf("%s is %q, want %q", key, fact[key], want)
		}
	}
	for name := range strings.FieldsSeq(strings.TrimSuffix(fact["root"], ";")) {
		if slices.Contains([]string{"etc", "usr", "bin", "home", "root", "tmp", "var"}, name) {
			t.Errorf("its root directory has the host's %s", name)
		}
	}
	if out := l.must(t, "mvmctl", "exec", "jailed", "--", "sh", "-c", "echo 42 > /root/f; cat /root/f"); out != "42\n" {
		t.Errorf("exec: %q", out)
	}
	l.must(t, "mvmctl", "down", "jailed")
	if left := l.must(t, "sh", "-c", "cd $HOME/.local/state/mvm/machines/jailed; stat -c %u:%h upper.img; ls; ls -d jail /sys/fs/cgroup/mvm/* 2>/dev/null || true"); !strings.HasPrefix(left, "0:1\n") || strings.Contains(left, "jail\n") || strings.Contains(left, "/sys/fs/cgroup/mvm/"+id.ID) {
		t.Errorf("after it ended: %s", left)
	}
}
