package drivertest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/process"
)

// jobVar holds the path of a job in the environment of a child of the test.
const jobVar = "MVM_DRIVERTEST_JOB"

// job is what a child process of the test does with the driver.
type job struct {
	Assets Assets
	Dir    string // for its machine
	Hold   bool   // start a machine, say "PID n" and wait to be killed; else a whole life
}

func givenJob(t *testing.T) (job, bool) {
	t.Helper()
	path := os.Getenv(jobVar)
	if path == "" {
		return job{}, false
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var j job
	if err := json.Unmarshal(data, &j); err != nil {
		t.Fatal(err)
	}
	return j, true
}

// runJob is the child's side.
func runJob(t *testing.T, h Harness, j job) {
	s := &suite{Harness: h, assets: j.Assets}
	s.prepare(t)
	g := s.newGuest(t, j.Dir)
	g.start()
	if j.Hold {
		pid, err := g.pid()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("PID %d\n", pid)          //nolint:forbidigo // it is how the parent learns
		_, _ = io.Copy(io.Discard, os.Stdin) // until we are killed
		return
	}
	c := g.connect()
	if out, exit := g.exec(c, nil, "echo", "hello"); out != "hello\n" || exit.Code != 0 {
		t.Errorf("echo: %q, %+v", out, exit)
	}
	g.shutdown(c)
}

// child prepares this test binary to run a job.
func (s *suite) child(t *testing.T, program string, hold bool) *exec.Cmd {
	t.Helper()
	dir, err := os.MkdirTemp(s.assets.Dir, "j")
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(job{Assets: s.assets, Dir: dir, Hold: hold})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.assets.Dir, filepath.Base(dir)+".json")
	if err := os.WriteFile(path, data, 0o644); err != nil { //nolint:gosec // for other users
		t.Fatal(err)
	}
	top, _, _ := strings.Cut(t.Name(), "/")
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^"+top+"$", "-test.v")
	cmd.Env = append(os.Environ(), jobVar+"="+path, "TMPDIR="+dir)
	cmd.Dir = dir
	return cmd
}

// testSupervisorKilled: a SIGKILL of the process that owns a machine leaves no VMM.
func testSupervisorKilled(s *suite, t *testing.T) {
	needLinux(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.child(t, self, true)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	pid, said := 0, ""
	for sc := bufio.NewScanner(stdout); pid == 0 && sc.Scan(); {
		said += sc.Text() + "\n"
		if n, ok := strings.CutPrefix(sc.Text(), "PID "); ok {
			pid, _ = strconv.Atoi(n)
		}
	}
	if pid == 0 {
		t.Fatalf("the child started no machine:\n%s", said)
	}
	vmm, err := process.Identify(pid)
	if err != nil {
		t.Fatalf("the VMM %d: %v", pid, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for deadline := time.Now().Add(10 * time.Second); process.Running(vmm); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			_ = process.Kill(t.Context(), vmm)
			t.Fatal("the VMM outlived its supervisor")
		}
	}
}

// nobody is a user without any rights, on every Linux.
const nobody = 65534

func testUnprivileged(s *suite, t *testing.T) {
	needLinux(t)
	if os.Getuid() != 0 {
		t.Skip("this user is unprivileged already: the other tests have shown it")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(s.assets.Dir, "test-program")
	mustCopy(t, program, self, 0o755)
	cmd := s.child(t, program, false)
	if err := os.Chown(cmd.Dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	become(cmd, nobody)
	cmd.Env = append(cmd.Env, "HOME="+cmd.Dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as user %d: %v\n%s", nobody, err, out)
	} else if strings.Contains(string(out), "--- SKIP") {
		t.Errorf("as user %d:\n%s", nobody, out)
	}
}

// testInherited: a VMM has only the descriptors that the driver gave it or that it opened
// itself, not those that our process happens to have (threats.md A230), and nothing of the
// user's environment (A015).
func testInherited(s *suite, t *testing.T) {
	needLinux(t)
	t.Setenv("QEMU_AUDIO_DRV", "stray")
	t.Setenv("http_proxy", "stray\x1b")
	path := filepath.Join(s.assets.Dir, "stray")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	stray, err := inheritable(f)
	if err != nil {
		t.Fatal(err)
	}
	defer stray()
	g := s.started(t)
	pid, err := g.pid()
	if err != nil {
		t.Skip(err)
	}
	have := descriptors(strconv.Itoa(pid))
	if len(have) < 3 || slices.Contains(have, path) {
		t.Errorf("the VMM has a descriptor of ours, or none at all: %q", have)
	}
	t.Logf("the VMM's descriptors: %q", have)
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		t.Fatal(err)
	}
	if len(env) == 0 || bytes.Contains(env, []byte("stray")) {
		t.Errorf("the VMM has our environment, or none: %q", env)
	}
}
